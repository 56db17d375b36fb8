"""Others' speech at the assistant's pitch: what a small decoder learns to make of others' codes.

A codec's frame tells a spectrum, hardly where in it another voice's periods begin. A decoder that says others as it
says the assistant, at one pitch on the codec's grid (`recipes.mini.grid`), need not invent that. What it brought so
far is in the recipe's README, "Other voices". WORLD takes speech apart (Morise et al., 2016; the package pyworld),
the grid's pulses and noise put it together again.

A shard of pairs is `NNNNN.flac` of two channels, what was said and the same at one pitch, and `NNNNN.json`, which says
where each clip lies; `recipes.mini.codec_data` draws rows from them (`pairs`).
"""

from __future__ import annotations

import argparse
import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text
from recipes.mini.command import RUNS, add_inputs, run_command, run_shards
from recipes.mini.grid import FRAME, synthesize
from recipes.mini.timing import RATE

FORMAT = 1
CLIPS = 40  # in a shard: about two minutes
TRAIN, VALIDATION = "train", "valid"  # folders
_HOP = 240
_FFT = 1024
_BINS = 601  # of the grid's spectra
# By how much WORLD's spectra come out of the grid's synthesis too quiet, where there is voice and where there is none:
# of three questions 51 to 79 and 21 to 28. What counts is their ratio.
_VOICED, _NOISE = 58.0, 25.0
_SILENT = 1e-9


def at_one_pitch(audio: np.ndarray) -> np.ndarray:
    """Speech (samples,) at 24 kHz -> (samples,) float32, at `grid.PITCH` from its first sample on, as loud as it was.

    Raises:
        AizuchiError: pyworld is not installed.
    """
    try:
        import pyworld
    except ImportError as error:
        raise AizuchiError(f'pip install pyworld "setuptools<81": it takes voices apart ({error})') from error
    hops = max(1, -(-len(audio) // _HOP))
    # WORLD divides by the power of what it hears; a noise below 16 bits is no sound
    noise = np.random.default_rng(0).normal(size=hops * _HOP) * 1e-5
    wave = np.pad(audio, (0, hops * _HOP - len(audio))).astype(np.float64) + noise
    f0, times = pyworld.harvest(wave, RATE, frame_period=1000 * _HOP / RATE)
    power = pyworld.cheaptrick(wave, f0, times, RATE, fft_size=_FFT)[:hops]
    aperiodic = pyworld.d4c(wave, f0, times, RATE, fft_size=_FFT)[:hops]
    loud = np.sqrt(power)
    voiced = _bins(np.log(_VOICED * loud * np.sqrt(np.clip(1 - aperiodic**2, 0, 1)) + _SILENT))
    hiss = _bins(np.log(_NOISE * loud * aperiodic + _SILENT))
    nothing = np.full_like(hiss, np.log(_SILENT))
    made = synthesize([voiced, np.zeros_like(voiced), hiss, nothing], f0[:hops], _HOP)[: len(audio)]
    scale = np.sqrt(np.mean(audio**2) / max(float(np.mean(made**2)), 1e-12))
    return np.clip(made * scale, -1, 1).astype(np.float32)


def _bins(spectra: np.ndarray) -> np.ndarray:
    """(hops, 513) -> (601, hops) float32, between the same frequencies."""
    place = np.linspace(0, spectra.shape[1] - 1, _BINS)
    low = np.minimum(place.astype(int), spectra.shape[1] - 2)
    part = place - low
    return (spectra[:, low] * (1 - part) + spectra[:, low + 1] * part).T.astype(np.float32)


class Pairs:
    """The pairs of a folder.

    Raises:
        AizuchiError: it holds none; or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.clips: list[tuple[Path, int, int]] = []
        for path in sorted(Path(folder).glob("*.json")):
            head = json.loads(path.read_text(encoding="utf-8"))
            if head.get("format") != FORMAT:
                raise AizuchiError(
                    f"{path}: format {head.get('format')!r} of pairs is not {FORMAT}: make them again"
                )
            audio = path.with_suffix(".flac")
            if not audio.exists():
                raise AizuchiError(f"{audio} is missing; remove {path.name} and make the pairs again")
            self.clips += [(audio, start, stop) for start, stop in head["clips"]]
        if not self.clips:
            raise AizuchiError(f"{folder} holds no pairs; python -m recipes.mini.one_pitch makes them")

    def draw(self, rng: random.Random) -> np.ndarray:
        """(samples, 2) float32 of whole frames: what someone said, and the same at one pitch."""
        path, start, stop = rng.choice(self.clips)
        return soundfile.read(path, start=start, stop=stop, dtype="float32")[0]

    def row(self, samples: int, rng: random.Random) -> np.ndarray:
        """(samples, 2) float32 of one after the other, the first of them often from its middle on."""
        row = np.zeros((samples, 2), np.float32)
        at = 0
        while at < samples:
            clip = self.draw(rng)
            if at == 0 and rng.random() < 0.75:
                clip = clip[FRAME * rng.randint(0, len(clip) * 4 // (5 * FRAME)) :]
            row[at : at + len(clip)] = clip[: samples - at]
            at += len(clip) + FRAME * rng.randint(1, 6)
        return row


def make_pairs(path: Path, source: Any) -> float:
    """Write the shard with this JSON file, of what `source` (see `codec_data.Waves`) has; its seconds."""
    rng = random.Random(f"pairs/{path.parent.name}/{path.stem}")
    parts, clips, at = [], [], 0
    for _ in range(CLIPS):
        audio = source.someone(rng)
        before = rng.randrange(FRAME)  # that clips begin anywhere in a frame
        audio = np.pad(audio, (before, -(before + len(audio)) % FRAME))
        parts.append(np.stack([audio, at_one_pitch(audio)], 1))
        clips.append((at, at + len(audio)))
        at += len(audio)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path.with_suffix(".flac")) as temporary:
        soundfile.write(
            temporary, np.clip(np.concatenate(parts), -1, 1), RATE, format="FLAC", subtype="PCM_16"
        )
    write_text(path, json.dumps({"format": FORMAT, "rate": RATE, "clips": clips}) + "\n")
    return at / RATE


def _sources(clips: str, commands: str | None) -> dict[str, Any]:
    from recipes.mini.codec_data import validation_waves, waves

    parts = {TRAIN: waves, VALIDATION: validation_waves}
    return {part: make(clips, commands, lines=1) for part, make in parts.items()}


def _make_one(path: Path, sources: dict[str, Any]) -> float:
    return make_pairs(path, sources[path.parent.name])


def make(args: argparse.Namespace) -> int:
    """Make the shards that are not there yet."""
    wanted = {TRAIN: args.shards, VALIDATION: args.valid}
    paths = [args.out / part / f"{i:05d}.json" for part, count in wanted.items() for i in range(count)]
    work = [path for path in paths if not path.exists()]
    sources = functools.partial(_sources, str(args.clips), args.commands)
    return run_shards(_make_one, work, sources, args.jobs)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.one_pitch",
        description="Users' clips and recorded requests, and the same at the assistant's pitch, for the decoder.",
    )
    add_inputs(parser, "clips", "commands")
    parser.add_argument("--out", type=Path, default=RUNS / "one_pitch", help="folder (default %(default)s)")
    parser.add_argument("--shards", type=int, default=120, help=f"of {CLIPS} clips (default %(default)s)")
    parser.add_argument("--valid", type=int, default=3, help="shards for validation (default %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes, one thread each (default %(default)s)"
    )
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
