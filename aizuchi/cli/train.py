"""Train Moshi (from scratch, from a checkpoint, by LoRA, for speech synthesis or recognition) or the Mimi codec.

  aizuchi train moshi CONFIG.yaml                     start, or go on from the newest checkpoint
  aizuchi train moshi CONFIG.yaml --set steps=2000    change a value of the file
  aizuchi train mimi CONFIG.yaml
  aizuchi train plot RUN_FOLDER                       draw the curves again
  aizuchi train merge RUN_FOLDER OUTPUT               LoRA adapters into their base model

A configuration for a small model from scratch:

  output: runs/small
  tokenizer: tokenizer.model
  codec: runs/codec/model
  model: {vocab_size: 2000, hidden_size: 256, num_hidden_layers: 6, num_attention_heads: 4, ffn_dim: 1024,
          depth_decoder_config: {hidden_size: 128, num_hidden_layers: 2, num_attention_heads: 2, ffn_dim: 512}}
  data: {train: tokens/train, valid: tokens/valid, frames: 375}
  steps: 10000

On several processes or GPUs, start it with torchrun or accelerate:

  torchrun --nproc-per-node 2 -m aizuchi train moshi CONFIG.yaml
"""

from __future__ import annotations

import argparse

from aizuchi.cli.actions import Action, add_actions, run_action

Parser = argparse.ArgumentParser


def add_arguments(parser: Parser) -> None:
    add_actions(
        parser,
        [
            Action("moshi", "train Moshi on token shards", _add_moshi, _moshi),
            Action("mimi", "train the Mimi codec on sound files", _add_mimi, _mimi),
            Action("plot", "draw a run's curves", _add_plot, _plot),
            Action("merge", "merge LoRA adapters into their base model", _add_merge, _merge),
        ],
    )


run = run_action


def _add_moshi(parser: Parser) -> None:
    """Train Moshi on token shards (aizuchi data tokenize makes them).

    The run's folder (`output`) gets checkpoints, log.csv, tensorboard events, curves.png, audio samples and, at the
    end, model/: a model as every command takes it. A run that was stopped goes on from its newest checkpoint when the
    same command is given again, and ends with the very same weights.
    """
    _add_config(parser)


def _moshi(args: argparse.Namespace) -> int:
    from aizuchi.train.config import load_config
    from aizuchi.train.moshi_config import MoshiTraining

    config = load_config(MoshiTraining, args.config, args.set)
    if args.show:
        return _show(config)
    from aizuchi.train.start import make_trainer

    trainer = make_trainer(config)
    folder = trainer.run()
    if trainer.main:
        print(folder)
    return 0


def _add_mimi(parser: Parser) -> None:
    """Train a Mimi codec on sound files.

    The run's folder (`output`) gets what `aizuchi train moshi` writes, too; model/ holds the codec.
    """
    _add_config(parser)


def _mimi(args: argparse.Namespace) -> int:
    from aizuchi.train.config import load_config
    from aizuchi.train.mimi_config import MimiTraining

    config = load_config(MimiTraining, args.config, args.set)
    if args.show:
        return _show(config)
    from aizuchi.train.mimi_start import make_trainer

    trainer = make_trainer(config)
    folder = trainer.run()
    if trainer.main:
        print(folder)
    return 0


def _add_plot(parser: Parser) -> None:
    """Draw curves of RUN/log.csv to RUN/curves.png, while the run goes on or after it."""
    parser.add_argument("run", help="folder of a run")
    parser.add_argument(
        "--columns", nargs="+", help="one panel with these columns of log.csv (default: all losses)"
    )


def _plot(args: argparse.Namespace) -> int:
    from pathlib import Path

    from aizuchi.errors import AizuchiError
    from aizuchi.train.logs import plot_curves, read_log

    folder = Path(args.run)
    rows = read_log(folder / "log.csv")
    if not rows:
        raise AizuchiError(
            f"{folder / 'log.csv'} does not exist or is empty: is {folder} the folder of a run?"
        )
    names = list(dict.fromkeys(name for row in rows for name in row if "loss" in name))
    train = [n for n in names if not n.startswith("valid_")]
    valid = [n for n in names if n.startswith("valid_")]
    plot_curves(folder / "log.csv", folder / "curves.png", [args.columns] if args.columns else [train, valid])
    print(folder / "curves.png")
    return 0


def _add_merge(parser: Parser) -> None:
    """Merge the adapters of a LoRA run into its base model, which then serves like any other."""
    parser.add_argument("adapter", help="folder with adapter.safetensors: model/ of a LoRA run")
    parser.add_argument("output", help="folder for the merged model")
    parser.add_argument("--base", help="base model (default: the one that the run started from)")


def _merge(args: argparse.Namespace) -> int:
    from aizuchi.train.lora import merge_folder

    print(merge_folder(args.adapter, args.output, args.base))
    return 0


def _add_config(parser: Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file; docs/training.md explains its keys")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value (section.key=value)"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the configuration with all defaults, and stop"
    )


def _show(config: object) -> int:
    from aizuchi.errors import require
    from aizuchi.train.config import to_dict

    print(require("yaml", "train").safe_dump(to_dict(config), sort_keys=False), end="")
    return 0
