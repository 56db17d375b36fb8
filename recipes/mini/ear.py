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
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.errors import AizuchiError
from aizuchi.train.codebooks import CodebookTrainer, Quantized, kmeans
from aizuchi.train.order import keyed_generator
from recipes.mini.clips import ClipLibrary
from recipes.mini.codec_data import all_lines
from recipes.mini.command import run_command
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import HeardWords
from recipes.mini.labels import CLASSES
from recipes.mini.spectrum import Components, log_frames
from recipes.mini.stage import Stage, StageConfig
from recipes.mini.timing import Spoken

RUNS = Path("runs/mini")
FRAMES = 256  # of a row, 20.5 s
WORD_DELAY = 2  # frames after its end that a word is told
PHONE_DELAY = 1
ROUGH = 0.45  # noise on the components in training: about what the convolutions miss of each
NO_WORD = 0.15  # weight of frames in which no word ends
KEEP = (3.0, 1.0)  # weight of the spectrum that latents still tell: of the assistant, of users
SEMANTIC = "quantizer.semantic_residual_vector_quantizer.layers."
SHALLOW = 0.2  # share of rows that the first semantic codebook tells alone
# Sizes of the codec; what `recipes.mini.front` makes of it has the same.
CODEC: dict[str, Any] = dict(
    num_filters=16,
    frame_rate=12.5,
    upsampling_ratios=[2, 4, 5, 6, 8],
    hidden_size=192,
    num_hidden_layers=6,
    num_attention_heads=3,
    num_key_value_heads=3,
    intermediate_size=576,
    upsample_groups=192,
    codebook_size=512,
    codebook_dim=64,
    vector_quantization_hidden_dimension=64,
    num_quantizers=8,
    num_semantic_quantizers=2,
    sliding_window=15,
    layer_scale_initial_scale=0.1,
)


class Ear(nn.Module):
    """Components of spectra (B, F, K) to latents, semantic codes, and what a reader makes of them.

    Args:
        words: how many classes of words there are.
    """

    def __init__(self, words: int, config: Any = None, reader_layers: int = 2):
        super().__init__()
        from aizuchi.models.mimi import MimiConfig
        from aizuchi.models.mimi.quantization import MimiSplitResidualVectorQuantizer
        from aizuchi.models.mimi.transformer import MimiTransformer

        config = config or MimiConfig(**CODEC)
        width = config.hidden_size
        self.encoder_transformer = MimiTransformer(config)
        self.quantizer = MimiSplitResidualVectorQuantizer(config)
        wide = {**config.to_dict(), "num_hidden_layers": reader_layers, "sliding_window": 25}
        wide |= {
            "hidden_size": 256,
            "intermediate_size": 1024,
            **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
        }
        self.widen = nn.Linear(width, 256)
        self.reader = MimiTransformer(MimiConfig(**wide))
        self.words = nn.Linear(256, words)
        self.phones = nn.Linear(width, CLASSES)
        self.keep = nn.Linear(width, width)
        with torch.no_grad():
            self.keep.weight.copy_(torch.eye(width))
            self.keep.bias.zero_()

    @property
    def semantic(self) -> Any:
        """The semantic residual quantizer."""
        return self.quantizer.semantic_residual_vector_quantizer

    def latents(self, components: Tensor) -> Tensor:
        """(B, F, K) -> (B, F, K)."""
        return self.encoder_transformer(components.transpose(1, 2)).transpose(1, 2)

    def project(self, latents: Tensor) -> Tensor:
        """(B, F, K) -> (B, F, dim), what the semantic codebooks quantize."""
        return F.linear(latents, self.semantic.input_proj.weight[..., 0])

    def read(self, semantic: Tensor) -> Tensor:
        """The semantic part (B, F, K) of codes -> logits of words (B, F, words)."""
        return self.words(self.reader(self.widen(semantic).transpose(1, 2)).transpose(1, 2))

    def forward(self, components: Tensor, quantize: bool, deep: Tensor | None = None) -> dict[str, Any]:
        """Logits of words and phones, spectra that latents still tell, and what the quantizer did.

        Args:
            components: (B, F, K). quantize: whether codes come in between. deep: (B,) rows that all semantic codebooks
                tell, not the first alone; None for all.
        Returns:
            words (B, F, words), phones (B, F, CLASSES), kept (B, F, K), commitment (), projected (B, F, dim),
            and for each codebook its inputs (B, F, dim) and codes (B, F).
        """
        latents = self.latents(components)
        branch = self.semantic
        projected = self.project(latents)
        passed, inputs, codes = projected, [], []
        commitment = projected.new_zeros(())
        if quantize:
            with torch.autocast(projected.device.type, enabled=False):
                exact = residual = projected.float()
                told = torch.zeros_like(exact)
                for level, codebook in enumerate(branch.codebooks()):
                    inputs.append(residual.detach())
                    codes.append(codebook.encode(inputs[-1]))
                    entry = codebook.decode(codes[-1]).detach()
                    commitment = commitment + F.mse_loss(residual, entry)
                    residual = residual - entry
                    told = told + (entry if level == 0 or deep is None else entry * deep[:, None, None])
                passed = exact + (told - exact).detach()
        semantic = F.linear(passed, branch.output_proj.weight[..., 0])
        made = {"words": self.read(semantic), "phones": self.phones(semantic)}
        made |= {
            "kept": self.keep(latents),
            "commitment": commitment,
            "projected": projected.detach().float(),
        }
        return made | {"inputs": inputs, "codes": codes}


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model/weights.pt"
    if not path.exists():
        raise AizuchiError(f"{path} is missing; python -m recipes.mini.ear makes it")
    return torch.load(path, weights_only=True)


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def load_ear(folder: Path) -> Ear:
    """The ear that a run in a folder made, in evaluation mode.

    Raises AizuchiError if it has not ended.
    """
    from aizuchi.models.mimi import MimiConfig

    weights = _weights(folder)
    config = MimiConfig(**CODEC | {"num_semantic_quantizers": _count(weights, SEMANTIC)})
    ear = Ear(len(weights["words.bias"]), config, reader_layers=_count(weights, "reader.layers."))
    ear.load_state_dict(weights)
    return ear.eval()


def begin_from(ear: Ear, folder: Path) -> int:
    """Give an ear what fits of another's weights, semantic codebooks included; returns how many of these. Of a longer
    list of words, which begins with the other's, it keeps those that the other could tell.

    Raises AizuchiError if that one has not ended.
    """
    other, own = _weights(folder), ear.state_dict()
    for name in ("words.weight", "words.bias"):
        if len(other[name]) < len(own[name]):
            other[name] = torch.cat([other[name], own[name][len(other[name]) :]])
    fits = {name: w for name, w in other.items() if name in own and own[name].shape == w.shape}
    fits = {name: w for name, w in fits.items() if ".acoustic_" not in name}
    ear.load_state_dict(own | fits)
    return min(len(ear.semantic.codebooks()), _count(other, SEMANTIC))


def word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of (B, F, C) with the words (B, F), told `WORD_DELAY` frames late."""
    logits, words = logits[:, WORD_DELAY:].float(), words[:, : words.shape[1] - WORD_DELAY]
    loss = F.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
    weight = torch.where(words.flatten() > 0, 1.0, NO_WORD)
    return (loss * weight).sum() / weight.sum()


def phone_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of (B, F, CLASSES) with shares of phones, NaN where nobody knows, `PHONE_DELAY` frames late."""
    logits, shares = logits[:, PHONE_DELAY:].float(), shares[:, : shares.shape[1] - PHONE_DELAY]
    known = ~shares.isnan().any(-1)
    loss = -(shares.nan_to_num() * logits.log_softmax(-1)).sum(-1)
    return (loss * known).sum() / known.sum().clamp(min=1)


def words_told(logits: Tensor, words: Tensor) -> tuple[int, int, int]:
    """How many words were said; how many of them are the likeliest class within a frame of their place; how many
    are told where none is.
    """
    best = logits.argmax(-1)[:, WORD_DELAY:]
    words = words[:, : words.shape[1] - WORD_DELAY]
    right = torch.zeros_like(words, dtype=torch.bool)
    near = words > 0
    for by in (-1, 0, 1):
        right |= (best.roll(by, 1) == words) & (words > 0)
        near |= words.roll(by, 1) > 0
    return int((words > 0).sum()), int(right.sum()), int(((best > 0) & ~near).sum())


class EarStage(Stage):
    """Trains an `Ear`. Codes come in at ``start``; the first ``carried`` semantic codebooks are another ear's."""

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
    ):
        super().__init__(config, ear, lambda step: rows.batch(step, config.batch_size))
        self.valid, self.components, self.start, self.carried = valid, components, start, carried
        self.codebooks = CodebookTrainer(self.module.quantizer, decay=0.99, dead=0.05)

    def _components(self, batch: dict[str, Tensor]) -> Tensor:
        return self.components.forward(log_frames(batch["power"]))

    @torch.no_grad()
    def _begin_codes(self) -> None:
        vectors = [
            self.module(self._components(self.steps_data[self.step + i]), False)["projected"].flatten(0, 1)
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

    def measure(self, batch: dict[str, Tensor]):
        """Words, phones, what is kept of the spectrum, commitment."""
        if self.step == self.start:
            self._begin_codes()
        components = self._components(batch)
        quantize = self.step >= self.start
        generator = torch.Generator().manual_seed(
            int(keyed_generator(self.config.seed, "rough", self.step).integers(1 << 62))
        )
        rough = components + ROUGH * torch.randn(components.shape, generator=generator)
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
        own = batch["own"] if batch["own"].any() else torch.ones_like(batch["own"])
        told = {
            "words": words,
            "phones": phones,
            "kept": missed[own].mean(),
            "commitment": made["commitment"],
        }
        values = {name: float(value.detach()) for name, value in told.items()}
        if quantize:
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
            made = self.averages(self._components(batch), self.step > self.start)
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
    library = ClipLibrary(args.clips)
    heard = HeardWords(args.heard)
    torch.manual_seed(args.seed)
    lines = speak_lines(args.lines)
    rows = EarRows(library, lines, heard, FRAMES, args.seed)
    valid = EarRows(library, [], heard, FRAMES, args.seed, validation=True)
    config = StageConfig(
        output=str(args.out), steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed,
    )  # fmt: skip
    path = args.out / "components.safetensors"
    if not path.exists() and args.begin is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.begin / path.name, path)
    if not path.exists():
        fit_components(rows, CODEC["hidden_size"]).save(path)
    ear = Ear(len(heard), reader_layers=args.reader_layers)
    carried = 0 if args.begin is None else begin_from(ear, args.begin)
    stage = EarStage(config, ear, rows, valid, Components.load(path), args.start, carried)
    print(stage.run())
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.ear",
        description="Teach the codec's encoder and semantic codebooks to tell words.",
    )
    parser.add_argument("--out", type=Path, default=RUNS / "ear", help="folder (default %(default)s)")
    parser.add_argument(
        "--clips", type=Path, default=RUNS / "clips", help="the clip cache (default %(default)s)"
    )
    parser.add_argument(
        "--heard", type=Path, default=RUNS / "heard.txt", help="words to tell (default %(default)s)"
    )
    parser.add_argument(
        "--lines", type=int, default=1500, help="lines of the assistant (default %(default)s)"
    )
    parser.add_argument("--begin", type=Path, help="an ear's folder to begin with (then --start may be 0)")
    parser.add_argument("--reader-layers", type=int, default=2, help="default %(default)s")
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
