"""What the ear learns from: rows of users' words, joined and disturbed as spectra, which costs no waveform.

A clip is turned into spectra once (as it is, and as other speakers by resampling). A row then takes pieces of a
voice's clips, cut between their words, or whole clips with pauses, changes loudness, room, band and noise, and brings
the words and phones that it tells. The same words in ever new company: a word can't be guessed from its neighbours.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter
from tqdm import tqdm

from aizuchi.train.order import keyed_generator
from recipes.mini.clips import Clip, ClipLibrary
from recipes.mini.codec_data import kept_apart
from recipes.mini.heard import OTHER, HeardWords, plain
from recipes.mini.labels import FRAME_RATE, frame_shares
from recipes.mini.listening import held_out_runs
from recipes.mini.noise import draw_noise
from recipes.mini.spectrum import BANDS, HOP, STEPS, band_centres, mel_power
from recipes.mini.splices import LENGTHS
from recipes.mini.timing import RATE, USER_LEVEL, Spoken, level, resample
from recipes.mini.voices import ASSISTANT, HIBARI_FACTORS, OTHER_FACTORS, check_user

PACE = RATE / HOP  # spectra a second
TEMPOS = (0.8, 1.25)  # of rows: speed of speech at the same pitch
WARPS = (0.87, 1.15)  # of rows: a shorter or longer throat
NOISE = (3.0, 30.0)  # dB by which it is below users
WARPED = 0.6  # share of rows that have one
SHARES = {"spliced": 55, "whole": 35, "assistant": 10}
# Of rows, by the engine that speaks in them: where an engine has few voices these are heard more often.
ENGINES = {"kokoro": 60, "hibari": 11, "flite": 14, "pico": 10, "festival": 5}
UNKNOWN = -1


@dataclass
class HeardClip:
    """A clip as spectra.

    Attributes:
        power: (T, BANDS) float16, natural logarithms. words: (class, start, end), in spectra. phones: (phone, start,
            end) in spectra; None where nobody tells. exact: whether the words' times are the engine's own.
    """

    power: np.ndarray
    words: list[tuple[int, float, float]]
    phones: list[tuple[str, float, float]] | None
    exact: bool


@dataclass
class Row:
    """power: (F * STEPS, BANDS) float32. words: (F,) classes at the frame of a word's end, 0 for none. shares: (F,
    CLASSES) of phones, NaN where nobody tells them. own: whether the assistant speaks.
    """

    power: np.ndarray
    words: np.ndarray
    shares: np.ndarray
    own: bool


def heard_clip(spoken: Spoken, heard: HeardWords) -> HeardClip:
    """Spectra of a clip, its words by the classes of `heard`."""
    power = mel_power(spoken.audio).clamp(min=1e-8).log().numpy().astype(np.float16)
    words = []
    for word, start, end in spoken.words:
        if plain(word):
            words.append((int(heard.class_of(word)), start * PACE, end * PACE))
    phones = [(p, s * PACE, e * PACE) for p, s, e in spoken.phones] or None
    return HeardClip(power, words, phones, spoken.exact)


class EarRows:
    """Rows by their number; what is at a number follows from seed and number alone.

    Args:
        library: the clip cache. lines: the assistant's, spoken. heard: the words to tell. frames: of a row.
        validation: take the clips that training leaves out, undisturbed. takes: how often a clip is there, each time
            as another speaker.
    """

    def __init__(
        self,
        library: ClipLibrary,
        lines: list[Spoken],
        heard: HeardWords,
        frames: int,
        seed: int = 0,
        validation: bool = False,
        takes: int = 2,
    ):
        self.frames, self.seed, self.validation = frames, seed, validation
        everything: list[tuple[str, Clip]] = []
        for voice in library.voices:
            clips = [c for kinds in library.by_voice[voice].values() for c in kinds]
            everything += [(voice, c) for c in clips if kept_apart(c.name) is validation]
        found: dict[str, list[HeardClip]] = defaultdict(list)
        for voice, clip in tqdm(everything, desc="spectra", unit="clip", leave=False):
            rng = random.Random(f"{seed}/{clip.name}")
            spoken = level(clip.read(), USER_LEVEL)
            for take in range(1 if validation else takes):
                factor = _factor(rng, voice, take)
                check_user(voice, factor)
                found[voice].append(heard_clip(resample(spoken, factor), heard))
        self.voices: dict[str, list[HeardClip]] = dict(found)
        self.names = sorted(self.voices)
        self.weights = voice_weights({voice: len(clips) for voice, clips in self.voices.items()})
        self.lines = [heard_clip(line, heard) for line in lines]
        self.places = {voice: _places(clips) for voice, clips in self.voices.items()}
        runs = ([heard.class_of(word) for word in run.split()] for run in held_out_runs())
        self.refused = {tuple(run) for run in runs if OTHER not in run}

    def row(self, number: int) -> Row:
        """Row `number`."""
        generator = keyed_generator(self.seed, "ear-valid" if self.validation else "ear", number)
        rng = random.Random(int(generator.integers(1 << 62)))
        kinds = {k: v for k, v in SHARES.items() if k != "assistant" or self.lines}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        tempo = warp = 1.0
        if not self.validation and kind != "assistant":
            tempo = rng.uniform(*TEMPOS) if rng.random() < 0.5 else 1.0
            warp = rng.uniform(*WARPS) if rng.random() < WARPED else 1.0
        canvas = _Canvas(self.frames, tempo)
        if kind == "assistant":
            while canvas.at < canvas.length:
                canvas.add(rng.choice(self.lines))
                canvas.at = -(-canvas.at // STEPS) * STEPS + STEPS * rng.randint(0, 10)
            return canvas.row(own=True)
        voice = rng.choices(self.names, self.weights)[0]
        canvas.at = rng.randint(0, 60)
        if kind == "spliced" and self.places[voice]:
            words, weights = zip(*((w, len(p) ** 0.5) for w, p in self.places[voice].items()))
            said: list[int] = []
            refused = 0
            while canvas.at < canvas.length:
                clip, at = rng.choice(self.places[voice][rng.choices(words, weights)[0]])
                length = min(1 + rng.choices(range(len(LENGTHS)), LENGTHS)[0], len(clip.words))
                first = rng.randint(max(0, at - length + 1), min(at, len(clip.words) - length))
                joined = said + [word for word, _, _ in clip.words[first : first + length]]
                if ends_in(joined, self.refused, len(joined) - len(said)):
                    refused += 1  # a held-out question's words, by chance
                    if refused == 200:  # of a voice that says hardly anything else
                        break
                    continue
                said = joined[-10:]
                canvas.add(clip, first, first + length)
                canvas.at += rng.randint(0, 6) if rng.random() < 0.95 else rng.randint(20, 100)
        else:
            while canvas.at < canvas.length:
                canvas.add(rng.choice(self.voices[voice]))
                canvas.at += rng.randint(5, 40) if rng.random() < 0.7 else rng.randint(40, 250)
        row = canvas.row(own=False)
        if not self.validation:
            row.power = masked(disturbed(warped(row.power, warp), rng, generator), rng)
        return row

    def batch(self, step: int, size: int) -> dict[str, torch.Tensor]:
        """power (B, F * STEPS, BANDS), words (B, F), shares (B, F, CLASSES) and own (B,) of step `step`."""
        rows = [self.row(step * size + i) for i in range(size)]
        return {
            "power": torch.from_numpy(np.stack([r.power for r in rows])),
            "words": torch.from_numpy(np.stack([r.words for r in rows])),
            "shares": torch.from_numpy(np.stack([r.shares for r in rows])),
            "own": torch.tensor([r.own for r in rows]),
        }


class _Canvas:
    """A row in the making: silence at first, `at` is where the next piece begins.

    Times are those of the pieces; the row as it comes out is `tempo` times as fast.
    """

    def __init__(self, frames: int, tempo: float = 1.0):
        self.frames, self.tempo, self.at = frames, tempo, 0
        self.length = round(frames * STEPS * tempo)
        self.power = np.zeros((self.length, BANDS), np.float32)
        self.words: list[tuple[int, float]] = []  # classes and ends
        self.phones: list[tuple[str, float, float]] = []
        self.unknown: list[tuple[int, int]] = []

    def add(self, clip: HeardClip, first: int = 0, stop: int | None = None) -> None:
        """Put words `first` to `stop` of a clip (all of it without `stop`) where `at` is, and move `at` behind it."""
        begin, end = 0, len(clip.power)
        if stop is not None:
            begin = max(0, round(clip.words[first][1] - 1.5))
            end = min(end, round(clip.words[stop - 1][2] + 1.5))
        words = clip.words[first:stop]
        length = min(end - begin, self.length - self.at)
        if length <= 0:
            self.at = self.length
            return
        self.power[self.at : self.at + length] += np.exp(
            clip.power[begin : begin + length].astype(np.float32)
        )
        by = self.at - begin
        self.words += [(word, over + by) for word, _, over in words if over + by <= self.length]
        if clip.phones is None:
            self.unknown.append((self.at, self.at + length))
        else:
            self.phones += [
                (p, max(s, begin) + by, min(e, end) + by) for p, s, e in clip.phones if s < end and e > begin
            ]
        self.at += end - begin

    def row(self, own: bool) -> Row:
        """The row as it is now."""
        words = np.zeros(self.frames, np.int64)
        for word, over in self.words:
            frame = int(over / self.tempo / STEPS + 1e-6)
            if frame < self.frames:
                words[frame] = word
        pace = PACE * self.tempo
        spans = [(p, s / pace, e / pace) for p, s, e in self.phones]
        shares = frame_shares(spans, self.frames, FRAME_RATE)
        for start, stop in self.unknown:
            scale = STEPS * self.tempo
            shares[int(start / scale) : math.ceil(stop / scale)] = np.nan
        return Row(self._power(), words, shares, own)

    def _power(self) -> np.ndarray:
        if self.tempo == 1.0:
            return self.power
        places = np.minimum(np.arange(self.frames * STEPS) * self.tempo, self.length - 1)
        before = places.astype(np.int64)
        after, share = np.minimum(before + 1, self.length - 1), (places - before).astype(np.float32)[:, None]
        return self.power[before] * (1 - share) + self.power[after] * share


def voice_weights(clips: dict[str, int]) -> list[float]:
    """How often each voice is heard, by names in order: each engine by its share, in it by the root of the clips."""
    roots = [(voice.split(":")[0], clips[voice] ** 0.5) for voice in sorted(clips)]
    totals: dict[str, float] = defaultdict(float)
    for engine, root in roots:
        totals[engine] += root
    return [ENGINES[engine] * root / totals[engine] for engine, root in roots]


def warped(power: np.ndarray, factor: float) -> np.ndarray:
    """Spectra (T, BANDS) with what stood at a frequency at `factor` times it, as another throat would have it; the
    pitch goes with it as far as bands tell it.
    """
    if factor == 1.0:
        return power
    centres = band_centres()
    at = np.interp(
        centres / factor, centres, np.arange(BANDS)
    )  # what is beyond the last band is as it is there
    below = np.minimum(at.astype(np.int64), BANDS - 2)
    share = (at - below).astype(np.float32)
    return power[:, below] * (1 - share) + power[:, below + 1] * share


def disturbed(power: np.ndarray, rng: random.Random, generator: np.random.Generator) -> np.ndarray:
    """Spectra (T, BANDS) as another microphone in another room would have them; see `recipes.mini.tokens.AUGMENT`."""
    bands = np.arange(BANDS) / BANDS
    power = power.copy()
    if rng.random() < 0.35:  # a room's tail
        decay = 10 ** (-6 / (PACE * rng.uniform(0.15, 0.5)))
        power = (
            power + rng.uniform(0.05, 0.4) * (1 - decay) * lfilter([0, 1], [1, -decay], power, axis=0)
        ).astype(np.float32)
    if rng.random() < 0.4:  # a microphone's colour
        knots = [rng.uniform(-6, 6) for _ in range(5)]
        power *= (10 ** (np.interp(bands, np.linspace(0, 1, 5), knots) / 10)).astype(np.float32)
    if (
        rng.random() < 0.25
    ):  # a narrow band, such as a telephone's: 40 mel bands reach 12 kHz, 3.4 kHz is band 25
        top = rng.uniform(0.6, 0.95)
        power *= (10 ** (-np.maximum(bands - top, 0) * rng.uniform(20, 40))).astype(np.float32)
    gain = rng.uniform(-18, 9) if rng.random() < 0.6 else 0.0
    if rng.random() < 0.75:  # some of it swelling
        noise = draw_noise(len(power), USER_LEVEL - rng.uniform(*NOISE), rng)
        if rng.random() < 0.3:
            knots = np.arange(0, len(power) + 200, 200)  # 2 s apart
            swell = np.interp(np.arange(len(power)), knots, generator.normal(0, 4, len(knots)))
            noise *= (10 ** (swell[:, None] / 10)).astype(np.float32)
        power = power + noise
    return np.minimum(power * np.float32(10 ** (gain / 10)), 30.0)


def masked(power: np.ndarray, rng: random.Random) -> np.ndarray:
    """Spectra (T, BANDS) of which some bands and moments are 30 dB lower: no sound may rest on one cue
    (arXiv 1904.08779), and few clips say the same.
    """
    power = power.copy()
    for _ in range(rng.choice((0, 1, 1, 2))):
        width = rng.randint(1, 6)
        first = rng.randint(0, BANDS - width)
        power[:, first : first + width] *= 1e-3
    if rng.random() < 0.5:
        for second in range(len(power) // 100):
            at, length = second * 100 + rng.randint(0, 92), rng.randint(0, 8)
            power[at : at + length] *= 1e-3
    return power


def ends_in(words: list[int], runs: set[tuple[int, ...]], last: int) -> bool:
    """Whether one of the runs ends in the last so many words."""
    ends = range(len(words) - last + 1, len(words) + 1)
    lengths = {len(run) for run in runs}
    return any(tuple(words[end - n : end]) in runs for end in ends for n in lengths if n <= end)


def _factor(rng: random.Random, voice: str, take: int) -> float:
    if voice == ASSISTANT:
        return round(rng.uniform(*rng.choice(HIBARI_FACTORS)), 3)
    return 1.0 if take == 0 else round(rng.uniform(*OTHER_FACTORS), 3)


def _places(clips: list[HeardClip]) -> dict[int, list[tuple[HeardClip, int]]]:
    """Where each word is in clips whose times are exact."""
    places: dict[int, list[tuple[HeardClip, int]]] = defaultdict(list)
    for clip in clips:
        if clip.exact:
            for i, (word, _, _) in enumerate(clip.words):
                places[word].append((clip, i))
    return dict(places)
