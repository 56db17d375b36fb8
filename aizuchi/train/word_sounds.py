"""Text alone that sounds: each of the user's words as it sounds in some dialogue, in sentences that nobody said.

There are far more texts than anyone has spoken. A model that meets them in silence learns to answer them in silence,
and goes by the few phrases that it knows where it hears a voice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .tokens import Pieces

ROWS = 6000  # pieces of dialogues that words are taken from
LONGEST = 12  # frames of a word; what is before is silence
UNKNOWN = 4  # frames of silence for a word that no dialogue has
TRIES = 6  # places that are tried; that from where most of the sentence follows is taken
GAPS = (0, 5)  # frames between the last word and the answer
PAUSES = (0, 10)  # and between an answer and the next word


class WordSounds:
    """Codes of the user's words from dialogues.

    Args:
        pieces: dialogues that know which word ends where (`TokenDialogue.heard`).
        codebooks: of the codes that are kept.
        words: ids of the user's words in a text.
        padding: id of no word.
        delay: frames after a word's end on which its id stands. A word's codes are those behind the last frame that
            tells of the word before, up to the last that comes before its id.
    """

    def __init__(
        self, pieces: Pieces, codebooks: int, words: range, padding: int, delay: int, rows: int = ROWS
    ) -> None:
        self.words, self.padding, self.codebooks = words, padding, codebooks
        self.codes: list[np.ndarray] = []  # (K, frames) of each word, in order; of none between two rows
        self.said: list[int] = []  # their classes, 0 between two rows
        none = np.zeros((codebooks, 0), np.int16)
        for position in range(rows):
            row = pieces.draw(position)
            if row.heard is None:
                continue
            ready = delay  # frame from which on a word tells of itself alone
            for end in np.flatnonzero(row.heard > 0).tolist():
                start, stop = max(ready, end + delay - LONGEST), end + delay
                whole = ready > delay or stop - LONGEST >= 0
                if (
                    whole
                    and start < stop <= row.user.shape[1]
                    and (row.heard[start - delay : stop] >= 0).all()
                ):
                    self.said.append(int(row.heard[end]))
                    self.codes.append(row.user[:codebooks, start:stop].astype(np.int16))
                else:
                    self._part(none)
                ready = stop
            self._part(none)
        places = defaultdict(list)
        for place, word in enumerate(self.said):
            places[word].append(place)
        self.places = {word: np.array(found) for word, found in places.items() if word}

    def _part(self, none: np.ndarray) -> None:
        if self.said and self.said[-1]:
            self.said.append(0)
            self.codes.append(none)

    def run(self, classes: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
        """Codes of the first of some words, and of those behind it that follow where it was found; silence for one that
        no dialogue has.
        """
        known = self.places.get(classes[0])
        if known is None:
            return [np.full((self.codebooks, UNKNOWN), -1, np.int16)]
        best, most = 0, 0
        for place in known[rng.integers(len(known), size=TRIES)].tolist():
            count = 1
            while (
                count < len(classes)
                and place + count < len(self.said)
                and self.said[place + count] == classes[count]
            ):
                count += 1
            if count > most:
                best, most = place, count
        return self.codes[best : best + most]

    def speak(self, ids: np.ndarray, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A text with its user's words at the times of a voice, and the voice.

        Args:
            ids: (N,) words and answers, at any times. frames: to be filled at most.

        Returns:
            (T,) ids, answers as they were, each word on the frame behind its sound; (K, T) the user's codes, -1 in
            silence. T is at most ``frames``; what is beyond is left out.
        """
        text = np.full(frames, self.padding, ids.dtype)
        user = np.full((self.codebooks, frames), -1, np.int64)
        given, at, i = ids.tolist(), 0, 0
        while i < len(given) and at < frames:
            if given[i] not in self.words:
                text[at] = given[i]
                at, i = at + 1, i + 1
                continue
            sentence = []
            while i < len(given) and (given[i] in self.words or given[i] == self.padding):
                if given[i] in self.words:
                    sentence.append(given[i])
                i += 1
            at += int(rng.integers(*PAUSES, endpoint=True))
            done = 0
            while done < len(sentence):
                for codes in self.run([word - self.words.start + 1 for word in sentence[done:]], rng):
                    room = max(0, min(codes.shape[1], frames - at))
                    user[:, at : at + room] = codes[:, :room]
                    at += codes.shape[1]
                    if at < frames:
                        text[at] = sentence[done]
                    done += 1
            at += 1 + int(rng.integers(*GAPS, endpoint=True))
        return text[:at], user[:, :at]
