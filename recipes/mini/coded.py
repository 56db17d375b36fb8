"""What the decoder learns from, coded beforehand: `python -m recipes.mini.coded --help`.

The encoder does not change while the decoder learns, so long rows of `recipes.mini.codec_data` are made and coded once;
rows of a step are stretches of them. For `aizuchi train mimi`: ``data.train: python:recipes.mini.coded:rows``,
``data.valid: python:recipes.mini.coded:validation_rows``. A step then has nothing left to make or to encode, and
`recipes.mini.teach` reads them some 450 times as fast as time.

A shard is `NNNNN.wave.npy`, what is to be heard, int16, `NNNNN.codes.npy`, (K, frames), and `NNNNN.latents.npy`, what
the codec's encoder hears, (frames, C), in `train` or `valid` and there in a folder for each of `KINDS`. Where the
entries of a codec moved since, `--again` codes the latents once more; the assistant's codes stay.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aizuchi.data.codec import MimiCodec, encode, load_codec
from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path
from aizuchi.train.order import keyed_generator
from aizuchi.train.waves import WaveRow
from recipes.mini.codec_data import Waves, told_lines, validation_waves, waves
from recipes.mini.command import RUNS, add_inputs, run_command, run_shards
from recipes.mini.grid import FRAME
from recipes.mini.one_pitch import TRAIN, VALIDATION
from recipes.mini.timing import RATE

# "answers": what the assistant says in dialogues, as often as there; the lines of "assistant" come equally often.
# "own": the assistant, coded not as its voice was learned but by the codec itself
ASSISTANT, ANSWERS, OWN, SOMEONE, ROOM = KINDS = ("assistant", "answers", "own", "someone", "room")
VOICED = (ASSISTANT, ANSWERS)
ANSWERS_GAP = (0.3, 2.0)  # seconds between them
TOLD = 0.4  # of the assistant's rows that its voice coded, answers
SECONDS = 40  # of a shard
GAINS = (-6.0, 3.0)  # dB that others come louder
OWN_CODES = 0.3  # of the assistant's rows
FULL = 32767  # of int16


class Source:
    """Rows of each kind, and their codes.

    Args:
        codec: whose decoder is to learn. voice: what wrote the assistant's codes. pairs: of `recipes.mini.one_pitch`.
        clips, commands, lines: see `codec_data.waves`. codebooks: of both codecs.
    """

    def __init__(
        self,
        codec: Path,
        voice: Path,
        pairs: Path,
        clips: Path,
        commands: str | None,
        lines: int = 6000,
        codebooks: int = 8,
    ):
        self.codec, self.voice = (load_codec(folder, codebooks) for folder in (codec, voice))
        self.given = {"clips": str(clips), "commands": commands, "lines": lines}
        self.pairs = str(pairs)
        self._made: dict[tuple[str, str], Waves] = {}

    def _waves(self, part: str, kind: str) -> Waves:
        if (part, kind) not in self._made:
            made = (validation_waves if part == VALIDATION else waves)(
                **self.given, pairs=self.pairs if kind == SOMEONE else None
            )
            made.shares = {{ANSWERS: ASSISTANT, OWN: ASSISTANT, SOMEONE: "users"}.get(kind, kind): 1.0}
            if kind == ANSWERS:
                made.gap = ANSWERS_GAP
                made.lines = list(told_lines(len(made.lines), part == VALIDATION))
            self._made[part, kind] = made
        return self._made[part, kind]

    @torch.no_grad()
    def make(self, part: str, kind: str, number: int, seconds: int = SECONDS) -> dict[str, np.ndarray]:
        """wave: what is to be heard, (S,) float32. codes: (K, F). latents: (F, C), of all but the assistant."""
        generator = keyed_generator(8, f"coded/{part}/{kind}", number)
        row = self._waves(part, kind).draw(0, round(seconds * RATE / FRAME) * FRAME, generator)
        if kind in VOICED:
            return {"wave": row.wave, "codes": encode(self.voice, row.wave[None])[0]}
        gain = 10 ** (generator.uniform(*GAINS) / 20)
        target = row.wave if row.target is None else row.target
        said = (row.wave * gain).astype(np.float32)
        latents = self.codec.model.encode_latent(torch.from_numpy(said)[None, None])  # (1, C, F)
        return {
            "wave": np.clip(target * gain, -1, 1).astype(np.float32),
            "codes": codes_of(self.codec, latents),
            "latents": latents[0].T.numpy(),
        }


def codes_of(codec: MimiCodec, latents: Tensor) -> np.ndarray:
    """Codes (K, F) int16 of what a codec heard (1, C, F)."""
    return codec.model.quantizer.encode(latents, codec.codebooks)[0].numpy().astype(np.int16)


def _write(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _make_one(work: tuple[Path, int], source: Source) -> float:
    folder, number = work
    made = source.make(folder.parent.name, folder.name, number)
    folder.mkdir(parents=True, exist_ok=True)
    wave = np.round(made.pop("wave") * FULL).astype(np.int16)
    for name, array in (*made.items(), ("wave", wave)):  # what is looked for comes last
        _write(folder / f"{number:05d}.{name}.npy", array)
    return len(wave) / RATE


def code_again(folder: Path, codec: MimiCodec) -> int:
    """Code what was heard once more; the number of shards."""
    paths = sorted(folder.rglob("*.latents.npy"))
    for path in paths:
        latents = torch.from_numpy(np.load(path).T[None].copy())
        _write(path.with_name(path.name.replace("latents", "codes")), codes_of(codec, latents))
    return len(paths)


class Coded:
    """The rows of a folder.

    Args:
        shares: of the kinds.

    Raises:
        AizuchiError: there are none of a kind that has a share.
    """

    def __init__(self, folder: Path, shares: dict[str, float]):
        self.shares = {kind: share for kind, share in shares.items() if share > 0}
        self.shards: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # waves and codes
        self.paths: dict[str, list[Path]] = {}
        for kind in self.shares:
            self.paths[kind] = paths = sorted((Path(folder) / kind).glob("*.wave.npy"))
            if not paths:
                raise AizuchiError(
                    f"{folder} holds nothing coded of {kind}; python -m recipes.mini.coded makes it"
                )
            codes = [path.with_name(path.name.replace("wave", "codes")) for path in paths]
            self.shards[kind] = [(np.load(w, mmap_mode="r"), np.load(c)) for w, c in zip(paths, codes)]

    @functools.cache  # noqa: B019 - a source lives as long as its run
    def latents(self, kind: str, shard: int) -> np.ndarray:
        """What the codec heard of a shard, (F, C); not of the assistant, whose codes another codec wrote."""
        return np.load(
            self.paths[kind][shard].with_name(self.paths[kind][shard].name.replace("wave", "latents"))
        )

    def choose(self, frames: int, generator: np.random.Generator) -> tuple[str, int, int]:
        """Where a row comes from: kind, shard, and its first frame."""
        shares = np.array(list(self.shares.values()))
        kind = list(self.shares)[int(generator.choice(len(shares), p=shares / shares.sum()))]
        shard = int(generator.integers(len(self.shards[kind])))
        longest = self.shards[kind][shard][1].shape[1]
        if frames > longest:
            raise AizuchiError(f"rows of {frames} frames are longer than what is coded, {longest}")
        return kind, shard, int(generator.integers(longest - frames + 1))

    def draw(self, position: int, samples: int, generator: np.random.Generator) -> WaveRow:
        """A row; its waveform can be told where the assistant speaks, whose pitch is the codec's (`grid.py`)."""
        frames = samples // FRAME
        kind, shard, at = self.choose(frames, generator)
        wave, codes = self.shards[kind][shard]
        said = wave[at * FRAME : (at + frames) * FRAME].astype(np.float32) / FULL
        return WaveRow(said, codes=codes[:, at : at + frames].astype(np.int64), phase=kind in (*VOICED, OWN))


def rows(
    folder: str = "runs/mini/coded",
    assistant: float = 0.4,
    room: float = 0.08,
    told: float = TOLD,
    part: str = TRAIN,
) -> Coded:
    """The source of rows.

    Args:
        folder: of shards. assistant, room: shares of rows; the rest are someone's. told: of the assistant's rows by the
            codes its voice has, those that are answers. part: of the folder.
    """
    own = assistant * OWN_CODES
    answers = (assistant - own) * told
    shares = {ASSISTANT: assistant - own - answers, ANSWERS: answers, OWN: own}
    return Coded(Path(folder) / part, shares | {SOMEONE: 1 - assistant - room, ROOM: room})


validation_rows = functools.partial(rows, part=VALIDATION)


def make(args: argparse.Namespace) -> int:
    """Make the shards that are not there yet, or code again those that are."""
    if args.again:
        print(
            f"{code_again(args.out, load_codec(args.codec))} shards of {args.out} have codes of {args.codec}"
        )
        return 0
    if args.voice_codec is None:
        raise AizuchiError("give --voice-codec, what wrote the assistant's codes")
    wanted = [(args.out / TRAIN / kind, i) for kind in KINDS for i in range(getattr(args, kind))]
    wanted += [(args.out / VALIDATION / kind, i) for kind in KINDS for i in range(args.valid)]
    work = [(folder, i) for folder, i in wanted if not (folder / f"{i:05d}.wave.npy").exists()]
    source = functools.partial(Source, args.codec, args.voice_codec, args.pairs, args.clips, args.commands)
    return run_shards(_make_one, work, source, args.jobs)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.coded",
        description="Rows for the decoder to learn from, coded beforehand.",
    )
    add_inputs(parser, "codec", "clips", "commands")
    parser.add_argument(
        "--voice-codec",
        type=Path,
        help="what wrote the assistant's codes; needed but for --again",
    )
    parser.add_argument(
        "--again", action="store_true", help="give what is there the codes that the codec has now"
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        default=RUNS / "one_pitch",
        help="of recipes.mini.one_pitch (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RUNS / "coded", help="folder (default %(default)s)")
    for kind, count in ((ASSISTANT, 300), (ANSWERS, 200), (OWN, 100), (SOMEONE, 480), (ROOM, 30)):
        parser.add_argument(
            f"--{kind}", type=int, default=count, help=f"shards of {SECONDS} s (default %(default)s)"
        )
    parser.add_argument(
        "--valid", type=int, default=8, help="of each kind for validation (default %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes, one thread each (default %(default)s)"
    )
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    torch.set_num_threads(1)
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
