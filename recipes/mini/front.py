"""What lies below the ear's convolutions, and the codec that both make: `python -m recipes.mini.front --help`.

`train`: the lower layers of Mimi's SEANet encoder learn to give what the ear's convolutions learned on, a map of
spectra (`recipes.mini.spectrum`), and what the ear makes of it before it quantizes. `assemble`: they, the ear, and
acoustic codebooks that are begun on what latents still tell of the spectrum make a `MimiModel`, whose codes are final.
Its decoder is that of a codec given, or fresh: `aizuchi train mimi` with `train: decoder` teaches it.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.errors import AizuchiError
from aizuchi.train.codebooks import kmeans
from aizuchi.train.order import keyed_generator
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.ear_model import CODEC, COMPONENTS, Ear, halves, load_ear
from recipes.mini.spectrum import Components, log_frames, mel_power
from recipes.mini.stage import Stage, StageConfig
from recipes.mini.tokens import LISTEN

FRAMES = 32  # of a row, 2.56 s
HEARING = 3.0  # weight of what the ear projects, beside what it is given
LOUD = 0.005  # RMS of a row that says something


class SoundRows:
    """Rows of mixed sound by the step's number: the assistant's channel, and users' as a room's microphone has it.

    Args:
        folder: of `recipes.mini.tokens sound`. parts: of its folders. assistant: share of rows that it speaks in.
    """

    def __init__(
        self, folder: Path, parts: tuple[str, ...], batch_size: int, seed: int, assistant: float = 0.25
    ):
        paths = {part: sorted((folder / part).glob("*.npy")) for part in parts}
        paths = {part: found for part, found in paths.items() if found}
        if not paths:
            raise AizuchiError(f"{folder} holds no sound; python -m recipes.mini.tokens sound makes it")
        self.sounds = [
            (np.load(p, mmap_mode="r"), part == LISTEN) for part, found in paths.items() for p in found
        ]
        self.batch_size, self.seed, self.assistant = batch_size, seed, assistant

    def __call__(self, step: int) -> Tensor:
        """(B, 1, S) of a step; nine of ten rows hold something loud."""
        rows = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            generator = keyed_generator(self.seed, "front", position)
            own = generator.random() < self.assistant
            fits = [sound for sound, listen in self.sounds if not (own and listen)]
            quiet = generator.random() < 0.1
            for _ in range(50):
                sound = fits[generator.integers(len(fits))]
                at = int(generator.integers(0, sound.shape[1] // FRAME_SAMPLES - FRAMES)) * FRAME_SAMPLES
                at += 0 if own else int(generator.integers(FRAME_SAMPLES))
                wave = sound[0 if own else 1, at : at + FRAMES * FRAME_SAMPLES].astype(np.float32) / 32767
                if quiet or np.sqrt(np.mean(wave**2)) > LOUD:
                    break
            rows.append(np.pad(wave, (0, FRAMES * FRAME_SAMPLES - len(wave))))
        return torch.from_numpy(np.stack(rows))[:, None]


class FrontStage(Stage):
    """Trains the lower layers of a codec's encoder by the squared error of what an ear's stem makes of spectra, of what
    its convolutions make of that, and its transformer for the semantic codebooks; the ear does not change.
    """

    panels = [["loss"], ["missed", "misheard"], ["valid_missed", "valid_misheard", "valid_codes"]]

    def __init__(self, config: StageConfig, lower: nn.Module, rows: SoundRows, valid: SoundRows, ear: Ear):
        super().__init__(config, lower, rows)
        self.valid, self.ear = valid, ear.requires_grad_(False)

    def _missed(self, lower: nn.Module, wave: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of what is wanted, the share that is missed: below the ear's convolutions, behind them, and of what the ear
        projects; and the share of frames that have the first code that they should.
        """
        ear = self.ear
        spectra = log_frames(mel_power(wave[:, 0]))
        made = lower(wave).float()
        with torch.no_grad():
            target = ear.convs.below(spectra)  # (B, C, F * STEPS)
            wanted = ear.convs.stack(target).transpose(1, 2)  # (B, F, K)
        given = ear.convs.stack(made).transpose(1, 2).float()
        with torch.autocast(wave.device.type, enabled=False):
            heard, told = (ear.project(ear.latents(x.float())) for x in (given, wanted))  # (B, F, dim)
        first = ear.semantic.codebooks()[0]
        with torch.no_grad():
            same = (first.encode(heard) == first.encode(told)).float().mean()
        below = _missed_share(made.transpose(1, 2), target.transpose(1, 2))
        return below, _missed_share(given, wanted), _missed_share(heard, told), same

    def measure(self, batch: Tensor):
        """What is missed of all three."""
        with self.accelerator.autocast():
            below, missed, misheard, _ = self._missed(self.model, batch)
        told = {"below": below, "missed": missed, "misheard": misheard}
        values = {name: float(value.detach()) for name, value in told.items()}
        return below + missed + HEARING * misheard, values, batch.shape[0] * FRAMES

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """What is missed of rows that were left out, and how many first codes are right."""
        sums = np.zeros(4)
        for step in range(4):
            sums += [float(x) for x in self._missed(self.averages, self.valid(step))]
        return dict(zip(("below", "missed", "misheard", "codes"), sums / 4))


def _missed_share(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).square().mean() / (wanted - wanted.mean((0, 1))).square().mean()


@torch.no_grad()
def fit_lower(lower: Any, ear: Ear, rows: SoundRows, batches: int = 8) -> None:
    """Change the last of the lower layers, in place, so that what it gives comes nearest to what the ear wants."""
    made, wanted = [], []
    for step in range(batches):
        wave = rows(step)
        made.append(lower(wave).transpose(1, 2).flatten(0, 1))
        wanted.append(ear.convs.below(log_frames(mel_power(wave[:, 0]))).transpose(1, 2).flatten(0, 1))
    x, y = torch.cat(made).double(), torch.cat(wanted).double()
    centred = x - x.mean(0)
    gram = centred.T @ centred / len(x)
    ridge = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram))
    turn = torch.linalg.solve(gram + ridge, centred.T @ (y - y.mean(0)) / len(x))  # (C, C)
    last = lower.layers[-1].conv
    bias = (last.bias.double() - x.mean(0)) @ turn + y.mean(0)
    last.weight.copy_(torch.einsum("cik,cd->dik", last.weight.double(), turn))
    last.bias.copy_(bias)


def make_codec(
    start: Path | None,
    semantic: int = CODEC["num_semantic_quantizers"],
    layers: int = CODEC["num_hidden_layers"],
) -> Any:
    """A fresh codec of the recipe's size, with what fits of another's convolutions and decoder.

    Args:
        semantic: codebooks of the semantic branch. layers: of the encoder's transformer.
    """
    from aizuchi.models.mimi import MimiConfig, MimiModel
    from aizuchi.train.mimi_start import scale_to_speech

    deeper = None if layers == CODEC["num_hidden_layers"] else layers
    sizes = {"num_semantic_quantizers": semantic, "num_encoder_hidden_layers": deeper}
    codec = MimiModel(MimiConfig(**CODEC | sizes))
    scale_to_speech(codec)
    if start is not None:
        other = MimiModel.from_pretrained(start).state_dict()
        own = codec.state_dict()
        parts = ("encoder.", "decoder.", "decoder_transformer.")
        other = {k: v.float() for k, v in other.items() if k.startswith(parts) and k in own}
        fits = {k: v for k, v in other.items() if own[k].shape == v.shape}
        codec.load_state_dict(own | fits)
    return codec


def train(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    config = StageConfig(
        output=str(args.out), steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed,
    )  # fmt: skip
    rows = [
        SoundRows(args.sound, parts, args.batch_size, args.seed) for parts in (("train", LISTEN), ("valid",))
    ]
    ear, lower = load_ear(args.ear), halves(make_codec(args.start).encoder)[0]
    if args.start is not None and not args.trained:
        fit_lower(lower, ear, rows[0])
    stage = FrontStage(config, lower, rows[0], rows[1], ear)
    print(stage.run())
    return 0


@torch.no_grad()
def begin_acoustic(codec: Any, latents: Tensor, spectrum: Tensor, generator: np.random.Generator) -> None:
    """Set what the quantizer gives back, and its acoustic codebooks, to tell spectra (N, K) of latents (N, K) best.

    The semantic codes stay as they are; their entries give what they tell of the spectra. The acoustic codebooks
    quantize the rest in the directions in which latents tell most of it (reduced-rank regression), by k-means one
    after the other.
    """
    from aizuchi.train.codebooks import entries_of, fit_projections

    quantizer = codec.quantizer
    semantic, acoustic = (
        quantizer.semantic_residual_vector_quantizer,
        quantizer.acoustic_residual_vector_quantizer,
    )
    entries = entries_of(semantic, latents.T[None])[0]  # (N, dim)
    # entries -> spectrum, linear: the codebook brings the mean with it
    gram = entries.double().T @ entries.double() + 1e-3 * len(entries) * torch.eye(entries.shape[1])
    semantic.output_proj.weight.copy_(
        torch.linalg.solve(gram, entries.double().T @ spectrum.double()).T[..., None]
    )
    told = F.linear(entries, semantic.output_proj.weight[..., 0])
    fit_projections(acoustic, latents.T[None], (spectrum - told).T[None])
    residual = acoustic._project(latents.T[None])[0]
    for codebook in acoustic.codebooks():
        chosen = torch.from_numpy(generator.permutation(len(residual))[: 512 * 60])
        centres = kmeans(residual[chosen], len(codebook.embed_sum), generator, steps=15)
        codebook.embed_sum.copy_(centres)
        codebook.cluster_usage.fill_(1.0)
        residual = residual - codebook.decode(codebook.encode(residual))


def least_squares(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The matrix (C, D), in float64, that makes y (N, D) of x (N, C) best; ridge is a share of x's mean square."""
    x, y = x.double(), y.double()
    square = x.T @ x
    square.diagonal().add_(ridge * square.diagonal().mean())
    return torch.linalg.solve(square, x.T @ y)


def refit_acoustic(codec: Any, old: Any, rows: SoundRows, batches: int = 60) -> float:
    """Turn a new encoder's latents into what the old one's are before the acoustic codebooks, by least squares.

    Args:
        rows: of the assistant, whose codes the decoder and the models of this codec have learned.

    Returns:
        the share of the variance that is missed.
    """
    given, wanted = [], []
    for step in range(batches):
        wave = rows(step)
        given.append(codec.encode_latent(wave).transpose(1, 2).flatten(0, 1))  # (B * F, C)
        latents = old.quantizer.acoustic_residual_vector_quantizer.input_proj(old.encode_latent(wave))
        wanted.append(latents.transpose(1, 2).flatten(0, 1))  # (B * F, D)
    x, y = torch.cat(given).double(), torch.cat(wanted).double()
    fitted = least_squares(x, y, 1e-4)  # (C, D)
    codec.quantizer.acoustic_residual_vector_quantizer.input_proj.weight.copy_(fitted.T[:, :, None])
    return float((x @ fitted - y).square().mean() / (y - y.mean(0)).square().mean())


def _codec_of(folder: Path, ear: Ear) -> Any:
    """A codec that was made of the same ear.

    Raises AizuchiError if it was made of another.
    """
    from aizuchi.data.codec import load_codec

    codec = load_codec(folder).model.float().eval()
    name = "semantic_residual_vector_quantizer.input_proj.weight"
    found, own = codec.quantizer.state_dict(), ear.quantizer.state_dict()
    if found[name].shape != own[name].shape or not torch.equal(found[name], own[name].bfloat16().float()):
        raise AizuchiError(f"{folder} was made of another ear: its codes would mean something else")
    return codec


@torch.no_grad()
def assemble(args: argparse.Namespace) -> int:
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.package import round_to_bfloat16, round_to_int8

    ear = load_ear(args.ear)
    if args.keep is None:
        codec = make_codec(
            args.start, len(ear.semantic.codebooks()), len(ear.encoder_transformer.layers)
        ).eval()
    else:
        codec = _codec_of(args.keep, ear)
    lower, upper = halves(codec.encoder)
    lower.load_state_dict(torch.load(args.front / "model/weights.pt", weights_only=True))
    upper.load_state_dict(ear.convs.stack.state_dict())
    codec.encoder_transformer.load_state_dict(ear.encoder_transformer.state_dict())
    if args.keep is not None:
        round_to_bfloat16(codec)
        round_to_int8(codec.encoder_transformer)
        save_model(codec, args.out)
        print(args.out)
        return 0
    codec.quantizer.load_state_dict(ear.quantizer.state_dict())
    round_to_bfloat16(codec)  # first: codebooks are begun on what the shipped weights give
    round_to_int8(codec.encoder_transformer)
    components = Components.load(args.ear / COMPONENTS)
    rows = SoundRows(args.sound, ("train",), 16, 7, args.assistant)
    latents, spectra = [], []
    for step in range(args.batches):
        wave = rows(step)
        latents.append(codec.encode_latent(wave).transpose(1, 2).flatten(0, 1))
        spectra.append(components.of_wave(wave[:, 0]).flatten(0, 1))
    found, wanted = torch.cat(latents), torch.cat(spectra)
    generator = keyed_generator(7, "acoustic")
    begin_acoustic(codec, found, wanted, generator)
    round_to_bfloat16(codec)  # and the projections that were fitted
    codes = codec.quantizer.encode(found.T[None])
    back = codec.quantizer.decode(codes)[0].T
    missed = (back - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()
    used = [len(row.unique()) for row in codes[0]]
    print(f"of the spectra's variance {100 * missed:.1f} % is lost; entries used {used}")
    save_model(codec, args.out)
    print(args.out)
    return 0


@torch.no_grad()
def hear(args: argparse.Namespace) -> int:
    """Give a codec another ear, one that keeps the codes of its own (`ear --keep-codes`): the semantic ones, and the
    assistant's acoustic ones, to which the way into them is fitted.
    """
    from aizuchi.data.codec import load_codec
    from aizuchi.models.mimi import MimiModel
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.package import round_to_bfloat16, round_to_int8

    ear, old = load_ear(args.ear), load_codec(args.codec).model.float()
    known = {
        n: w for n, w in ear.quantizer.state_dict().items() if n.startswith("semantic") and "output" not in n
    }
    theirs = old.quantizer.state_dict()
    if not all(
        torch.equal(w.bfloat16().float(), theirs[name].bfloat16().float()) for name, w in known.items()
    ):
        raise AizuchiError(f"the codes of {args.ear} are not those of {args.codec}: see `ear --keep-codes`")
    config = copy.deepcopy(old.config)
    config.num_encoder_hidden_layers = len(ear.encoder_transformer.layers)
    codec = MimiModel(config).eval()
    kept = {n: w for n, w in old.state_dict().items() if not n.startswith("encoder_transformer.")}
    codec.load_state_dict(kept, strict=False)
    halves(codec.encoder)[1].load_state_dict(ear.convs.stack.state_dict())
    codec.encoder_transformer.load_state_dict(ear.encoder_transformer.state_dict())
    round_to_bfloat16(codec)
    round_to_int8(codec.encoder_transformer)
    missed = refit_acoustic(codec, old, SoundRows(args.sound, ("train",), 16, 11, 1.0), args.batches)
    round_to_bfloat16(codec)  # and the projection that was fitted
    print(f"of what goes into the assistant's acoustic codes {100 * missed:.1f} % is missed")
    save_model(codec, args.out)
    print(args.out)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.front", description="What lies before the ear; the codec of both."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="teach the encoder's lower layers (resumable)")
    learn.add_argument("--out", type=Path, default=RUNS / "front", help="folder (default %(default)s)")
    learn.add_argument("--steps", type=int, default=9000, help="default %(default)s")
    learn.add_argument("--batch-size", type=int, default=9, help="rows of 2.56 s (default %(default)s)")
    learn.add_argument("--learning-rate", type=float, default=1.5e-3, help="default %(default)s")
    learn.add_argument("--seed", type=int, default=1, help="default %(default)s")
    learn.add_argument(
        "--trained",
        action="store_true",
        help="what --start begins with was trained for an ear's stem like this",
    )
    learn.set_defaults(run=train)
    joined = commands.add_parser("assemble", help="make the codec")
    joined.add_argument("--front", type=Path, default=RUNS / "front", help="default %(default)s")
    joined.add_argument("--out", type=Path, default=RUNS / "codec-bf16", help="folder (default %(default)s)")
    joined.add_argument(
        "--keep", type=Path,
        help="a codec of the same ear, of which all else stays, so that models of its codes understand these",
    )  # fmt: skip
    joined.add_argument(
        "--assistant", type=float, default=0.7, help="its share of rows (default %(default)s)"
    )
    joined.add_argument("--batches", type=int, default=120, help="of 41 s (default %(default)s)")
    joined.set_defaults(run=assemble)
    other = commands.add_parser("hear", help="give a codec an ear that keeps its codes")
    other.add_argument("--codec", type=Path, required=True, help="a codec, or a model that carries one")
    other.add_argument("--out", type=Path, default=RUNS / "codec-heard", help="folder (default %(default)s)")
    other.add_argument("--batches", type=int, default=60, help="of 41 s (default %(default)s)")
    other.set_defaults(run=hear)
    for one in (learn, joined, other):
        add_inputs(one, "ear", "sound")
    for one in (learn, joined):
        one.add_argument("--start", type=Path, help="a codec whose convolutions to begin with")
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
