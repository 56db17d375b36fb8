"""What the codec learns from: the assistant's lines, users' clips, recorded requests, and the sounds of rooms.

For `aizuchi train mimi`: ``data.train: python:recipes.mini.codec_data:waves``, ``data.valid:
python:recipes.mini.codec_data:validation_waves``. Rows are made as they are asked for; what is at a position follows
from the position alone. Labels are phones, silence where nobody speaks, and -1 where an engine does not tell.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from aizuchi.errors import AizuchiError
from aizuchi.train.waves import WaveRow
from recipes.mini.clips import Clip, ClipLibrary
from recipes.mini.dialogues import fresh_script
from recipes.mini.grid import FRAME
from recipes.mini.heard import plain
from recipes.mini.labels import frame_labels
from recipes.mini.lines import read_lines
from recipes.mini.mix import on_grid, speak_assistant
from recipes.mini.one_pitch import TRAIN, VALIDATION, Pairs
from recipes.mini.sounds import SOUNDS, make_sound
from recipes.mini.sources import read_recording, recordings
from recipes.mini.speaking import draw_line
from recipes.mini.timing import RATE, USER_LEVEL, Span, Spoken, level, resample, shift
from recipes.mini.voices import ASSISTANT, check_user, draw_factor

SHARES = {"users": 34, "recorded": 8, "room": 8}  # beside the assistant's
SOMEONE = ("users", "recorded")
NOISY = 0.3  # share of the rows of others than the assistant that carry noise
OFTEN = 5  # lines with a word, from which on it is one of the assistant's own, not one that it repeats
UNKNOWN = -1
GAP = (0.05, 0.5)  # seconds between what is said


def waves(
    clips: str = "runs/mini/clips",
    commands: str | None = None,
    lines: int = 6000,
    assistant: float = 0.5,
    spoken: str | None = None,
    decoded: float = 1.0,
    by_word: float = 0.0,
    voice_codec: str | None = None,
    own_codes: float = 0.3,
    pairs: str | None = None,
    validation: bool = False,
) -> Waves:
    """The source of rows.

    Args:
        clips: the clip cache. commands: a folder of recorded requests, *.flac; None for none.
        lines: different sentences in the assistant's voice, see `_lines`. assistant: share of rows in which it speaks.
        spoken: a folder of `recipes.mini.lines`, whose sentences are then the lines; None speaks them as they come.
        decoded: share of the others' rows that are decoded too. What is never decoded, the codec only hears.
        by_word: share of the assistant's rows that begin with one of its words, all of them equally often.
        voice_codec: what wrote the assistant's codes, where the codec in training is not it: most of its rows are then
            decoded from these. own_codes: the share of them that is not.
        pairs: a folder of `recipes.mini.one_pitch`; of others and recordings a decoder then learns these, and says them
            at the assistant's pitch. None: clips and recordings as they are.
        validation: of clips, recordings and lines that the training leaves out (one in fifty); no row brings codes.
    """
    files = recordings(Path(commands)) if commands else []
    lines = max(1, lines // 50) if validation else lines
    made = Waves(ClipLibrary(Path(clips)), files, lines, validation, assistant, spoken, decoded, by_word)
    if voice_codec is not None and not validation:
        made.voice, made.own_codes = VoiceCodes(voice_codec), own_codes
    if pairs is not None:
        made.pairs = Pairs(Path(pairs) / (VALIDATION if validation else TRAIN))
    return made


validation_waves = partial(waves, validation=True)


def all_lines(lines: int = 6000) -> list[str]:
    """The sentences that `waves` draws from, then those of `validation_waves`."""
    return [*_lines(lines, False), *_lines(max(1, lines // 50), True)]


def kept_apart(name: str) -> bool:
    """Whether a clip, line or recording is for validation."""
    return random.Random(f"validation/{name}").random() < 0.02


class Waves:
    """See `waves`."""

    def __init__(
        self,
        library: ClipLibrary,
        files: list[Path],
        lines: int,
        validation: bool,
        assistant: float = 0.5,
        spoken: str | None = None,
        decoded: float = 1.0,
        by_word: float = 0.0,
    ) -> None:
        self.decoded, self.by_word = decoded, by_word
        self.gap = GAP
        self.voice: VoiceCodes | None = None
        self.own_codes = 1.0
        self.pairs: Pairs | None = None
        self.spoken = None if spoken is None else read_lines(Path(spoken))
        known = _lines(lines, validation) if self.spoken is None else list(self.spoken)
        self.lines = [text for text in known if kept_apart(text) is validation]
        if not self.lines:
            raise AizuchiError(
                f"{spoken} holds no lines for the {'validation' if validation else 'training'}"
            )
        self.holding: dict[str, list[str]] = {}  # lines with each of its words
        for text in self.lines if by_word else ():
            for word in {plain(word) for word in text.split()} - {""}:
                self.holding.setdefault(word, []).append(text)
        often = {word: held for word, held in self.holding.items() if len(held) >= OFTEN}
        self.holding = often or self.holding
        self.files = [f for f in files if kept_apart(f.name) is validation]
        self.clips: dict[str, list[Clip]] = {}
        for voice in library.voices:
            clips = [c for kinds in library.by_voice[voice].values() for c in kinds]
            kept = [c for c in clips if kept_apart(c.name) is validation]
            if kept:
                self.clips[voice] = kept
        self.voices = sorted(self.clips)
        # neural voices count for more than their number: the old engines' sound is soon learnt
        self.weights = [len(self.clips[v]) ** 0.5 * (3 if v.startswith("kokoro") else 1) for v in self.voices]
        others = {k: v for k, v in SHARES.items() if k != "recorded" or self.files}
        self.shares = {"assistant": assistant}
        self.shares |= {k: (1 - assistant) * v / sum(others.values()) for k, v in others.items()}

    def draw(self, position: int, samples: int, generator: np.random.Generator) -> WaveRow:
        """A row; its waveform can be told where the assistant speaks, whose pitch is the codec's (`grid.py`)."""
        rng = random.Random(int(generator.integers(1 << 62)))
        kind = rng.choices(list(self.shares), list(self.shares.values()))[0]
        if self.pairs is not None and kind in SOMEONE:
            said, wanted = self.pairs.row(samples, rng).T
            # their codes leave much open: with the complex loss they came out 4.5 dB too quiet
            return WaveRow(said, np.full(samples // FRAME, UNKNOWN), phase=False, target=wanted)
        wave = np.zeros(samples, np.float32)
        labels = np.zeros(samples // FRAME, np.int64)
        phones: list[Span] = []
        at = 0.0  # seconds
        speaker = self._speaker(kind, rng)
        first = True
        if kind == "assistant" and rng.random() < self.by_word:
            wave, phones, at, first = *self._from_a_word(samples, rng), False
        while at * RATE < samples:
            clip, known = speaker()
            skip = rng.uniform(0, clip.duration * 0.8) if first and rng.random() < 0.75 else 0.0
            if kind == "assistant":  # whose frames are the codec's
                at, skip = on_grid(at, math.ceil), on_grid(skip)
            begin = round(at * RATE)
            part = clip.audio[round(skip * RATE) :][: samples - begin]
            wave[begin : begin + len(part)] += part
            phones += shift(clip.phones, at - skip)
            if not known:
                labels[begin // FRAME : -(-(begin + len(part)) // FRAME)] = UNKNOWN
            at += len(part) / RATE + rng.uniform(*self.gap)
            first = False
        told = frame_labels([p for p in phones if p[2] > 0], len(labels))
        labels = np.where(labels == UNKNOWN, UNKNOWN, told)
        if kind != "assistant" and rng.random() < NOISY:
            wave = _with_noise(wave, rng.uniform(5, 30), rng)
        whole = kind == "assistant" or rng.random() < self.decoded
        wave = np.clip(wave, -1, 1).astype(np.float32)
        codes = None
        if kind == "assistant" and self.voice is not None and rng.random() >= self.own_codes:
            codes = self.voice(wave)
        return WaveRow(wave, labels, whole, codes, phase=kind == "assistant")

    def _from_a_word(self, samples: int, rng: random.Random) -> tuple[np.ndarray, list[Span], float]:
        """A row that begins up to half a second before a word: its wave, its phones, and when it ends."""
        word = rng.choice(list(self.holding))
        clip = self._line(rng.choice(self.holding[word]))
        start = rng.choice([start for text, start, _ in clip.words if plain(text) == word])
        skip = on_grid(max(0.0, start - rng.uniform(0.1, 0.5)), math.floor)  # s
        part = clip.audio[round(skip * RATE) :][:samples]
        wave = np.zeros(samples, np.float32)
        wave[: len(part)] = part
        return wave, list(shift(clip.phones, -skip)), len(part) / RATE + rng.uniform(*self.gap)

    def someone(self, rng: random.Random) -> np.ndarray:
        """What one of the users or of the recorded people says, (samples,) float32."""
        kinds = [kind for kind in SOMEONE if self.shares.get(kind)]
        kind = rng.choices(kinds, [self.shares[kind] for kind in kinds])[0]
        return self._speaker(kind, rng)()[0].audio

    def _line(self, text: str) -> Spoken:
        return speak_assistant(text) if self.spoken is None else self.spoken[text].read()

    def _speaker(self, kind: str, rng: random.Random):
        """Something that gives the next clip of a row, and whether its phones are known."""
        if kind == "assistant":
            return lambda: (self._line(rng.choice(self.lines)), True)
        if kind == "recorded":
            return lambda: (level(read_recording(str(rng.choice(self.files))), USER_LEVEL), False)
        if kind == "room":
            return lambda: (_room(rng), True)
        voice = rng.choices(self.voices, self.weights)[0]
        factor = draw_factor(rng, voice)
        if voice != ASSISTANT:
            check_user(voice, factor)

        def clip() -> tuple[Spoken, bool]:
            chosen = rng.choice(self.clips[voice])
            return level(resample(chosen.read(), factor), USER_LEVEL), bool(chosen.phones)

        return clip


class VoiceCodes:
    """What a codec makes of waves; it is loaded where it is used first."""

    def __init__(self, folder: str) -> None:
        self.folder, self._codec = folder, None

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """(samples,) -> codes (K, samples / 1920)."""
        from aizuchi.data.codec import encode, load_codec

        if self._codec is None:
            self._codec = load_codec(self.folder)
        return encode(self._codec, wave[None])[0]


RARE = 4  # lines with rarer words for each dialogue


@lru_cache(maxsize=4)
def _lines(count: int, validation: bool = False) -> list[str]:
    """So many different sentences: what the assistant says, in dialogues and with its rarer words as often as others
    (`recipes.mini.speaking`), and then what it is asked, which it may have to repeat. Of its lines in dialogues alone
    there are so few that a codec knows them by heart.
    """
    found: dict[str, dict[str, None]] = {"model": {}, "user": {}}
    number = 0
    while sum(map(len, found.values())) < count and number < 50 * count:
        for event in fresh_script(f"codec/{number}").events:
            if event.side in found and kept_apart(event.text) is validation:  # a room says nothing
                found[event.side][event.text] = None
        rng = random.Random(f"codec/line/{number}")
        for line in (draw_line(rng) for _ in range(RARE)):
            if kept_apart(line) is validation:
                found["model"][line] = None
        number += 1
    own, asked = map(list, found.values())
    return (own[: max(count - len(asked), count // 2)] + asked)[:count]


@lru_cache(maxsize=4)
def told_lines(count: int, validation: bool = False) -> tuple[str, ...]:
    """So many lines of the assistant as its dialogues have them: what it says often stands there often."""
    found: list[str] = []
    for number in range(50 * count):
        script = fresh_script(f"codec/told/{number}")
        found += [e.text for e in script.events if e.side == "model" and kept_apart(e.text) is validation]
        if len(found) >= count:
            break
    return tuple(found[:count])


def _room(rng: random.Random) -> Spoken:
    """A sound, or a second of nothing."""
    if rng.random() < 0.4:
        return Spoken(np.zeros(RATE, np.float32), ())
    generator = np.random.default_rng(rng.getrandbits(63))
    sound = make_sound(rng.choice(sorted(SOUNDS)), generator)
    return Spoken((sound * rng.uniform(0.05, 0.5)).astype(np.float32), ())


def _with_noise(wave: np.ndarray, snr: float, rng: random.Random) -> np.ndarray:
    """Coloured noise under a row, `snr` dB below a talker at the usual level."""
    generator = np.random.default_rng(rng.getrandbits(63))
    spectrum = np.fft.rfft(generator.standard_normal(len(wave)))
    slope = rng.uniform(0, 1.0)  # white to pink in amplitude
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** (slope / 2)
    noise = np.fft.irfft(spectrum, len(wave))
    noise *= 10 ** ((USER_LEVEL - snr) / 20) / np.sqrt(np.mean(noise**2))
    return wave + noise.astype(np.float32)
