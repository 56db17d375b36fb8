"""The assistant's voice: hibari's, on the codec's grid, and what it has to make up said word by word.

What a sentence does to its words, their pace and the sounds at their edges, a small model has to learn for each word
anew, and rare words it never learned to say. So only stock lines, which are always the same, are spoken in one piece.
In answers that vary every word sounds the same each time: as it does alone, over whole frames, from the same place of
the first one. Of the codes of an answer's frames the commonest at that place of that word was right for 78 % of the
first codebook and 86 % of the first acoustic one, before it was so 41 and 33 % (500 answers).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recipes.mini import grid
from recipes.mini.neural_engines import PUNCTUATION, HibariVoice, spans_of
from recipes.mini.timing import LEAD, RATE, Span, Spoken, quietest, shift, tighten, trim

CARRIER = "Say, {}, again."  # where a word is said to be taken from
EARLY, DECAY = 0.15, 0.12  # seconds before and after its phonemes in which it may begin and end
SLOW = 1.1  # times as long as there
LATE = 240  # samples of its first frame before a word begins, in which it is faded in
FALL = 480  # and of fading out after its last one
PAUSE = 2  # frames, at a comma


class Piece(NamedTuple):
    """A word's sound.

    Attributes:
        audio: (samples,) float32; its word begins at sample `LATE`.
        frames: from the one in which it begins to the one in which the next word may.
        phones: with their times in `audio`.
    """

    audio: np.ndarray
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


class AssistantVoice(HibariVoice):
    """The assistant. Clips begin on a frame of the codec, and are whole frames long.

    Args:
        stock: lines whose sentences are spoken in one piece.
    """

    gap = 3 * grid.FRAME / RATE

    def __init__(self, stock: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.fluent = {sentence for line in stock for sentence in self.split(line)}
        self.piece = functools.lru_cache(maxsize=4096)(self._piece)

    def _sentence(self, sentence: str, speed: float) -> Spoken:
        groups = groups_of("".join(p for p in (self.g2p(sentence) or "") if p in self.vocab))
        words = sentence.split()
        if sentence in self.fluent or len(words) != len(groups):
            return super()._sentence(sentence, speed)
        pieces = [self.piece(sounds, speed) for sounds, _ in groups]
        starts, at = [], 1  # in frames, the first of which is silent
        for piece, (_, pause) in zip(pieces, groups):
            starts.append(at)
            at += piece.frames + (PAUSE if pause else 0)
        audio = np.zeros((at + 2) * grid.FRAME, np.float32)
        spans: list[Span] = []
        phones: list[Span] = []
        for word, piece, start in zip(words, pieces, starts):
            first = start * grid.FRAME
            part = piece.audio[: len(audio) - first]
            audio[first : first + len(part)] += part
            phones += shift(piece.phones, first / RATE)
            spans.append((word, (first + LATE) / RATE, (first + piece.frames * grid.FRAME + LATE) / RATE))
        return self._trim(tighten(Spoken(audio, tuple(spans), tuple(phones))))

    def _piece(self, sounds: str, speed: float) -> Piece:
        """A word as it sounds alone, stretched so that the next one begins at the same place of a frame."""
        before, after = self.carrier
        carrier = f"{before} {sounds}, {after}"
        *parts, f0, units = self._spectrum([0, *(self.vocab[p] for p in carrier), 0], speed)
        (_, (_, begins, ends), _), phones, _ = spans_of(carrier, units.reshape(-1), ["", "", ""])
        around = grid.synthesize(parts, f0)
        start = quietest(around, begins - EARLY, begins + 0.02) / grid.HOP  # in hops
        end = quietest(around, ends - 0.02, ends + DECAY) / grid.HOP
        frames = max(1, round(SLOW * (end - start) * grid.HOP / grid.FRAME))
        scale = frames * grid.FRAME / grid.HOP / (end - start)
        hops = np.arange(-(-(frames + 2) * grid.FRAME // grid.HOP))
        # the frame before, and LATE samples, are in front of the word here
        place = (hops - (grid.FRAME + LATE) / grid.HOP) / scale + start
        place = np.clip(place, 0, parts[0].shape[1] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, parts[0].shape[1] - 1)
        share, near = (place - low).astype(np.float32), np.round(place).astype(int)

        def between(part: np.ndarray) -> np.ndarray:
            return part[:, low] * (1 - share) + part[:, high] * share

        loud, turn, noise, rest, free = parts
        # phases don't mix
        warped = [between(loud), turn[:, near], between(noise), between(rest), free[:, near]]
        whole = grid.synthesize(warped, f0[near])[grid.FRAME :]
        stop = LATE + frames * grid.FRAME
        audio = whole[: stop + FALL].copy()
        audio[:LATE] *= np.linspace(0, 1, LATE, dtype=np.float32)
        audio[stop:] *= np.linspace(1, 0, len(audio) - stop, dtype=np.float32)
        own = [phone for phone in phones if begins <= phone[1] < ends]
        moved = shift(own, LATE / RATE - start * scale * grid.HOP / RATE, scale, stop / RATE)
        return Piece(audio, frames, moved)

    @functools.cached_property
    def carrier(self) -> tuple[str, str]:
        """Phonemes before and after a word."""
        before, _, after = self.g2p(CARRIER.format("it")).split(" ")
        return before, after

    def _infer(self, ids: list[int], speed: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        *parts, f0, units = self._spectrum(ids, speed)
        return grid.synthesize(parts, f0), units.reshape(-1)

    def _trim(self, clip: Spoken) -> Spoken:
        """Whole frames around the words."""
        if not clip.words:
            return clip
        start = clip.words[0][1]
        first = max(0, int((start - LEAD) * RATE)) // grid.FRAME * grid.FRAME
        clip = trim(clip, lead=start - first / RATE)
        return replace(clip, audio=np.pad(clip.audio, (0, -len(clip.audio) % grid.FRAME)))
