"""The ear of the small Mimi: `python -m recipes.mini.ear --help`.

A codec's encoder transformer and semantic codebooks, on spectra in place of the waveform, learn to tell words: a reader
behind the codes has to find the words in them, and is thrown away. One label of a phone a frame, which is what the
kit's `semantic.teacher: labels` asks for, leaves out the others of 80 ms; words ask for all that tells them apart.
On spectra this costs a fraction of what it does on waveforms; `recipes.mini.front` then puts convolutions before it.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.train.codebooks import CodebookTrainer, Quantized, kmeans
from aizuchi.train.order import keyed_generator
from recipes.mini.clips import ClipLibrary
from recipes.mini.codec_data import all_lines
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.ear_model import (
    CODEC,
    COMPONENTS,
    ENCODER_LAYERS,
    WORDS,
    Ear,
    begin_from,
    load_ear,
    phone_loss,
    word_loss,
    words_of,
    words_told,
)
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import HeardWords, continued, write_classes
from recipes.mini.spectrum import Components, log_frames
from recipes.mini.stage import Stage, StageConfig
from recipes.mini.timing import Spoken

FRAMES = 256  # of a row, 20.5 s
ROUGH = 0.25  # noise on each component of spectra in training: about what lies below the convolutions misses
KEEP = (3.0, 1.0)  # weight of the spectrum that latents still tell: of the assistant, of users
HELD = 2.0  # weight of how far the assistant's codes went astray
SHALLOW = 0.2  # share of rows that the first semantic codebook tells alone


class EarStage(Stage):
    """Trains an `Ear`. Codes come in at ``start``; the first ``carried`` semantic codebooks are another ear's.

    ``held``: an ear whose codes this one's are to stay, with whose codebooks it began: they do not move, and what it
    makes of the assistant's voice is drawn to what that one does, so that the voice that is made of these codes, and
    a model that speaks them, remain.
    """

    panels = [["loss"], ["words", "phones", "kept"], ["valid_told"]]

    def __init__(
        self,
        config: StageConfig,
        ear: Ear,
        rows: EarRows,
        valid: EarRows,
        components: Components,
        start: int,
        carried: int = 0,
        held: Ear | None = None,
    ):
        if held is not None:
            ear.quantizer.requires_grad_(False)
        super().__init__(config, ear, lambda step: rows.batch(step, config.batch_size))
        self.valid, self.components, self.start, self.carried = valid, components, start, carried
        self.held = None if held is None else held.requires_grad_(False).eval()
        self.codebooks = CodebookTrainer(self.module.quantizer, decay=0.99, dead=0.05)

    @torch.no_grad()
    def _begin_codes(self) -> None:
        vectors = [
            self.module(log_frames(self.steps_data[self.step + i]["power"]), False)["projected"].flatten(0, 1)
            for i in range(4)
        ]
        generator = keyed_generator(self.config.seed, "kmeans")
        found = torch.cat(vectors)
        residual = found[torch.from_numpy(generator.permutation(len(found))[:12_000])]
        for level, codebook in enumerate(self.module.semantic.codebooks()):
            if level >= self.carried:
                centres = kmeans(residual, len(codebook.embed_sum), generator)
                codebook.embed_sum.copy_(centres)
                codebook.cluster_usage.fill_(1.0)
            entries = codebook.embed
            codes = codebook.encode(residual)
            counts = torch.bincount(codes, minlength=len(entries)).clamp(min=0.5)
            usage = counts / counts.sum() * self.config.batch_size * FRAMES
            codebook.cluster_usage.copy_(usage)
            codebook.embed_sum.copy_(entries * usage[:, None])
            residual = residual - entries[codes]

    @torch.no_grad()
    def _move_codes(self, made: dict[str, Any]) -> int:
        """Entries go to the mean of what they took; dead ones begin anew."""
        latents = made["inputs"][0]
        only = Quantized(latents, latents, latents.new_zeros(()), made["inputs"], made["codes"])
        generator = keyed_generator(self.config.seed, "revive", self.step)
        return self.codebooks.update(only, generator)

    def _astray(self, spectra: Tensor, made: dict[str, Any], own: Tensor) -> Tensor:
        """() by how much of their size the assistant's latents, and what is quantized of them differ from `held`'s."""
        if self.held is None or not own.any():
            return spectra.new_zeros(())
        with torch.no_grad():
            latents = self.held.latents(self.held.convs(spectra[own]))
            wanted = (latents, self.held.project(latents))
        found = (made["latents"][own], made["projected"][own])
        parts = [(one - other).square().mean() / other.square().mean() for one, other in zip(found, wanted)]
        return parts[0] + parts[1]

    def measure(self, batch: dict[str, Tensor]):
        """Words, phones, what is kept of the spectrum, commitment; how far codes went astray."""
        if self.step == self.start and self.held is None:
            self._begin_codes()
        spectra = log_frames(batch["power"])
        components = self.components.forward(spectra)
        quantize = self.step >= self.start
        generator = torch.Generator().manual_seed(
            int(keyed_generator(self.config.seed, "rough", self.step).integers(1 << 62))
        )
        rough = spectra + self.components.noise(components.shape, ROUGH, generator)
        deep = torch.rand(len(rough), generator=generator) >= SHALLOW
        with self.accelerator.autocast():
            made = self.model(rough, quantize, deep)
        words = word_loss(made["words"], batch["words"])
        phones = phone_loss(made["phones"], batch["shares"])
        missed = (made["kept"].float() - components).square().mean(-1).mean(-1)  # (B,)
        weight = torch.where(batch["own"], *KEEP)
        kept = (missed * weight).sum() / len(weight)
        share = 0.3 if self.step < self.config.steps / 2 else 0.1
        loss = words + share * phones + kept + 0.25 * made["commitment"]
        loss = loss + HELD * (astray := self._astray(spectra, made, batch["own"]))
        own = batch["own"] if batch["own"].any() else torch.ones_like(batch["own"])
        told = {
            "words": words,
            "phones": phones,
            "kept": missed[own].mean(),
            "commitment": made["commitment"],
            "astray": astray,
        }
        values = {name: float(value.detach()) for name, value in told.items()}
        if quantize and self.held is None:
            values["revived"] = float(self._move_codes(made))
        return loss, values, float(components.shape[0] * components.shape[1])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Words told of clips that were left out, told where there is none, and entries used of the codebook that uses
        the least.
        """
        counts = np.zeros(3)
        codebooks = self.averages.semantic.codebooks()
        used = torch.zeros(len(codebooks), len(codebooks[0].embed_sum), dtype=torch.bool)
        for i in range(3):
            batch = self.valid.batch(i, 8)
            made = self.averages(log_frames(batch["power"]), self.step > self.start)
            counts += words_told(made["words"], batch["words"])
            for row, codes in zip(used, made["codes"]):
                row[codes.flatten()] = True
        _, right, wrong = counts / max(counts[0], 1)
        return {"told": right, "false": wrong, "usage": float(used.float().mean(1).min())}


def fit_components(rows: EarRows, count: int, batches: int = 40) -> Components:
    """Components of what the rows hold, the assistant's share made larger."""
    frames = []
    for number in range(batches * 8):
        row = rows.row(10_000_000 + number)
        frames.append(log_frames(torch.from_numpy(row.power)))
        if row.own:
            frames += [frames[-1]] * 2
    return Components.fit(torch.cat(frames), count)


def speak_lines(count: int) -> list[Spoken]:
    """Lines of the assistant, in its voice."""
    from recipes.mini.mix import speak_assistant

    lines = all_lines(6000)[:6000]
    return [speak_assistant(text) for text in random.Random(0).sample(lines, min(count, len(lines)))]


def train(args: argparse.Namespace) -> int:
    if args.codec is not None and args.begin is None:
        raise AizuchiError("--codec goes with --begin, the folder of its ear's components")
    if args.keep_codes and (args.begin is None or args.codec is not None):
        raise AizuchiError("--keep-codes goes with --begin, an ear of the codes that are to stay")
    from aizuchi.models.mimi import MimiConfig

    library = ClipLibrary(args.clips)
    args.out.mkdir(parents=True, exist_ok=True)
    known = [] if args.begin is None else words_of(args.begin, args.heard).words
    write_classes(args.out / WORDS, continued(HeardWords(args.heard).classes, known))
    heard = HeardWords(args.out / WORDS)
    torch.manual_seed(args.seed)
    lines = speak_lines(args.lines)
    rows = EarRows(library, lines, heard, FRAMES, args.seed)
    valid = EarRows(library, [], heard, FRAMES, args.seed, validation=True)
    config = StageConfig(
        output=str(args.out), steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed,
    )  # fmt: skip
    path = args.out / COMPONENTS
    if not path.exists() and args.begin is not None:
        shutil.copyfile(args.begin / path.name, path)
    if not path.exists():
        fit_components(rows, CODEC["hidden_size"]).save(path)
    config_of = MimiConfig(**CODEC | {"num_hidden_layers": args.layers})
    ear = Ear(len(heard), config_of, reader_layers=args.reader_layers)
    held = None
    if args.begin is None:
        carried = 0
        ear.convs.normalize(log_frames(rows.batch(0, args.batch_size)["power"]))
    else:
        carried = begin_from(ear, args.begin, args.codec, heard)
        held = load_ear(args.keep_codes) if args.keep_codes else None
    ear.convs.save_stem(args.out)
    stage = EarStage(config, ear, rows, valid, Components.load(path), args.start, carried, held)
    if args.compile:
        for layer in [*ear.encoder_transformer.layers, *ear.reader.layers]:
            layer.compile(dynamic=False)
    print(stage.run())
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.ear",
        description="Teach the codec's encoder and semantic codebooks to tell words.",
    )
    parser.add_argument("--out", type=Path, default=RUNS / "ear", help="folder (default %(default)s)")
    add_inputs(parser, "clips", "heard")
    parser.add_argument(
        "--lines", type=int, default=1500, help="lines of the assistant (default %(default)s)"
    )
    parser.add_argument(
        "--begin", type=Path,
        help="an ear's folder to begin with (then --start may be 0); words that only its list has go behind the others",
    )  # fmt: skip
    parser.add_argument(
        "--codec",
        type=Path,
        help="a codec that hears with the ear of --begin, where that one's weights are gone",
    )
    parser.add_argument(
        "--keep-codes", type=Path, metavar="EAR",
        help="the codes of this ear's folder, which --begin has too, stay what they are: decoders and models that "
        "know them remain good",
    )  # fmt: skip
    parser.add_argument(
        "--layers", type=int, default=ENCODER_LAYERS,
        help="of the encoder's transformer (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--reader-layers", type=int, default=2, help="default %(default)s")
    parser.add_argument(
        "--compile", action="store_true",
        help="make kernels of the layers: steps take a fifth less, on one thread (needs a C++ compiler)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=5000, help="default %(default)s")
    parser.add_argument(
        "--start", type=int, default=800, help="step at which codes come in (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=12, help="rows of 20 s (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.set_defaults(run=train)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
