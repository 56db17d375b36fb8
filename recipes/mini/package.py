"""Put a trained model into the package: `python -m recipes.mini.package codec|voice|ear|model --help`.

The language model's matrices are shipped in int8, all else in bfloat16. The codec that writes the training's tokens
is rounded to bfloat16 before anything is encoded: what is shipped gives the very codes that the model learned from.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text
from recipes.mini.command import RUNS, run_command
from recipes.mini.ear_model import COMPONENTS, LOWER, STEM, WORDS, read_weights

TARGET = Path("aizuchi/pretrained/mini")
LIMIT = 32 << 20  # bytes, all files together
SHARD = "15MB"
PART = 12 << 20  # bytes of an ear's weights in a file
ACOUSTIC_IN = "acoustic_residual_vector_quantizer.input_proj.weight"  # what a new ear may turn
CODEBOOK = (
    ".embed_sum",
    ".cluster_usage",
    ".initialized",
)  # kept as they are: a code is a matter of nearness
VOICE = (
    "decoder",
    "quantizer.acoustic_residual_vector_quantizer.",
)  # a codec's tensors that the assistant's voice is


def round_to_bfloat16(module: nn.Module) -> None:
    """Round parameters to what bfloat16 holds, in their own dtype; codebooks, which are buffers, stay, and so do
    matrices that are those of int8.
    """
    with torch.no_grad():
        for parameter in filter(Tensor.is_floating_point, module.parameters()):
            if parameter.dim() < 2 or not torch.equal(in_int8(parameter), parameter):
                parameter.copy_(parameter.bfloat16().to(parameter.dtype))


def in_int8(weight: Tensor) -> Tensor:
    """A weight whose rows are rounded to what int8 holds, in its own dtype; rounded once more it stays the same."""
    from aizuchi.models.quantized import to_int8

    levels, scale = to_int8(weight.flatten(1))
    return (levels.float() * scale[:, None]).to(weight.dtype).view_as(weight)


@torch.no_grad()
def round_to_int8(transformer: nn.Module) -> None:
    """Round the matrices of a codec's transformer to what int8 holds, in their own dtype."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(in_int8(module.weight))


@torch.no_grad()
def drop_unheard(model: Any) -> int:
    """Take the user's codebooks whose codes all embed as zero out of a model, in place; returns how many.

    What a training with `data.user_codebooks` leaves of them is the embedding of their initial token. It stands in the
    same columns as those of the model's own codebooks of the same delay, and is added to the last of these.
    """
    config, size = model.config, model.config.audio_vocab_size
    own, tables = config.num_model_codebooks, list(model.embed_tokens)
    dropped = 0
    while len(tables) > own + 1 and not tables[-1].weight[:size].any():
        delay = config.delays[len(tables)]
        same = [k for k in range(own) if config.delays[1 + k] == delay]
        if not same:
            break
        tables[same[-1]].weight[size] += tables.pop().weight[size]
        config.delays = config.delays[:-1]
        dropped += 1
    model.embed_tokens = nn.ModuleList(tables)
    config.num_input_codebooks = len(tables)
    return dropped


def package_codec(args: argparse.Namespace) -> int:
    """Round a trained codec, or a whole model's, for encoding and shipping."""
    from aizuchi.data.codec import load_codec
    from aizuchi.train.checkpoints import save_model

    codec = load_codec(args.codec).model.float()
    if args.voice is not None:
        take_voice(codec, args.voice)
    round_to_bfloat16(codec)
    save_model(codec, args.out)
    print(args.out)
    return 0


def take_voice(codec: Any, path: Path) -> None:
    """Put what `package_voice` wrote into a codec."""
    from safetensors.torch import load_file

    if not path.exists():
        raise AizuchiError(f"{path} is missing; package voice writes such a file")
    known = codec.state_dict()
    for name, tensor in load_file(path).items():
        if name not in known or known[name].shape != tensor.shape:
            raise AizuchiError(f"{path} is of another codec: {name} has no place in this one")
        known[name].copy_(tensor)


def package_voice(args: argparse.Namespace) -> int:
    """Write a codec's decoder and acoustic codebooks to keep, in bfloat16."""
    from safetensors.torch import save_file

    from aizuchi.data.codec import load_codec

    kept = {
        name: (tensor if name.endswith(CODEBOOK) else tensor.bfloat16()).contiguous()
        for name, tensor in load_codec(args.codec).model.state_dict().items()
        if name.startswith(VOICE)
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as temporary:
        save_file(kept, temporary)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")
    return 0


def package_ear(args: argparse.Namespace) -> int:
    """Write an ear to keep: in bfloat16, without what it never learns, in files that none is too large of."""
    weights = {
        name: weight.bfloat16() if weight.is_floating_point() and not name.endswith(CODEBOOK) else weight
        for name, weight in read_weights(args.ear).items()
        if ".acoustic_" not in name
    }
    parts: list[dict[str, Tensor]] = [{}]
    room = PART
    for name, weight in weights.items():
        room -= weight.numel() * weight.element_size()
        if room < 0:
            parts.append({})
            room = PART - weight.numel() * weight.element_size()
        parts[-1][name] = weight
    scratch = args.out.with_name(f".{args.out.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "model").mkdir(parents=True)
    for number, part in enumerate(parts, 1):
        name = f"weights-{number}-of-{len(parts)}.pt" if len(parts) > 1 else "weights.pt"
        torch.save(part, scratch / "model" / name)
    for name in (STEM, COMPONENTS, WORDS):
        if (args.ear / name).exists():
            shutil.copyfile(args.ear / name, scratch / name)
    shutil.rmtree(args.out, ignore_errors=True)
    scratch.rename(args.out)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB, weights in {len(parts)} file{'s' * (len(parts) > 1)}")
    return 0


def package_model(args: argparse.Namespace) -> int:
    """Write model, codec, tokenizer and model card to the package's folder."""
    from aizuchi.checkpoints.generation_config import generation_config
    from aizuchi.models.mimi import MimiModel
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import quantize_model
    from aizuchi.models.stored import store_codec
    from aizuchi.train.checkpoints import save_model

    model = MoshiForConditionalGeneration.from_pretrained(args.model).float()
    drop_unheard(model)
    if args.codec is not None:
        codec = MimiModel.from_pretrained(args.codec)
        _same_codes(model.audio_encoder, codec, args.new_front, args.new_ear, args.new_entries)
        model.audio_encoder = codec
        model.config.audio_encoder_config = codec.config
    count = sum(p.numel() for p in model.parameters())
    if args.quantize != "none":
        model = quantize_model(model, args.quantize)
    round_to_bfloat16(model)
    if args.store_codec:
        store_codec(model.audio_encoder)
    state = {
        name: tensor.bfloat16() if tensor.is_floating_point() and not name.endswith(CODEBOOK) else tensor
        for name, tensor in model.state_dict().items()
    }
    scratch = args.out.with_name(f".{args.out.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model.generation_config = generation_config(model.config)
    model.generation_config.temperature = args.text_temperature
    model.generation_config.depth_decoder_config["temperature"] = args.temperature
    save_model(model, scratch, state_dict=state, max_shard_size=SHARD)
    for path in sorted(args.model.iterdir()):
        if path.name.startswith("tokenizer"):
            shutil.copyfile(path, scratch / path.name)
    for path in sorted(args.card.iterdir()):
        shutil.copyfile(path, scratch / path.name)
    if args.metrics is not None:
        write_text(
            scratch / "metrics.json", json.dumps(json.loads(args.metrics.read_text()), indent=1) + "\n"
        )
    size = sum(path.stat().st_size for path in scratch.iterdir())
    if size > LIMIT:
        raise AizuchiError(
            f"the model takes {size / 2**20:.1f} MiB, {LIMIT >> 20} are allowed; see {scratch}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.iterdir():
        old.unlink()
    for path in scratch.iterdir():
        path.chmod(0o644)
        path.rename(args.out / path.name)
    scratch.rmdir()
    print(f"{args.out}: {count / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB")
    return 0


def _same_codes(
    ours: Any, codec: Any, new_front: bool, new_ear: bool = False, new_entries: bool = False
) -> None:
    """Refuse a codec whose codes are other ones than the model learned with; what lies below the ear's convolutions may
    be new if it is said, or all that comes before the codebooks but the way into the semantic ones, or the vectors that
    acoustic codes stand for.
    """
    theirs, known = codec.state_dict(), ours.state_dict()
    silent = ("decoder", "encoder") if new_ear else ("decoder",)  # what gives no codes, or may give others
    if more := [name for name in theirs if name not in known and not name.startswith(silent)]:
        raise AizuchiError(f"the model knows no {more[0]} of the codec: it would write other codes")
    for name, tensor in known.items():
        if not name.startswith(("encoder.", "encoder_transformer", "downsample", "quantizer")):
            continue
        if (new_front or new_ear) and name.startswith("encoder.") and int(name.split(".")[2]) < LOWER:
            continue
        if new_ear and name.startswith("encoder"):
            continue
        if (new_ear or new_entries) and name.endswith(ACOUSTIC_IN):
            continue
        if new_entries and ".acoustic_" in name:
            continue
        if not torch.equal(tensor, theirs[name].to(tensor)):
            raise AizuchiError(f"the codec's {name} is not that of the model: it would write other codes")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.package", description="Round the codec; put the model into the package."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    codec = commands.add_parser("codec", help="round the trained codec, for encoding")
    codec.add_argument(
        "--codec",
        type=Path,
        default=RUNS / "codec/model",
        help="a codec, or a model that carries one (default %(default)s)",
    )
    codec.add_argument("--out", type=Path, default=RUNS / "codec-bf16", help="default %(default)s")
    codec.add_argument("--voice", type=Path, help="another decoder and acoustic codebooks, of `voice`")
    codec.set_defaults(run=package_codec)
    voice = commands.add_parser("voice", help="write a codec's decoder and acoustic codebooks to go on from")
    voice.add_argument("--codec", type=Path, default=RUNS / "decoder/model", help="default %(default)s")
    voice.add_argument(
        "--out",
        type=Path,
        default=Path("recipes/mini/milestone/voice.safetensors"),
        help="default %(default)s",
    )
    voice.set_defaults(run=package_voice)
    ear = commands.add_parser(
        "ear", help="write an ear to go on from: in bfloat16, in files of less than 16 MiB"
    )
    ear.add_argument("--ear", type=Path, default=RUNS / "ear", help="default %(default)s")
    ear.add_argument(
        "--out", type=Path, default=Path("recipes/mini/milestone/ear"), help="default %(default)s"
    )
    ear.set_defaults(run=package_ear)
    model = commands.add_parser("model", help="write the package's folder")
    model.add_argument("--model", type=Path, default=RUNS / "moshi/model", help="default %(default)s")
    model.add_argument(
        "--codec", type=Path, help="a codec whose decoder was trained on (default: the model's)"
    )
    model.add_argument(
        "--new-front", action="store_true",
        help="its lower convolutions, too, may be others than the model learned with (`front assemble --keep`)",
    )  # fmt: skip
    model.add_argument(
        "--new-ear", action="store_true",
        help="all that comes before its codebooks may be another ear that keeps their meaning (`front hear`)",
    )  # fmt: skip
    model.add_argument(
        "--new-entries", action="store_true",
        help="its acoustic entries may be other vectors, if its decoder has learned the model's codes "
        "(`recipes.mini.others`)",
    )  # fmt: skip
    model.add_argument(
        "--store-codec", action="store_true",
        help="store the codec's transformers and its decoder's convolutions in int8, too (of an encoder that "
        "`front hear` made nothing is lost)",
    )  # fmt: skip
    model.add_argument("--card", type=Path, default=Path("recipes/mini/card"), help="default %(default)s")
    model.add_argument("--quantize", choices=["int8", "none"], default="int8", help="default %(default)s")
    model.add_argument("--temperature", type=float, default=0.2, help="of the voice (default %(default)s)")
    model.add_argument(
        "--text-temperature", type=float, default=0.1, help="of the text (default %(default)s)"
    )
    model.add_argument("--metrics", type=Path, help="JSON with what was measured")
    model.add_argument("--out", type=Path, default=TARGET, help="default %(default)s")
    model.set_defaults(run=package_model)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
