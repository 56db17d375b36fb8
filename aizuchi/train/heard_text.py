"""What the user says, written into the model's own text as it is heard: an inner monologue that listens, too.

The id of a word stands some frames after the word's end, where the model says nothing itself. The model reads it back
with the frame that follows: it answers words, and not sounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aizuchi.errors import AizuchiError

from .mishearing import Mishearing

LATEST = 3  # frames that a word may be written on
EARLIEST = 2  # frames before its own that a model may have written it on
LINGERS = 5  # frames that a voice lasts behind its word


def heard_classes(sources: Sequence[Any]) -> int:
    """Classes of the user's words in some sources of tokens.

    Raises:
        AizuchiError: a source does not know them, or two differ.
    """
    found = {int(getattr(source, "heard_classes", 0)) for source in sources}
    if len(found) != 1 or 0 in found:
        raise AizuchiError(
            "heard_text needs the user's words, but not all of the data tells them "
            f"(heard_classes of the sources: {sorted(found)})"
        )
    return found.pop()


def make_heard_text(given: HeardTextConfig, config: Any, classes: int, tokenizer: Any) -> HeardText:
    """What a run's configuration says, made ready.

    Args:
        config: the model's. classes: of the user's words, 0 being none. tokenizer: the run's, or None.
    Raises:
        AizuchiError: the vocabulary does not hold the words.
    """
    first = given.first
    if first is None:
        size = None if tokenizer is None else tokenizer.size
        if size is None:
            raise AizuchiError(
                "heard_text.first is not given, and there is no tokenizer whose last ids it could be"
            )
        first = size - classes + 1
    if not 1 <= first <= config.vocab_size - classes + 1:
        raise AizuchiError(
            f"heard_text: ids {first} to {first + classes - 2} are the user's words, but the model has "
            f"{config.vocab_size} ids; resize_token_embeddings gives it more"
        )
    mishearing = None if given.mishearing is None else Mishearing.load(given.mishearing, classes)
    return HeardText(given, first, config, mishearing)


@dataclass
class HeardTextConfig:
    """first: id of class 1 of the user's words, those of the others follow (control pieces, which decode to
    nothing); None = they are the last ids of the run's tokenizer. delay: frames after a word's end that it is
    written. missed, mistaken: shares of these ids that the input has not, or another word's in their place; the
    model's own hearing is never all right. own: share of the steps in which the input has what the model itself
    writes there, which takes a forward pass more; a word that it writes early is then not to be written twice, and
    one that it left out may come late. clean: share of the rows that have all words right; facts are
    learned from these, a sum of which a number is missing teaches none. deaf: share of the rows of dialogues in
    which the user sounds like another: what to answer then follows from the words alone, as it has to where a
    phrase has never been heard. mishearing: a file of what a listener wrote for known words (`Mishearing`), which
    takes the place of missed and mistaken; worse: how much worse than it each row is heard, between two bounds (1
    is as well).
    """

    first: int | None = None
    delay: int = 2
    missed: float = 0.1
    mistaken: float = 0.1
    own: float = 0.0
    clean: float = 0.0
    deaf: float = 0.0
    by_sound: float = 1.0
    mishearing: str | None = None
    worse: list[float] = field(default_factory=lambda: [0.5, 6.0])


class HeardText:
    """Puts the user's words into a batch's text; see `HeardTextConfig`, and `make_heard_text` for the arguments."""

    def __init__(self, given: HeardTextConfig, first: int, config: Any, mishearing: Mishearing | None = None):
        self.given, self.first, self.vocabulary = given, first, config.vocab_size
        self.mishearing = mishearing
        self.pad, self.end = config.text_padding_token_id, config.text_end_padding_token_id

    def written(self, text: Tensor, heard: Tensor) -> Tensor:
        """Text (B, T) with the user's words in it.

        Args:
            heard: (B, T) classes on the frames that words end in: 0 none, negative not known. Words keep their order;
                one has `LATEST` frames on which the text may be padding, and is left out if it is on none.
        """
        out = text.clone()
        free = (text == self.pad).tolist()
        last = [-1] * len(text)
        for row, frame in (heard > 0).nonzero().tolist():
            due = frame + self.given.delay
            for at in range(max(due, last[row] + 1), min(due + LATEST, text.shape[1])):
                if free[row][at]:
                    out[row, at] = heard[row, frame] + (self.first - 1)
                    last[row] = at
                    break
        return out

    def unknown(self, text: Tensor, heard: Tensor) -> Tensor:
        """(B, T), where padding is no target since nobody knows whether a word belongs there."""
        frames = text.shape[1]
        return (text == self.pad) & F.pad(heard < 0, (self.given.delay, 0))[:, :frames]

    def misheard(self, ids: Tensor, rng: np.random.Generator) -> Tensor:
        """Input ids (B, T) with some of the user's words missed or mistaken for others: for any that are said in the
        batch, or as a listener did.
        """
        if self.mishearing is not None:
            rows = [self._written_by(self.mishearing, row, rng) for row in ids.tolist()]
            return torch.tensor(rows, dtype=ids.dtype, device=ids.device)
        at = ((ids >= self.first) & (ids < self.vocabulary)).nonzero(as_tuple=True)
        count = len(at[0])
        if not count:
            return ids
        drawn = torch.from_numpy(rng.random(count)).to(ids.device)
        words = ids[at]
        others = words[torch.from_numpy(rng.permutation(count)).to(ids.device)]
        mistaken, missed = self.given.mistaken, self.given.missed
        made = torch.where(drawn < mistaken, others, words)
        made = made.masked_fill((drawn >= mistaken) & (drawn < mistaken + missed), self.pad)
        out = ids.clone()
        out[at] = made
        return out

    def _written_by(self, listener: Mishearing, row: list[int], rng: np.random.Generator) -> list[int]:
        """A row of ids as a listener writes it: what comes of a word stands from its place on, on as many frames as are
        free until the next word; of more, some are left out.
        """
        low, high = np.log(self.given.worse)
        scale = float(np.exp(rng.uniform(low, high)))
        row, last = list(row), len(row)
        for at in range(len(row) - 1, -1, -1):  # from behind, so that what is free is known
            if not self.first <= row[at] < self.vocabulary:
                continue
            room = 1
            while room < LATEST and at + room < last and row[at + room] == self.pad:
                room += 1
            found = listener.draw(row[at] - self.first + 1, scale, rng)
            if len(found) > room:
                found = tuple(found[i] for i in sorted(rng.permutation(len(found))[:room]))
            row[at] = self.pad
            for by, word in enumerate(found):
                row[at + by] = word + self.first - 1
            last = at
        return row

    def overheard(self, ids: Tensor, labels: Tensor, logits: Tensor, rng: np.random.Generator) -> Tensor:
        """Input ids (B, T) with what the model writes itself wherever it is to write a word of the user's or nothing.

        Args:
            labels: (B, T) text of these columns. logits: (B, T, V) for the columns behind; they are drawn from.
        """
        here = (labels[:, 1:] == self.pad) | ((labels[:, 1:] >= self.first) & (ids[:, 1:] < self.vocabulary))
        found = logits[:, :-1][here].float()  # (N, V)
        allowed = torch.zeros(found.shape[-1], dtype=torch.bool, device=found.device)
        allowed[self.first : self.vocabulary] = allowed[self.pad] = True
        found = found.masked_fill(~allowed, -torch.inf)
        noise = torch.from_numpy(rng.gumbel(size=tuple(found.shape)).astype(np.float32))
        out = ids.clone()
        out[:, 1:][here] = (found + noise.to(found.device)).argmax(-1)
        return out

    def once(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Text labels (B, T) as the input ids (B, T) leave them to be written: a word that these have on one of the
        frames just before its own is not written again, and one in whose place they have nothing is, a frame later.
        """
        out = labels.clone()
        told, had = labels.tolist(), ids.tolist()
        for row, at in (labels >= self.first).nonzero().tolist():
            word, before = told[row][at], slice(max(0, at - EARLIEST), at)
            if word in had[row][before] and word not in told[row][before]:
                out[row, at] = self.pad
                continue
            for late in range(at + 1, min(at + LATEST, labels.shape[1])):
                if had[row][late - 1] != self.pad or told[row][late] != self.pad:
                    break
                out[row, late] = word
        return out

    def grounded(self, labels: Tensor) -> Tensor:
        """Text labels (B, T) without what is said before the user's first word: what it follows from, if anything, the
        row does not have, and from nothing nothing is to be said.
        """
        heard = (labels >= self.first) & (labels < self.vocabulary)
        return labels.masked_fill((heard.cumsum(1) == 0) & (labels != self.pad), -100)

    def answers_only(self, inputs: Any, rng: np.random.Generator) -> None:
        """Text alone, in place: the answers are learned; when to speak and what is heard, only sound tells."""
        inputs["text_labels"] = self.answers_of(self.grounded(inputs["text_labels"]))
        inputs["input_ids"] = self.some_misheard(inputs["input_ids"], rng)

    def disturb(self, inputs: Any, deaf: Tensor | None, rng: np.random.Generator) -> None:
        """Rows with sound as they are trained on, in place; of those that are ``deaf`` (B,) the answers alone."""
        labels = self.grounded(inputs["text_labels"])
        if self.given.by_sound < 1:
            told = torch.from_numpy(rng.random(len(labels)) < self.given.by_sound).to(labels.device)
            told = told if deaf is None else told | deaf.to(labels.device)
            labels = torch.where(told[:, None], labels, self.all_but_answers_of(labels))
        if deaf is not None:
            deaf = deaf.to(labels.device)[:, None]
            labels = torch.where(deaf, self.answers_of(labels), labels)
            audio = inputs.get("audio_labels")  # when the voice stops, only sound tells
            if audio is not None:
                inputs["audio_labels"] = audio.masked_fill(deaf[:, None], -100)
        inputs["text_labels"] = labels
        inputs["input_ids"] = self.some_misheard(inputs["input_ids"], rng)

    def answers_of(self, labels: Tensor) -> Tensor:
        """Text labels (B, T) without all that only sound tells."""
        others = (labels >= self.first) | (labels == self.pad) | (labels == self.end)
        return labels.masked_fill(others, -100)

    def all_but_answers_of(self, labels: Tensor) -> Tensor:
        """Text labels (B, T) without the words that the model says: what is heard, and when it speaks and is silent."""
        said = (labels >= 0) & (labels < self.first) & (labels != self.pad) & (labels != self.end)
        return labels.masked_fill(said, -100)

    def some_misheard(self, ids: Tensor, rng: np.random.Generator) -> Tensor:
        """Input ids (B, T), but for a share `clean` of the rows as `misheard` makes them."""
        rows = np.flatnonzero(rng.random(len(ids)) >= self.given.clean)
        out = ids.clone()
        if len(rows):
            at = torch.from_numpy(rows).to(ids.device)
            out[at] = self.misheard(ids[at], rng)
        return out

    def deafened(
        self, user: Tensor, text: Tensor, silence: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The user's codes (B, K, T), in a share `deaf` of the rows those of the row before it, and of silence (K,)
        where the model speaks by its text (B, T), or where there is one row alone; and which rows (B,) these are. A
        voice over its own would teach it not to stop for one.
        """
        deaf = torch.from_numpy(rng.random(len(user)) < self.given.deaf).to(user.device)
        quiet = silence.to(user)[None, :, None].expand_as(user)
        others = user.roll(1, 0) if len(user) > 1 else quiet
        words = ((text >= 0) & (text != self.pad)).float()[:, None]
        speaks = F.max_pool1d(F.pad(words, (LINGERS, 1)), LINGERS + 2, 1) > 0  # (B, 1, T)
        others = torch.where(speaks, quiet, others)
        return torch.where(deaf[:, None, None], others, user), deaf

    def answer_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the answers of `answers_only` among what can be said: that there is no padding between the
        words, and that nobody is heard, would else be learned, too.

        Args:
            logits: (B, T, V). labels: (B, T), -100 where nothing is learned.
        """
        known = labels[:, 1:] >= 0
        found = logits[:, :-1][known].float()  # (N, V)
        never = self.unsaid(found)
        losses = F.cross_entropy(found.masked_fill(never, -torch.inf), labels[:, 1:][known], reduction="sum")
        return losses / known.sum().clamp(min=1)

    def unsaid(self, logits: Tensor) -> Tensor:
        """(V,) bool: ids of logits (..., V) that are no part of an answer: padding, its end, and what is heard."""
        never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        never[self.first : self.vocabulary] = never[self.pad] = never[self.end] = True
        return never
