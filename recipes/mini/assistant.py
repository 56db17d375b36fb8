"""The assistant's voice: hibari's, on the codec's grid, and what it has to make up said word by word.

What a sentence does to its words, their pace and the sounds at their edges, a small model has to learn for each word
anew, and rare words it never learned to say. So only stock lines, which are always the same, are spoken in one piece.
In answers that vary every word sounds the same each time: as it does alone, over whole frames, from the same place of
the first one; words are joined as spectra. Of the codes of an answer's frames the commonest at that place of that word
was right for 78 % of the first codebook and 86 % of the first acoustic one, before it was so 41 and 33 % (500 answers).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recipes.mini import grid
from recipes.mini.grid import FRAME
from recipes.mini.neural_engines import PUNCTUATION, HibariVoice, spans_of
from recipes.mini.timing import LEAD, RATE, Span, Spoken, quietest, shift, tighten, trim

# Where a word is said to be taken from: of a word behind it, some would be in its last frames.
CARRIER = "Say, {}."
EARLY = 0.15  # seconds before its phonemes in which it may begin
DECAY = (0.03, 0.08)  # seconds after them in which it ends: a closure before a last consonant is no end
STEP = 240  # samples from one spectrum to the next: eight in a frame, which fall the same way into each
HOPS = FRAME // STEP
LATE = 1  # spectra of its first frame before a word begins
BEFORE, AFTER = 2, 4  # spectra that are kept around a word
CROSS = 1  # spectra on either side of a join in which one word goes over into the next
SILENT = -11.0  # log magnitude where nothing is said
PAUSE = 2  # frames, at a comma
# Words that were heard as others when they had been coded, and what is said in their place: phonemes and pace. "howl"
# was taken for how, "woof" for what, "buzz" for but, "baa" for bar, "moo" for no, "oink" for aunt, "hiss" for has,
# "squeak" for sleep, "gobble" for double, "green" for brain, "fast" for asked, "far" for r, "early" for burly and the
# letter S for as. A sound that is doubled is heard better than the same sound said slowly.
CLEARER = {
    "hˈWl": ("hˈWᵊl", 1.0),
    "wˈʊf": ("wˈuf", 1.0),
    "bˈʌz": ("bˈʌz", 0.85),
    "bˈɑ": ("bˈɑ", 1.25),
    "mˈu": ("mˈuu", 1.25),
    "ˈYŋk": ("ˈYɪŋk", 1.25),
    "hˈɪs": ("hˈɪss", 1.25),
    "skwˈik": ("sskwˈik", 1.25),
    "ɡˈɑbəl": ("ɡˈɔbᵊl", 0.8),
    "ɡɹˈin": ("ɡɹˈiin", 1.0),
    "fˈæst": ("ffˈæst", 1.0),
    "fˈɑɹ": ("ffˈɑɹ", 1.0),
    "ˈɜɹli": ("ˈɜɜɹli", 1.0),
    "ˈɛs": ("ˈɛss", 1.0),
}


class Piece(NamedTuple):
    """A word as spectra.

    Attributes:
        parts: four of (601, hops), see `grid.synthesize`; the word begins `BEFORE` spectra after the first.
        f0: (hops,).
        frames: from the one in which it begins to the one in which the next word may.
        phones: with their times, counted from where the word begins.
    """

    parts: tuple[np.ndarray, ...]
    f0: np.ndarray
    frames: int
    phones: tuple[Span, ...]


def groups_of(phonemes: str) -> list[tuple[str, bool]]:
    """Words as phonemes, and whether a pause follows each: "hˈaɪ, ðˈɛɹ." -> [("hˈaɪ", True), ("ðˈɛɹ", True)]."""
    found = []
    for group in phonemes.split(" "):
        sounds = "".join(p for p in group if p not in PUNCTUATION)
        if sounds:
            found.append((sounds, group[-1] in PUNCTUATION))
        elif found and group:  # a dash between spaces
            found[-1] = (found[-1][0], True)
    return found


def _joined(pieces: list[Piece], starts: list[int], frames: int) -> np.ndarray:
    """(frames * 1920,) of words that begin in frames, one going over into the next as spectra do."""
    hops = frames * HOPS
    weights = np.zeros(hops, np.float32)
    loudest = np.zeros(hops, np.float32)
    parts = np.zeros((4, len(pieces[0].parts[0]), hops), np.float32)
    f0 = np.zeros(hops, np.float32)
    for piece, start in zip(pieces, starts):
        first = start * HOPS + LATE - BEFORE
        count = min(len(piece.f0), hops - first)
        here = slice(first, first + count)
        at = np.arange(count) - BEFORE  # from where the word begins
        inside = np.minimum(at + CROSS, piece.frames * HOPS + CROSS - at) / (2 * CROSS)
        weight = np.clip(inside, 0, 1).astype(np.float32)
        for number in (0, 2, 3):  # log magnitudes
            parts[number, :, here] += piece.parts[number][:, :count] * weight
        weights[here] += weight
        louder = weight > loudest[here]  # phases don't mix
        parts[1, :, here] = np.where(louder, piece.parts[1][:, :count], parts[1, :, here])
        f0[here] = np.where(louder, piece.f0[:count], f0[here])
        loudest[here] = np.maximum(loudest[here], weight)
    parts[[0, 2, 3]] += SILENT * np.clip(1 - weights, 0, None)
    return grid.synthesize(list(parts), f0, STEP)


class AssistantVoice(HibariVoice):
    """The assistant. Clips begin on a frame of the codec, and are whole frames long.

    Args:
        stock: lines whose sentences are spoken in one piece.
    """

    gap = 3 * FRAME / RATE

    def __init__(self, stock: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.fluent = {sentence for line in stock for sentence in self.split(line)}
        self.piece = functools.lru_cache(maxsize=4096)(self._piece)

    def _sentence(self, sentence: str, speed: float) -> Spoken:
        groups = groups_of("".join(p for p in (self.g2p(sentence) or "") if p in self.vocab))
        words = sentence.split()
        if sentence in self.fluent or len(words) != len(groups):
            return super()._sentence(sentence, speed)
        said = [CLEARER.get(sounds, (sounds, 1.0)) for sounds, _ in groups]
        pieces = [self.piece(sounds, speed * pace) for sounds, pace in said]
        starts, at = [], 1  # in frames, the first of which is silent
        for piece, (_, pause) in zip(pieces, groups):
            starts.append(at)
            at += piece.frames + (PAUSE if pause else 0)
        audio = _joined(pieces, starts, at + 2)
        spans: list[Span] = []
        phones: list[Span] = []
        for word, piece, start in zip(words, pieces, starts):
            first = (start * FRAME + LATE * STEP) / RATE
            spans.append((word, first, first + piece.frames * FRAME / RATE))
            phones += shift(piece.phones, first)
        return self._trim(tighten(Spoken(audio, tuple(spans), tuple(phones))))

    def _piece(self, sounds: str, speed: float) -> Piece:
        """A word as it sounds alone, stretched so that the next one begins at the same place of a frame."""
        carrier = f"{self.carrier} {sounds}."
        *parts, f0, units = self._spectrum([0, *(self.vocab[p] for p in carrier), 0], speed)
        (_, (_, begins, ends)), phones, _ = spans_of(carrier, units.reshape(-1), ["", ""])
        around = grid.synthesize(parts, f0)
        start = quietest(around, begins - EARLY, begins + 0.02)  # samples
        end = quietest(around, *(min(ends + after, len(around) / RATE - 0.01) for after in DECAY))
        frames = max(1, round((end - start) / FRAME))
        scale = frames * FRAME / (end - start)
        place = (np.arange(-BEFORE, frames * HOPS + AFTER) * STEP / scale + start) / grid.HOP
        place = np.clip(place, 0, parts[0].shape[1] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, parts[0].shape[1] - 1)
        share, near = (place - low).astype(np.float32), np.round(place).astype(int)

        def between(part: np.ndarray) -> np.ndarray:
            return part[:, low] * (1 - share) + part[:, high] * share

        loud, turn, noise, rest, _ = parts
        # phases don't mix
        warped = (between(loud), turn[:, near], between(noise), between(rest))
        own = [phone for phone in phones if begins <= phone[1] < ends]
        moved = shift(own, -start * scale / RATE, scale, frames * FRAME / RATE)
        return Piece(warped, f0[near], frames, moved)

    @functools.cached_property
    def carrier(self) -> str:
        """Phonemes before a word."""
        return self.g2p(CARRIER.format("it")).split(" ")[0]

    def _infer(self, ids: list[int], speed: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        *parts, f0, units = self._spectrum(ids, speed)
        return grid.synthesize(parts, f0), units.reshape(-1)

    def _trim(self, clip: Spoken) -> Spoken:
        """Whole frames around the words."""
        if not clip.words:
            return clip
        start = clip.words[0][1]
        first = max(0, int((start - LEAD) * RATE)) // FRAME * FRAME
        clip = trim(clip, lead=start - first / RATE)
        return replace(clip, audio=np.pad(clip.audio, (0, -len(clip.audio) % FRAME)))
