"""A decoder's transformer learns spectra before its convolutions learn sound: `python -m recipes.mini.teach --help`.

What the codes tell of a spectrum is made at 12.5 frames a second, sound of it at 24,000 samples: alone, the transformer
learns some 450 seconds of audio in a second. It is read by one linear map, which is thrown away. Where a decoder
of the same assistant is known, the transformer also learns to give what that one's gave, so that convolutions which
speak this voice go on speaking it. With `--entries` the acoustic codebooks learn, too; the assistant keeps its codes.
"""

from __future__ import annotations

import argparse
import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.train.listener import hearing_loss
from aizuchi.train.order import keyed_generator
from recipes.mini.books import Books
from recipes.mini.coded import FULL, VOICED, Coded, rows, validation_rows
from recipes.mini.command import RUNS, run_command
from recipes.mini.front import least_squares
from recipes.mini.listener import Listener
from recipes.mini.spectrum import BANDS, STEPS, log_frames, mel_power
from recipes.mini.stage import Stage, StageConfig

FRAMES = 48  # of a row
WARM = 2  # frames at a row's beginning that do not count: what came before them is not known
KEPT = 1.0  # weight of what is missed of the known decoder, beside the error of spectra
KEPT_OTHERS = 0.2  # the same, of others than the assistant
HEARD = 1.0  # weight of what an ear misses in the spectra that are read
BACK = 3  # frames that spectra are read from: the convolutions read seven
LOUD = -9.0  # mean log power of a frame's bands: quieter ones count a tenth
_SEED = 12


class Teller(nn.Module):
    """What codes stand for, what the decoder's transformer makes of it, and spectra read from that.

    Args:
        codec: whose transformer it is. size: of what its acoustic codebooks quantize, see `Books`.
    """

    def __init__(self, codec: Any, size: float):
        super().__init__()
        self.transformer = codec.decoder_transformer
        self.books = Books(codec.quantizer.acoustic_residual_vector_quantizer, size)
        self.read = nn.Conv1d(codec.config.hidden_size, STEPS * BANDS, BACK)

    def forward(
        self, meant: Tensor, codes: Tensor, latents: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is made (B, C, F), spectra (B, F, D), and how far entries and vectors are apart.

        Args:
            meant: (B, C, F) by the semantic codes. codes: (B, K, F) acoustic ones, which the assistant's rows keep.
            latents: (B, C, F), which others' codes are found for. own: (B,) the assistant's rows.
        """
        with torch.autocast(latents.device.type, enabled=False):
            apart = latents.new_zeros(())
            given = meant.clone()
            if own.any():
                given[own] = given[own] + self.books.known(codes[own])
            if not own.all():
                heard, apart = self.books.heard(latents[~own])
                given[~own] = given[~own] + heard
        made = self.transformer(given)
        return made, self.read(F.pad(made, (BACK - 1, 0))).transpose(1, 2), apart


class Rows:
    """Batches by the step's number: codes (B, K, F), what the codec heard (B, C, F), spectra (B, F, D), and which rows
    are the assistant's (B,), of which only the codes count.
    """

    def __init__(self, source: Coded, batch_size: int, seed: int):
        self.source, self.batch_size, self.seed = source, batch_size, seed
        someone = next(kind for kind in source.shares if kind not in VOICED)
        self.unknown = np.zeros((source.latents(someone, 0).shape[1], FRAMES), np.float32)
        self.spectra = functools.cache(self._spectra)  # half a gigabyte for nine hours

    def _spectra(self, kind: str, shard: int) -> Tensor:
        wave = self.source.shards[kind][shard][0].astype(np.float32) / FULL
        return log_frames(mel_power(wave)).half()

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own, codes, spectra, latents = [], [], [], []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            kind, shard, at = self.source.choose(FRAMES, keyed_generator(self.seed, "teach", position))
            own.append(kind in VOICED)
            latents.append(self.unknown if own[-1] else self.source.latents(kind, shard)[at : at + FRAMES].T)
            codes.append(self.source.shards[kind][shard][1][:, at : at + FRAMES].astype(np.int64))
            spectra.append(self.spectra(kind, shard)[at : at + FRAMES])
        stacked = torch.from_numpy(np.stack(codes)), torch.from_numpy(np.stack(latents))
        return *stacked, torch.stack(spectra).float(), torch.tensor(own)


class TeachStage(Stage):
    """Trains `Teller` by the absolute error of log spectra, and by what a known decoder's transformer makes of the same
    codes.

    Args:
        codec: whose decoder learns, and its acoustic codebooks if `entries`. known: a codec that knows the assistant's
            codes; None: the codec as it is, which knows others', too. ear: hears in the spectra that are read what it
            hears in the true ones, as far as they are learned.
    """

    panels = [
        ["loss"],
        ["spectra", "missed", "heard"],
        ["apart"],
        ["valid_others", "valid_assistant"],
        ["valid_missed", "valid_heard"],
    ]

    def __init__(
        self,
        config: StageConfig,
        codec: Any,
        known: Any,
        batches: Rows,
        valid: Rows,
        entries: bool = False,
        ear: Listener | None = None,
    ):
        self.everyone = known is None
        self.known = copy.deepcopy(codec) if known is None else known
        self.codec, _ = (one.eval().requires_grad_(False) for one in (codec, self.known))
        self.valid, self.entries, self.ear = valid, entries, ear
        first = [batches(i) for i in range(8)]
        teller = Teller(codec, self._size(first))
        teller.transformer.requires_grad_(True)
        teller.books.requires_grad_(entries)
        self.begin(teller, first)
        super().__init__(config, teller, batches)

    def _size(self, batches: list[Any]) -> float:
        acoustic = self.codec.quantizer.acoustic_residual_vector_quantizer
        heard = torch.cat([latents[~own] for _, latents, _, own in batches])
        return float(acoustic._project(heard).std())

    @torch.no_grad()
    def begin(self, teller: Teller, batches: list[Any]) -> None:
        """Fit the reading to what the known decoder says."""
        inputs, targets = [], []
        for codes, _, spectra, own in batches:
            asked = torch.ones_like(own) if self.everyone else own
            made = F.pad(self.told(codes[asked]), (BACK - 1, 0))  # (b, C, F + BACK - 1)
            inputs.append(made.unfold(-1, BACK, 1).transpose(1, 2).flatten(2).flatten(0, 1))
            targets.append(spectra[asked].flatten(0, 1))
        x, y = torch.cat(inputs), torch.cat(targets)
        mean = x.mean(0), y.mean(0)
        weight = least_squares(x - mean[0], y - mean[1], 1e-3).to(x.dtype)  # (C * BACK, D)
        teller.read.weight.copy_(weight.T.unflatten(1, (-1, BACK)))
        teller.read.bias.copy_(mean[1] - mean[0] @ weight)

    @torch.no_grad()
    def told(self, codes: Tensor) -> Tensor:
        """What the known decoder's transformer makes of codes."""
        return self.known.decoder_transformer(self.known.dequantize(codes))

    def _errors(self, teller: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Absolute errors (B, F) of spectra; the share that is missed of the known decoder, for the assistant and for
        others; how far entries are apart from what they stand for; and what the ear misses of others.
        """
        codes, latents, spectra, own = batch
        count = self.codec.config.num_semantic_quantizers
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            semantic = self.codec.quantizer.semantic_residual_vector_quantizer
            meant = semantic.decode(codes[:, :count])
        made, read, apart = teller(meant, codes[:, count:], latents, own)
        errors = (read.float() - spectra).abs().mean(-1)[:, WARM:]
        missed = []
        for asked in (own, ~own & self.everyone):
            if not asked.any():
                missed.append(errors.new_zeros(()))
                continue
            wanted = self.told(codes[asked])
            missed.append((made[asked].float() - wanted).square().mean() / wanted.var((0, 2)).mean())
        heard = errors.new_zeros(())
        if self.ear is not None and not own.all():
            with torch.no_grad():
                true = self.ear.of_spectra(spectra[~own])
            heard = hearing_loss(
                [x[:, WARM:] for x in self.ear.of_spectra(read[~own])], [x[:, WARM:] for x in true]
            )
        return errors, *missed, apart, heard

    def measure(self, batch: Any):
        """The loss of a batch."""
        with self.accelerator.autocast():
            errors, mine, others, apart, heard = self._errors(self.model, batch)
        weights = torch.where(batch[2].mean(-1)[:, WARM:] > LOUD, 1.0, 0.1)
        told = (errors * weights).sum() / weights.sum()
        values = {
            name: float(x.detach())
            for name, x in (("spectra", told), ("missed", mine), ("apart", apart), ("heard", heard))
        }
        loss = told + KEPT * mine + KEPT_OTHERS * others + HEARD * heard + (apart if self.entries else 0.0)
        return loss, values, len(batch[0]) * FRAMES

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Errors of loud frames in dB, and what is missed, of rows that no step learned from."""
        sums: dict[str, list[float]] = {"others": [], "assistant": [], "missed": [], "heard": []}
        for step in range(8):
            batch = self.valid(step)
            errors, missed, _, _, heard = self._errors(self.averages, batch)
            loud, own = batch[2].mean(-1)[:, WARM:] > LOUD, batch[3]
            sums["others"].append(float(errors[~own][loud[~own]].mean()))
            sums["assistant"].append(float(errors[own][loud[own]].mean()))
            sums["missed"].append(float(missed))
            sums["heard"].append(float(heard))
        units = {"others": 10 / np.log(10), "assistant": 10 / np.log(10)}
        return {name: float(np.mean(values)) * units.get(name, 1.0) for name, values in sums.items()}


def teach(args: argparse.Namespace) -> int:
    from aizuchi.data.codec import load_codec
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.package import round_to_bfloat16

    torch.manual_seed(args.seed)
    codec = load_codec(args.codec, args.codebooks).model.float()
    known = None if args.known is None else load_codec(args.known, args.codebooks).model.float()
    config = StageConfig(
        output=str(args.out), steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed,
    )  # fmt: skip
    train, valid = rows(str(args.coded)), validation_rows(str(args.coded))
    stage = TeachStage(
        config,
        codec,
        known,
        Rows(train, args.batch_size, args.seed),
        Rows(valid, args.batch_size, _SEED),
        args.entries,
        None if args.ear is None else Listener(args.ear),
    )
    stage.run()
    codec.decoder_transformer.load_state_dict(stage.averages.transformer.state_dict())
    if args.entries:
        acoustic = codec.quantizer.acoustic_residual_vector_quantizer
        stage.averages.books.give(acoustic)
        round_to_bfloat16(acoustic)
    save_model(codec, args.out / "codec")
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
        "--known",
        type=Path,
        help="a codec whose decoder speaks the assistant's codes (default: the codec, which speaks others', too)",
    )
    parser.add_argument(
        "--entries",
        action="store_true",
        help="its acoustic codebooks learn, too: others' codes are new ones then",
    )
    parser.add_argument("--ear", type=Path, help="an ear's folder: what it hears in the spectra counts, too")
    parser.add_argument(
        "--coded", type=Path, default=RUNS / "coded", help="of recipes.mini.coded (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RUNS / "teach", help="folder (default %(default)s)")
    parser.add_argument("--codebooks", type=int, default=8, help="default %(default)s")
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
