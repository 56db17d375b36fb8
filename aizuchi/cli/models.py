"""Say what a checkpoint is: layout, family, sizes, parameters, dtype, delays. Only headers are read.

PATH is a folder, a file or a repository of the Hugging Face hub; without it, the model that comes with aizuchi.

examples:
  aizuchi models
  aizuchi models moshiko-hf
  aizuchi models kyutai/stt-1b-en_fr --json
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `aizuchi models`."""
    parser.add_argument("path", metavar="PATH", nargs="?", help="checkpoint (default: the embedded model)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")


def run(args: argparse.Namespace) -> int:
    """Run `aizuchi models`."""
    import json
    import tempfile
    from pathlib import Path

    from aizuchi.checkpoints.describe import inspect, table
    from aizuchi.checkpoints.load import default_model
    from aizuchi.checkpoints.remote import look

    with tempfile.TemporaryDirectory() as scratch:
        found = look(str(args.path or default_model()), Path(scratch), revision=args.revision)
        facts = inspect(found)
        if Path(scratch) in (found.folder, *found.folder.parents):  # gone when this is read
            facts |= {"folder": None, "tokenizer": found.tokenizer and found.tokenizer.name}
    print(json.dumps(facts, indent=2) if args.json else table(facts))
    return 0
