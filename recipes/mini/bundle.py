"""Take a training elsewhere: `python -m recipes.mini.bundle pack|unpack|state --help`.

A machine with a GPU that is lent for an hour often takes and gives back a few files of a bounded size, and installs
nothing. `pack` makes such files of what a training reads, `unpack` makes folders of them again, and `state` carries a
run over: its newest checkpoint, bit by bit. A bundle is a folder, bundle.json and part-000.bin and so on; it is
copied as a whole, and refused if a part is missing or damaged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from recipes.mini.bundle_parts import BundleError
from recipes.mini.command import RUNS, run_command


def pack_tokens(args: argparse.Namespace) -> int:
    """Token shards, with tokenizer and codec."""
    from recipes.mini.bundle_tokens import pack_tokens

    codec = None if args.no_codec else args.codec
    size, hours = pack_tokens(args.tokens, args.out, _bytes(args), args.tokenizer, codec, args.hours)
    return _report(args, size, f"{hours:.2f} h of tokens")


def pack_clips(args: argparse.Namespace) -> int:
    """The clip cache, its sound in Opus."""
    from recipes.mini.bundle_clips import pack_clips

    size, hours = pack_clips(args.clips, args.out, _bytes(args), args.opus_kbps, args.hours)
    return _report(args, size, f"{hours:.2f} h of clips")


def pack_lines(args: argparse.Namespace) -> int:
    """The assistant's sentences, spoken where they are not yet, in Opus."""
    from recipes.mini.bundle_clips import LINES, pack_clips
    from recipes.mini.codec_data import all_lines
    from recipes.mini.lines import speak_lines

    speak_lines(all_lines(args.lines), args.spoken)
    size, hours = pack_clips(args.spoken, args.out, _bytes(args), args.opus_kbps, kind=LINES)
    return _report(args, size, f"{hours:.2f} h of lines")


def pack_files(args: argparse.Namespace) -> int:
    """Any folder, bit by bit."""
    from recipes.mini.bundle_files import pack_files

    return _report(args, pack_files(args.folder, args.out, _bytes(args)), f"the files of {args.folder}")


def unpack(args: argparse.Namespace) -> int:
    """A bundle back to a new folder."""
    if args.what == "tokens":
        from recipes.mini.bundle_tokens import unpack_tokens

        unpack_tokens(args.bundle, args.out)
    elif args.what == "files":
        from recipes.mini.bundle_files import unpack_files

        unpack_files(args.bundle, args.out)
    else:
        from recipes.mini.bundle_clips import unpack_clips

        unpack_clips(args.bundle, args.out, args.what)
    print(args.out)
    return 0


def pack_state(args: argparse.Namespace) -> int:
    """The newest checkpoint of a run."""
    from recipes.mini.bundle_files import pack_state

    size, name = pack_state(args.run_folder, args.out, _bytes(args))
    return _report(args, size, f"{name} of {args.run_folder}")


def unpack_state(args: argparse.Namespace) -> int:
    """A checkpoint back into a run's folder."""
    from recipes.mini.bundle_files import unpack_state

    print(f"{unpack_state(args.bundle, args.run_folder)} is in {args.run_folder}: the run goes on from there")
    return 0


def _bytes(args: argparse.Namespace) -> int:
    if not args.part_mib > 0:
        raise BundleError(f"--part-mib is {args.part_mib:g}: a part has to hold something")
    return int(args.part_mib * (1 << 20))


def _report(args: argparse.Namespace, size: int, what: str) -> int:
    files = sum(1 for path in args.out.iterdir() if path.is_file())
    print(f"{what}: {size / (1 << 20):.1f} MiB in {files} files, {args.out}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.bundle",
        description=(__doc__ or "").split("\n", 2)[2].strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="what a training reads, as files of a bounded size")
    kinds = pack.add_subparsers(dest="what", required=True)
    _add_tokens(_add_pack(kinds, "tokens", "token shards, tokenizer and codec, exactly", pack_tokens))
    clips = _add_pack(kinds, "clips", "the clip cache, its sound in Opus", pack_clips)
    clips.add_argument(
        "--clips", type=Path, default=RUNS / "clips", help="the clip cache (default %(default)s)"
    )
    clips.add_argument(
        "--hours", type=float, help="at most about so many, of all voices by turns (default: all)"
    )
    lines = _add_pack(
        kinds, "lines", "the assistant's sentences: a codec then trains without TTS", pack_lines
    )
    lines.add_argument(
        "--spoken",
        type=Path,
        default=RUNS / "lines",
        help="folder of the spoken sentences: those that are missing are spoken into it (default %(default)s)",
    )
    lines.add_argument(
        "--lines",
        type=int,
        default=6000,
        help="sentences, and one for validation beside every fifty: data.options.lines of the codec's "
        "configuration (default %(default)s; 1000 are half an hour)",
    )
    for one in (clips, lines):
        one.add_argument(
            "--opus-kbps",
            type=float,
            default=32.0,
            help="kbit/s: 32 takes 15 MB an hour (default %(default)g)",
        )
    files = _add_pack(kinds, "files", "any folder, exactly: a codec, a finished model", pack_files)
    files.add_argument("folder", type=Path, metavar="FOLDER", help="what to pack, with all below it")
    back = commands.add_parser("unpack", help="a bundle as the folder that it was made of")
    kinds = back.add_subparsers(dest="what", required=True)
    for name, what in (
        ("tokens", "train/, valid/, tokenizer.model, heard.txt and codec/ in one folder"),
        ("clips", "a clip cache, in FLAC again"),
        ("lines", "a folder for data.options.spoken of the codec's configuration"),
        ("files", "the folder as it was"),
    ):
        one = kinds.add_parser(name, help=what, description=what)
        one.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder with bundle.json and all parts")
        one.add_argument("--out", type=Path, required=True, help="folder to make; it must not be there yet")
        one.set_defaults(run=unpack)
    state = commands.add_parser("state", help="carry a run over: its newest checkpoint")
    kinds = state.add_subparsers(dest="what", required=True)
    carry = _add_pack(kinds, "pack", "a run's newest checkpoint and its log, exactly", pack_state)
    carry.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run: its `output`")
    back = kinds.add_parser(
        "unpack",
        help="put the checkpoint into a run's folder",
        description="Put the checkpoint into a run's folder: `aizuchi train` with the same configuration and this "
        "folder as `output` goes on from it.",
    )
    back.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder with bundle.json and all parts")
    back.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        required=True,
        help="folder of the run, made if it is not there",
    )
    back.set_defaults(run=unpack_state)
    return parser


def _add_pack(kinds, name: str, what: str, run: Callable) -> argparse.ArgumentParser:
    one = kinds.add_parser(name, help=what, description=f"Pack {what}.")
    one.add_argument(
        "--out", type=Path, required=True, help="folder of the bundle; one that it holds is replaced"
    )
    one.add_argument(
        "--part-mib", type=float, default=15.0, help="size of a file, at most, in MiB (default %(default)g)"
    )
    one.set_defaults(run=run)
    return one


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens", type=Path, default=RUNS / "tokens", help="holds train/ and valid/ (default %(default)s)"
    )
    parser.add_argument(
        "--hours", type=float, help="at most about so many, in whole shards; valid/ is whole (default: all)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=RUNS / "tokenizer.model",
        help="that of the shards; heard.txt is taken from beside it (default %(default)s)",
    )
    parser.add_argument(
        "--codec",
        type=Path,
        default=RUNS / "codec-bf16",
        help="that of the shards; a model from scratch is built on it (default %(default)s)",
    )
    parser.add_argument(
        "--no-codec",
        action="store_true",
        help="leave the codec out: a run that starts from a model has it there",
    )


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
