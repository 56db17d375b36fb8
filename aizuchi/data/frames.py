"""Words on frames and back: the text stream that runs beside the audio, one token per 80 ms.

The rules are those of the published fine-tuning data (Moshi paper, arXiv 2410.00037, section 3.4.4, and the
finetuning kit's interleaver):

* a word's tokens lie on consecutive frames, the first on the frame in which the word begins;
* frames without a token hold PAD, and the last of them before a word holds EPAD ("end of padding");
* a new word cuts off what the word before it has left to say, unless `keep_and_shift` moves it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from aizuchi.transcript import Word

FRAME_RATE = 12.5
FRAME_SAMPLES = 1920  # at 24 kHz
PAD = 3
EPAD = 0
MASKED = -1  # no text is known here: nothing to learn, embedded as zero
MAIN_SPEAKER = "SPEAKER_MAIN"
USER_SPEAKER = "SPEAKER_USER"

# Times are written as decimals: 2.32 s is the start of frame 29, yet 2.32 * 12.5 is a hair below 29 in
# binary. A millionth of a frame (80 ns) puts such a time where it belongs.
_SNAP = 1e-6

TokenArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SpokenWord(Word):
    """A word, when it is said (seconds), and by whom."""

    speaker: str = MAIN_SPEAKER


def frame_at(seconds: float, frame_rate: float = FRAME_RATE) -> int:
    """The frame that holds this moment: floor(seconds * frame_rate), exact for decimal times."""
    return math.floor(seconds * frame_rate + _SNAP)


def frame_count(seconds: float, frame_rate: float = FRAME_RATE) -> int:
    """How many frames cover this long: ceil(seconds * frame_rate), exact for decimal times."""
    return math.ceil(seconds * frame_rate - _SNAP)


def words_to_frames(
    words: Iterable[Word],
    frames: int,
    tokenizer: TextTokenizer,
    *,
    keep_and_shift: bool = False,
    audio_delay: float = 0.0,
    speaker: str | None = MAIN_SPEAKER,
    frame_rate: float = FRAME_RATE,
    pad: int = PAD,
    epad: int = EPAD,
) -> TokenArray:
    """Lay words on frames.

    Args:
        words: in the order of their starts. A plain `Word` counts as the main speaker's.
        frames: length of the result; what does not fit is cut.
        tokenizer: encodes each word alone.
        keep_and_shift: a new word waits until the one before it is written out. By default it cuts that
            one off; of several words that begin in one frame only the last is then written.
        audio_delay: seconds by which the audio comes later than its text. Above 0 the text runs ahead
            (as for speech synthesis), below 0 it lags (as for recognition). A word that would lie before
            frame 0 is left out.
        speaker: whose words are written; None writes everybody's.
        frame_rate: frames per second.
        pad, epad: the ids of padding and of its end.

    Returns:
        int32 of shape (frames,). Ids `pad` and `epad` that a word's own encoding holds (an unknown
        character, for instance) are left out, since they mean something else here.

    Raises:
        AizuchiError: words out of order, or a negative number of frames.
    """
    if frames < 0:
        raise AizuchiError(f"frames is {frames}; it can't be negative")
    placed = _starts_and_tokens(words, tokenizer, audio_delay, speaker, frame_rate, (pad, epad))
    if not keep_and_shift:  # the last of the words that begin in one frame replaces the others
        placed = [p for p, after in zip(placed, [*placed[1:], None]) if after is None or after[0] > p[0]]

    out = np.full(frames, pad, dtype=np.int32)
    free = 0  # the first frame that nothing was written to
    for i, (start, tokens) in enumerate(placed):
        end = frames
        if keep_and_shift:
            start = max(start, free)
        elif i + 1 < len(placed):
            end = min(end, placed[i + 1][0])
        if start >= frames:
            break
        if start > 0 and out[start - 1] == pad:
            out[start - 1] = epad
        piece = tokens[: end - start]
        out[start : start + len(piece)] = piece
        free = start + len(piece)
    return out


def frames_to_words(
    tokens: Sequence[int] | npt.NDArray[np.integer],
    tokenizer: TextTokenizer,
    *,
    audio_delay: float = 0.0,
    frame_rate: float = FRAME_RATE,
    pad: int = PAD,
    epad: int = EPAD,
) -> list[Word]:
    """Read the words back from a text stream.

    A word begins after padding, and at every id that the tokenizer marks as the beginning of a word. The
    end of a word is not written in the stream: it is given as the end of its last token's frame.

    Args:
        tokens: (frames,) ids; negative ones (masked) count as padding.
        tokenizer: must be able to decode.
        audio_delay: as it was given to `words_to_frames`; times before 0 become 0.
        frame_rate: frames per second.
        pad, epad: the ids of padding and of its end.

    Returns:
        The words with times in seconds. What decodes to white space is left out.
    """
    groups: list[tuple[int, list[int]]] = []  # first frame, ids
    inside = False
    for t, token in enumerate(int(x) for x in tokens):
        if token < 0 or token == pad or token == epad:
            inside = False
            continue
        if not inside or tokenizer.starts_word(token):
            groups.append((t, []))
        groups[-1][1].append(token)
        inside = True

    words = []
    for first, ids in groups:
        text = tokenizer.decode(ids)
        if text.strip():
            start = max(0.0, first / frame_rate + audio_delay)
            end = max(start, (first + len(ids)) / frame_rate + audio_delay)
            words.append(Word(text, round(start, 6), round(end, 6)))
    return words


def padding_share(tokens: npt.NDArray[np.integer], pad: int = PAD, epad: int = EPAD) -> float:
    """The share of frames that hold padding or its end, of those that are not masked; NaN if all are."""
    known = tokens[tokens >= 0]
    return float(np.isin(known, (pad, epad)).mean()) if known.size else math.nan


def _starts_and_tokens(
    words: Iterable[Word],
    tokenizer: TextTokenizer,
    audio_delay: float,
    speaker: str | None,
    frame_rate: float,
    reserved: tuple[int, int],
) -> list[tuple[int, list[int]]]:
    """The first frame and the ids of every word that has any."""
    placed: list[tuple[int, list[int]]] = []
    before: Word | None = None
    for word in words:
        if speaker is not None and getattr(word, "speaker", MAIN_SPEAKER) != speaker:
            continue
        if before is not None and word.start < before.start:
            raise AizuchiError(
                f"words are out of order: {word.text!r} at {word.start} s comes after {before.text!r} at "
                f"{before.start} s; sort them by their start"
            )
        before = word
        start = frame_at(word.start - audio_delay, frame_rate)
        tokens = [token for token in tokenizer.encode(word.text) if token not in reserved]
        if start >= 0 and tokens:
            placed.append((start, tokens))
    return placed
