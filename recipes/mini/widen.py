"""A codec's decoder gets more channels and blocks, and says what it said: `python -m recipes.mini.widen --help`.

What is new hears all and is hardly heard yet (after Net2Net, arXiv 1511.05641): new channels' weights into what was
there are zero, new blocks are faint, and training moves them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aizuchi.errors import AizuchiError
from recipes.mini.command import RUNS, run_command

CHANNELS = [512, 384, 256, 128, 64, 32]
BLOCKS = 2
FAINT = 1e-3  # of their first weights: how loud new blocks begin


@torch.no_grad()
def widen(codec: Any, channels: list[int], blocks: int, seed: int = 0) -> Any:
    """A `MimiModel` whose decoder has these ``channels`` and residual ``blocks`` per ratio, and says what ``codec``
    does but for the faint new blocks.

    Raises:
        AizuchiError: the codec's decoder has more of either, or they are no sizes of a decoder.
    """
    from aizuchi.models.mimi import MimiModel

    sizes = {"decoder_channels": list(channels), "num_decoder_residual_layers": blocks}
    try:
        config = type(codec.config).from_dict(codec.config.to_dict() | sizes)
    except ValueError as error:
        raise AizuchiError(str(error)) from error
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        wide = MimiModel(config).eval()
    state = {name: w for name, w in codec.state_dict().items() if not name.startswith("decoder.")}
    missing, _ = wide.load_state_dict(state, strict=False)
    assert all(name.startswith("decoder.") for name in missing), missing
    narrow, grown = _by_ratio(codec.decoder), _by_ratio(wide.decoder)
    for old, new in zip(narrow, grown, strict=True):
        if len(old) > len(new):
            raise AizuchiError(f"the decoder has more residual blocks per ratio than {blocks}: give --blocks")
        for there, module in zip(old, new, strict=False):
            _fill(there, module)
        for added in new[len(old) :]:
            added.block[3].conv.weight.mul_(FAINT)  # training takes weights apart into length and direction
            added.block[3].conv.bias.zero_()
    return wide


def _by_ratio(decoder: Any) -> list[list[nn.Module]]:
    """Its layers: a convolution and the blocks behind it, each time."""
    parts: list[list[nn.Module]] = []
    for layer in decoder.layers:
        if isinstance(layer, nn.ELU):
            continue
        if hasattr(layer, "block"):
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return parts


def _fill(old: nn.Module, new: nn.Module) -> None:
    """Give ``new`` the weights of ``old``; what it has beyond them is not heard by what was there."""
    for name, module in old.named_modules():
        if not isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            continue
        grown = new.get_submodule(name)
        outputs, inputs = (0, 1) if isinstance(module, nn.Conv1d) else (1, 0)
        weight, there = (
            grown.weight.movedim(outputs, 0),
            module.weight.movedim(outputs, 0),
        )  # (out, in, kernel)
        count, heard = there.shape[:2]
        if count > weight.shape[0] or heard > weight.shape[1]:
            raise AizuchiError(
                f"a convolution of the decoder has {count} x {heard} channels, more than the {weight.shape[0]} x "
                f"{weight.shape[1]} it would get: give --channels"
            )
        weight[:count, :heard] = there
        weight[:count, heard:] = 0
        grown.bias[:count] = module.bias


def run(args: argparse.Namespace) -> int:
    from aizuchi.models.mimi import MimiModel
    from aizuchi.train.checkpoints import save_model

    codec = MimiModel.from_pretrained(args.codec).float()
    wide = widen(codec, args.channels, args.blocks)
    save_model(wide, args.out)
    before, after = (sum(p.numel() for p in one.decoder.parameters()) for one in (codec, wide))
    print(
        f"{args.out}: {before / 1e6:.2f} M parameters in the decoder's convolutions before, {after / 1e6:.2f} M now"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.widen",
        description="The convolutions of a codec's decoder get more channels and blocks; what it says stays.",
    )
    parser.add_argument("--codec", type=Path, required=True, help="whose decoder it is")
    parser.add_argument("--out", type=Path, default=RUNS / "wide", help="folder (default %(default)s)")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=CHANNELS, metavar="N",
        help="before the first ratio and after each (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--blocks", type=int, default=BLOCKS, help="residual blocks per ratio (default %(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
