"""Clips cut between their words and joined anew: the same recordings, in sentences that nobody said.

What is spoken to order is heard over and over, and a model soon knows it by heart: a word by its neighbours, not by its
sound. Here the neighbours change every time, rare words come more often, and no engine has to speak.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from functools import lru_cache

import numpy as np

from aizuchi.data.frames import USER_SPEAKER, SpokenWord
from recipes.mini.clips import Clip, ClipLibrary
from recipes.mini.dialogues import NoUtterance
from recipes.mini.heard import plain
from recipes.mini.listening import TAIL, held_out_runs
from recipes.mini.normalize import normalize
from recipes.mini.timing import RATE, USER_LEVEL, Spoken, fade, join, level, resample, shift, trim
from recipes.mini.voices import check_user

LENGTHS = (35, 30, 20, 15)  # weights of pieces of one word, two, three, four
EDGE = 0.015  # seconds kept around a piece
GAP = (0.0, 0.08)  # and of silence between two
LEAST = 20  # clips that a voice needs


class Pieces:
    """A voice's clips by the words in them; only those whose times are exact.

    Raises NoUtterance if there are fewer than LEAST.
    """

    def __init__(self, clips: list[Clip]) -> None:
        exact = [clip for clip in clips if clip.exact and clip.words]
        if len(exact) < LEAST:
            raise NoUtterance("splice")
        places: dict[str, list[tuple[Clip, int]]] = defaultdict(list)
        for clip in exact:
            for i, (word, _, _) in enumerate(clip.words):
                if plain(word):
                    places[plain(word)].append((clip, i))
        self.places = dict(places)
        self.words = list(self.places)
        # by the root of how often it comes: rare words are heard more often than they are said
        self.weights = [len(self.places[word]) ** 0.5 for word in self.words]

    def draw(self, rng: random.Random) -> tuple[Clip, int, int]:
        """A clip and the range of its words, around a word that was drawn."""
        clip, at = rng.choice(self.places[rng.choices(self.words, self.weights)[0]])
        length = min(1 + rng.choices(range(len(LENGTHS)), LENGTHS)[0], len(clip.words))
        first = rng.randint(max(0, at - length + 1), min(at, len(clip.words) - length))
        return clip, first, first + length


@lru_cache(maxsize=256)
def _pieces(library: ClipLibrary, voice: str) -> Pieces:
    return Pieces([clip for clips in library.by_voice[voice].values() for clip in clips])


def cut(spoken: Spoken, first: int, stop: int) -> Spoken:
    """Words `first` to `stop` of a clip, `EDGE` seconds around them, with short fades."""
    start = max(0, round((spoken.words[first][1] - EDGE) * RATE))
    end = min(len(spoken.audio), round((spoken.words[stop - 1][2] + EDGE) * RATE))
    audio = fade(spoken.audio[start:end].copy(), 0.008)
    return Spoken(audio, shift(spoken.words[first:stop], -start / RATE, limit=len(audio) / RATE))


def runs_of(words: list[str], at: int, pieces: Pieces) -> list[tuple[Clip, int, int, bool]]:
    """Where a voice says words `at` and on of a text: clip, first word, how many words agree, and whether the piece
    ends its clip where it ends the text, and nowhere else.
    """
    found = []
    for clip, first in pieces.places.get(words[at], ()):
        count, most = 1, min(len(words) - at, len(clip.words) - first)
        while count < most and plain(clip.words[first + count][0]) == words[at + count]:
            count += 1
        ends = first + count == len(clip.words)
        found.append((clip, first, count, ends is (at + count == len(words))))
    return found


@lru_cache(maxsize=16)
def spliceable(library: ClipLibrary, engine: str) -> tuple[str, ...]:
    """Voices of an engine that have `Pieces`."""
    found = []
    for voice in library.voices:
        if voice.split(":")[0] == engine:
            with contextlib.suppress(NoUtterance):
                _pieces(library, voice)
                found.append(voice)
    return tuple(found)


@lru_cache(maxsize=16)
def spoken_words(library: ClipLibrary, engine: str) -> frozenset[str]:
    """Words that are among the pieces of an engine's voices."""
    voices = spliceable(library, engine)
    return frozenset(word for voice in voices for word in _pieces(library, voice).places)


def spoken_text(rng: random.Random, library: ClipLibrary, voice: str, text: str) -> Spoken:
    """A text that a voice need never have said, from pieces of its clips, long ones rather than short ones; words that
    it never said are another voice's of its engine.

    Raises NoUtterance where a word is nobody's.
    """
    written = text.split()
    words, parts, at = [plain(word) for word in written], [], 0
    while at < len(words):
        found = runs_of(words, at, _pieces(library, voice))
        if not found:
            others = spliceable(library, voice.split(":")[0])
            order = rng.sample(others, len(others))
            found = next((f for v in order if (f := runs_of(words, at, _pieces(library, v)))), [])
        if not found:
            raise NoUtterance(words[at])
        weights = [count**2 * (3 if fits else 1) for _, _, count, fits in found]
        clip, first, count, _ = rng.choices(found, weights)[0]
        piece = cut(level(clip.read(), USER_LEVEL), first, first + count)
        named = tuple((name, s, e) for name, (_, s, e) in zip(written[at : at + count], piece.words))
        pause = Spoken(np.zeros(round(rng.uniform(*GAP) / 2 * RATE), np.float32), ())
        parts += [Spoken(piece.audio, named), pause]
        at += count
    return trim(join(parts[:-1]))


def spliced(
    rng: random.Random,
    library: ClipLibrary,
    voice: str,
    factor: float = 1.0,
    seconds: tuple[float, float] = (15.0, 35.0),
) -> tuple[np.ndarray, list[SpokenWord]]:
    """(samples,) of pieces of a voice's clips in any order, and its words. No carrier of a held-out question comes
    in it, be it by chance.

    Raises:
        NoUtterance: the voice has too few clips.
        HeldOutVoiceError: it is held out.
    """

    check_user(voice, factor)
    pieces = _pieces(library, voice)
    wanted, length, heard = rng.uniform(*seconds) * factor, rng.uniform(0.2, 1.5), ""
    parts = [Spoken(np.zeros(round(length * RATE), np.float32), ())]
    refused = 0
    while length < wanted and refused < 200:
        clip, first, stop = pieces.draw(rng)
        text = normalize(" ".join(word for word, _, _ in clip.words[first:stop]))
        joined = f"{heard} {text} "
        if any(f" {run} " in joined for run in held_out_runs()):
            refused += 1
            continue
        heard = " ".join(["", *joined.split()[-20:]])
        pause = Spoken(np.zeros(round(rng.uniform(*GAP) * RATE), np.float32), ())
        parts += [cut(level(clip.read(), USER_LEVEL), first, stop), pause]
        length += parts[-2].duration + pause.duration
    parts.append(Spoken(np.zeros(round(TAIL * RATE), np.float32), ()))
    whole = resample(join(parts), factor)
    return whole.audio, [SpokenWord(word, start, end, USER_SPEAKER) for word, start, end in whole.words]
