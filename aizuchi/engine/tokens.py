"""Tokens in, tokens out: one step of all rows, from the user's codes of a frame to the model's text and codes.

Columns and frames are those of `aizuchi.models.moshi.delays`. By default a row that joins first runs the column of
initial tokens, so that the user's frame n lies in column n + 1, as in training, and no frame is lost. With
``lmgen_compatible`` the first frame takes that column's place and is never seen, as in the original's `LMGen`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..models.cache import RingCache
from ..models.moshi.conditions import Conditions
from ..models.moshi.depth import DepthState
from ..models.moshi.step import frame_step
from ..models.state import State, keep_inactive
from .sampling import RowSettings, Sampling, choose, shape_text

FREE = -2  # in a forced column: the model writes this token
ZERO = -1  # the token that embeds as zero
OFFERED = -16  # in a forced column's text, OFFERED - id: the model says this id as soon as it says anything


@dataclass
class TokenState(State):
    """Everything that rows carry from frame to frame, but for the codec's part.

    ``columns``: (rows, streams, D) the last columns and the delayed codes of the next, at column modulo D.
    ``offset``: (rows,) columns run so far, which also key the random numbers.
    """

    ring: RingCache
    depth: DepthState | None
    settings: RowSettings
    columns: Tensor = field(metadata={"reset": FREE})
    offset: Tensor = field(metadata={"reset": 0})


@dataclass
class TokenOutput:
    """One step's result.

    ``text``: (rows,) and ``codes``: (rows, K) of the newest complete frame, FREE (-2) where ``valid`` (rows,) is
    False: rows that are not active, and rows whose first frame is not complete yet. ``logits``: (rows, V) float32
    of the text token just chosen. ``hidden``: (rows, 1, H). ``newest_text``: (rows,) that token, not yet aligned.
    """

    text: Tensor
    codes: Tensor | None
    valid: Tensor
    logits: Tensor
    hidden: Tensor
    newest_text: Tensor


@dataclass
class Guidance:
    """Classifier-free guidance: logits beyond the unconditional ones by ``scale``.

    ``conditions``: of the unconditional half. ``masked_until``: (rows,) frames until which the unconditional half
    sees blank streams. ``no_text``: it never sees the text, and the text itself is not guided.
    """

    scale: float
    conditions: Conditions | None = None
    masked_until: Tensor | None = None
    no_text: bool = False


class TokenLoop:
    """Runs a model's frames for a fixed number of rows.

    Args:
        model: `MoshiForConditionalGeneration`. rows: conversations.
        conditions: of all rows, where the model has conditions.
        lmgen_compatible: lose the first frame and lag like the original's `LMGen`.
        guidance: classifier-free guidance for all rows.
        sinks: first columns of a conversation that stay visible when the window has passed them.
        kv: "int8" to hold keys and values in 8 bits.
    """

    def __init__(
        self,
        model: Any,
        rows: int,
        conditions: Conditions | None = None,
        lmgen_compatible: bool = False,
        guidance: Guidance | None = None,
        sinks: int = 0,
        kv: str | None = None,
    ):
        if rows < 1:
            raise ValueError(f"`rows` must be at least 1, got {rows}.")
        config = model.config
        if config.conditioners and conditions is None:
            raise ValueError("This model needs `conditions` (see `model.prepare_conditions`).")
        self.model, self.rows, self.config = model, rows, config
        self.lmgen_compatible = lmgen_compatible
        self.guidance = guidance
        device = model.device
        self.delays = torch.tensor(config.delays, device=device)
        self.initial = model.initial_tokens
        # What the model says: text and its own codebooks. A model that also predicts the user (PersonaPlex) need
        # not: the user is heard.
        self.said = 1 + config.num_model_codebooks
        generated = config.delays[: self.said]
        # Columns between the newest column and the frame that is complete.
        self.lag = max(config.delays) if lmgen_compatible else max(1, *generated)
        self.depth_columns = 2 * max(config.delays) + 4
        halves = 1 if guidance is None else 2
        both = conditions
        if guidance is not None:
            both = Conditions.cat(
                [conditions or Conditions(), guidance.conditions or conditions or Conditions()]
            )
        both = both or Conditions()
        self.condition_sum = both.sum
        self.cross = (
            None if both.cross is None else model.temporal.cross_keys_values(both.cross.to(model.dtype))
        )
        self.state = TokenState(
            ring=model.init_state(rows * halves, sinks=sinks, kv=kv),
            depth=None if model.depth_decoder is None else model.depth_decoder.init_state(rows * halves),
            settings=RowSettings.create(rows, device),
            columns=torch.full((rows, len(config.delays), self.depth_columns), FREE, device=device),
            offset=torch.zeros(rows, dtype=torch.long, device=device),
        )
        self.everyone = torch.ones(rows, dtype=torch.bool, device=device)
        self.quiet = (config.text_padding_token_id, config.text_end_padding_token_id)
        self._sampling = [Sampling() for _ in range(rows)]
        self._count_candidates()

    def configure(self, row: int, sampling: Sampling) -> None:
        """Give a row its sampling settings, from its next frame on."""
        self.state.settings.put(row, sampling)
        self._sampling[row] = sampling
        self._count_candidates()

    def reset_null(self, row: int) -> None:
        """Start a row's unconditional half anew, where there is one: it lies behind all rows."""
        if self.guidance is not None:
            for state in (self.state.ring, self.state.depth):
                if state is not None:
                    state.reset([self.rows + row])

    def adopt(self, row: int) -> None:
        """Take over a row's settings from its state, which came from elsewhere."""
        self._sampling[row] = self.state.settings.get(row)
        self._count_candidates()

    def _count_candidates(self) -> None:
        """How many candidates must be sorted for every row's top-k; all of them (None) where a row asks for that."""

        def most(counts: list[int]) -> int | None:
            return None if 0 in counts else max(counts)

        self.candidates = most([1 if s.temperature == 0 else s.top_k for s in self._sampling])
        self.text_candidates = most([1 if s.text_temperature == 0 else s.text_top_k for s in self._sampling])

    @property
    def streams_heard(self) -> int:
        """User codebooks that each step takes."""
        return self.config.num_user_codebooks

    def start(self, active: Tensor) -> TokenOutput | None:
        """Begin the active rows' conversations: run their column of initial tokens (not in compatible mode)."""
        if self.lmgen_compatible:
            return None
        return self._run(active)

    def step(
        self,
        user_codes: Tensor | None = None,
        active: Tensor | None = None,
        forced: Tensor | None = None,
    ) -> TokenOutput:
        """One frame of all active rows.

        Args:
            user_codes: (rows, num_user_codebooks, 1), the codes of the user's newest frame.
            active: (rows,) bool; the others keep their state.
            forced: (rows, 1 + num_model_codebooks) tokens of the column that is written now, FREE where the
                model chooses; text ``OFFERED - id`` lets it choose between padding and that id.
        """
        active = self.everyone if active is None else active
        heard = self.streams_heard
        if heard:
            if user_codes is None:
                raise ValueError(f"`user_codes` ({self.rows}, {heard}, 1) must be given.")
            if tuple(user_codes.shape) != (self.rows, heard, 1):
                raise ValueError(
                    f"`user_codes` must be ({self.rows}, {heard}, 1), got {tuple(user_codes.shape)}."
                )
            self._write(slice(self.said, None), user_codes[:, :, 0], active)
        return self._run(active, forced)

    def _write(self, streams: slice, tokens: Tensor, active: Tensor, delayed: bool = True) -> None:
        """Put tokens (rows, n) of one frame into the columns where their delays say (or at ``offset`` itself)."""
        target = self.state.columns[:, streams]
        place = self.state.offset[:, None].expand(-1, target.shape[1])
        if delayed:
            place = place + self.delays[streams]
        place = (place % self.depth_columns)[:, :, None]
        old = target.gather(2, place)
        target.scatter_(2, place, keep_inactive(tokens[:, :, None], old, active))

    def _column(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """The column at ``offset`` (rows, streams, 1), and where it holds initial tokens."""
        offset = self.state.offset[:, None, None]
        place = (offset % self.depth_columns).expand(-1, self.delays.shape[0], 1)
        early = (offset <= self.delays[:, None]) | ~active[:, None, None]
        return torch.where(early, self.initial[:, None], self.state.columns.gather(2, place)), early

    def _null_column(self, column: Tensor, early: Tensor) -> Tensor:
        guidance = self.guidance
        assert guidance is not None
        if guidance.masked_until is not None:
            limit = self.delays[:, None] + guidance.masked_until.view(-1, 1, 1)
            blank = (self.state.offset[:, None, None] <= limit) & ~early
            column = torch.where(blank, ZERO, column)
        if guidance.no_text:
            text = torch.where(early[:, :1], column[:, :1], ZERO)
            column = torch.cat([text, column[:, 1:]], dim=1)
        return column

    def _run(self, active: Tensor, forced: Tensor | None = None) -> TokenOutput:
        model, state, config, guidance = self.model, self.state, self.config, self.guidance
        settings, frame = state.settings, state.offset
        column, early = self._column(active)

        def temporal(x: Tensor) -> Tensor:
            rows_active = active if guidance is None else active.repeat(2)
            return model.temporal.run(x, state.ring.begin(1, rows_active), self.cross)[0]

        def text(logits: Tensor) -> Tensor:
            shaped = shape_text(logits, settings, config.text_padding_token_id, self.quiet)
            if forced is not None:
                shaped = offer(shaped, OFFERED - forced[:, 0], self.quiet)
            token = choose(
                shaped,
                settings.text_temperature,
                settings.text_top_k,
                settings.text_top_p,
                settings.seed,
                frame,
                0,
                self.text_candidates,
            )
            if forced is None:
                return token
            free = (forced[:, 0] == FREE) | (forced[:, 0] <= OFFERED)
            return torch.where(free, token, forced[:, 0])

        def audio(logits: Tensor, codebook: int) -> Tensor:
            token = choose(
                logits,
                settings.temperature,
                settings.top_k,
                settings.top_p,
                settings.seed,
                frame,
                codebook + 1,
                self.candidates,
            )
            if forced is None:
                return token
            return torch.where(forced[:, 1 + codebook] == FREE, token, forced[:, 1 + codebook])

        result = frame_step(
            model,
            column,
            temporal,
            text,
            audio,
            state.depth,
            null_column=None if guidance is None else self._null_column(column, early),
            guidance=1.0 if guidance is None else guidance.scale,
            guide_text=guidance is None or not guidance.no_text,
            condition_sum=self.condition_sum,
            codebooks=config.num_model_codebooks,
        )
        settings.remember(result.text, active)
        state.offset.add_(active)
        self._write(slice(0, 1), result.text[:, None], active, delayed=False)
        if result.codes is not None:
            self._write(slice(1, self.said), result.codes, active, delayed=False)
        return self._complete(result, active)

    def _complete(self, result: Any, active: Tensor) -> TokenOutput:
        """The newest frame all of whose tokens are written."""
        offset = self.state.offset
        generated = self.delays[: self.said]
        place = (offset[:, None] - self.lag + generated) % self.depth_columns
        tokens = self.state.columns[:, : generated.shape[0]].gather(2, place[:, :, None])[:, :, 0]
        valid = (offset > self.lag) & active
        tokens = torch.where(valid[:, None], tokens, FREE)
        codes = tokens[:, 1:] if self.model.depth_decoder is not None else None
        return TokenOutput(tokens[:, 0], codes, valid, result.logits, result.hidden, result.text)


def offer(logits: Tensor, ids: Tensor, quiet: tuple[int, ...]) -> Tensor:
    """Text logits (rows, V) that leave rows with an id (rows,) >= 0 two things: padding (``quiet``), as likely as it
    was, or that id, as likely as all words were together."""
    words = logits.clone()
    words[:, list(quiet)] = float("-inf")
    any_word = words.logsumexp(-1, keepdim=True)
    offered = torch.full_like(logits, float("-inf"))
    offered[:, list(quiet)] = logits[:, list(quiet)]
    offered.scatter_(1, ids.clamp(min=0)[:, None], any_word)
    return torch.where(ids[:, None] >= 0, offered, logits)
