"""A decoder's transformer learns spectra before its convolutions learn sound: `python -m recipes.mini.teach --help`.

What the codes tell of a spectrum is made at 12.5 frames a second, sound of it at 24,000 samples: alone, the transformer
learns some thousand seconds of audio in a second. It is read by one linear map, which is thrown away. Where a decoder
of the same assistant is known, the transformer also learns to give what that one's gave, so that convolutions which
speak this voice go on speaking it.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.train.order import keyed_generator
from recipes.mini.coded import ASSISTANT, FULL, Coded, rows, validation_rows
from recipes.mini.command import RUNS, run_command
from recipes.mini.front import least_squares
from recipes.mini.spectrum import BANDS, STEPS, log_frames, mel_power
from recipes.mini.stage import Stage, StageConfig

FRAMES = 48  # of a row
WARM = 2  # frames at a row's beginning that do not count: what came before them is not known
KEPT = 1.0  # weight of what is missed of the known decoder, beside the error of spectra
BACK = 3  # frames that spectra are read from: the convolutions read seven
LOUD = -9.0  # mean log power of a frame's bands: quieter ones count a tenth
_SEED = 12


class Teller(nn.Module):
    """Latents of codes (B, C, F) -> what the transformer makes of them (B, C, F), and spectra (B, F, D) read of it."""

    def __init__(self, transformer: nn.Module, channels: int):
        super().__init__()
        self.transformer = transformer
        self.read = nn.Conv1d(channels, STEPS * BANDS, BACK)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        made = self.transformer(latents)
        return made, self.read(F.pad(made, (BACK - 1, 0))).transpose(1, 2)


class Rows:
    """Batches by the step's number: codes (B, K, F), spectra (B, F, D), and which rows are the assistant's (B,)."""

    def __init__(self, source: Coded, batch_size: int, seed: int):
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.spectra = functools.lru_cache(maxsize=None)(self._spectra)  # half a gigabyte for nine hours

    def _spectra(self, kind: str, shard: int) -> Tensor:
        wave = self.source.shards[kind][shard][0].astype(np.float32) / FULL
        return log_frames(mel_power(wave)).half()

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        kinds, codes, spectra = [], [], []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            kind, shard, at = self.source.choose(FRAMES, keyed_generator(self.seed, "teach", position))
            kinds.append(kind == ASSISTANT)
            codes.append(self.source.shards[kind][shard][1][:, at : at + FRAMES].astype(np.int64))
            spectra.append(self.spectra(kind, shard)[at : at + FRAMES])
        return torch.from_numpy(np.stack(codes)), torch.stack(spectra).float(), torch.tensor(kinds)


class TeachStage(Stage):
    """Trains `Teller` by the absolute error of log spectra, and for the assistant by what a known decoder's transformer
    makes of the same codes.
    """

    panels = [["loss"], ["spectra", "missed"], ["valid_others", "valid_assistant", "valid_missed"]]

    def __init__(self, config: StageConfig, codec: Any, known: Any, batches: Rows, valid: Rows):
        self.codec, self.known = (one.eval().requires_grad_(False) for one in (codec, known))
        self.valid = valid
        teller = Teller(codec.decoder_transformer.requires_grad_(True), codec.config.hidden_size)
        self.begin(teller, [batches(i) for i in range(8)])
        super().__init__(config, teller, batches)

    @torch.no_grad()
    def begin(self, teller: Teller, batches: list[Any]) -> None:
        """Fit the reading to what the known decoder says of the assistant."""
        inputs, targets = [], []
        for codes, spectra, own in batches:
            made = F.pad(self.told(codes[own]), (BACK - 1, 0))  # (b, C, F + BACK - 1)
            inputs.append(made.unfold(-1, BACK, 1).transpose(1, 2).flatten(2).flatten(0, 1))
            targets.append(spectra[own].flatten(0, 1))
        x, y = torch.cat(inputs), torch.cat(targets)
        mean = x.mean(0), y.mean(0)
        weight = least_squares(x - mean[0], y - mean[1], 1e-3).to(x.dtype)  # (C * BACK, D)
        teller.read.weight.copy_(weight.T.unflatten(1, (-1, BACK)))
        teller.read.bias.copy_(mean[1] - mean[0] @ weight)

    def told(self, codes: Tensor) -> Tensor:
        """What the known decoder's transformer makes of codes."""
        with torch.no_grad():
            return self.known.decoder_transformer(self.known.dequantize(codes))

    def _errors(self, teller: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Absolute errors (B, F) of spectra, and what is missed of the known decoder, of its variance."""
        codes, spectra, own = batch
        with torch.no_grad():
            latents = self.codec.dequantize(codes)
        made, read = teller(latents)
        errors = (read.float() - spectra).abs().mean(-1)[:, WARM:]
        if not own.any():
            return errors, errors.new_zeros(())
        wanted = self.told(codes[own])
        return errors, (made[own].float() - wanted).square().mean() / wanted.var((0, 2)).mean()

    def measure(self, batch: Any):
        """The loss of a batch."""
        with self.accelerator.autocast():
            errors, missed = self._errors(self.model, batch)
        loud = batch[1].mean(-1)[:, WARM:] > LOUD
        weights = torch.where(loud, 1.0, 0.1)
        told = (errors * weights).sum() / weights.sum()
        values = {"spectra": float(told.detach()), "missed": float(missed.detach())}
        return told + KEPT * missed, values, batch[0].shape[0] * FRAMES

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Errors of loud frames in dB, of rows that no step learned from."""
        sums: dict[str, list[float]] = {"others": [], "assistant": [], "missed": []}
        for step in range(8):
            batch = self.valid(step)
            errors, missed = self._errors(self.averages, batch)
            loud, own = batch[1].mean(-1)[:, WARM:] > LOUD, batch[2]
            sums["others"].append(float(errors[~own][loud[~own]].mean()))
            sums["assistant"].append(float(errors[own][loud[own]].mean()))
            sums["missed"].append(float(missed))
        decibels = 10 / np.log(10)
        return {name: float(np.mean(v)) * (1 if name == "missed" else decibels) for name, v in sums.items()}


def teach(args: argparse.Namespace) -> int:
    from aizuchi.data.codec import load_codec
    from aizuchi.train.checkpoints import save_model

    torch.manual_seed(args.seed)
    codec, known = (load_codec(folder, 1).model.float() for folder in (args.codec, args.known))
    config = StageConfig(
        output=str(args.out), steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed,
    )  # fmt: skip
    source, kept = rows(str(args.coded)), validation_rows(str(args.coded))
    stage = TeachStage(
        config, codec, known, Rows(source, args.batch_size, args.seed), Rows(kept, args.batch_size, _SEED)
    )
    stage.run()
    codec.decoder_transformer.load_state_dict(stage.averages.transformer.state_dict())
    save_model(codec, args.out / "codec")
    torch.save(stage.averages.read.state_dict(), args.out / "read.pt")
    print(args.out / "codec")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.teach",
        description="The transformer of a codec's decoder learns the spectra that codes stand for.",
    )
    parser.add_argument(
        "--codec", type=Path, required=True, help="whose decoder learns, of recipes.mini.others"
    )
    parser.add_argument(
        "--known", type=Path, required=True, help="a codec whose decoder speaks the assistant's codes"
    )
    parser.add_argument(
        "--coded", type=Path, default=RUNS / "coded", help="of recipes.mini.coded (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RUNS / "teach", help="folder (default %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="default %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of 3.84 s (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=5, help="default %(default)s")
    parser.set_defaults(run=teach)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
