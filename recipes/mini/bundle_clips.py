"""The clip cache as a bundle: its sound as Ogg Opus, a sixth of FLAC's size, its times as they are.

Unpacked, it is FLAC again, sample by sample as long and in the same place, so that all words and phones keep their
times. Spoken lines (`recipes.mini.lines`) lie in the same layout and are packed the same way.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from aizuchi.audio import read_audio_with_rate
from recipes.mini.bundle_codings import exact_content, exact_item
from recipes.mini.bundle_parts import Bundle, BundleError, Item, new_folder, write_bundle, write_file
from recipes.mini.clips import read_shard
from recipes.mini.timing import RATE

CLIPS, LINES = "clips", "lines"
KBPS = (6.0, 256.0)  # what libsndfile's `compression_level` of 1 to 0 stands for in Opus, for one channel
_OPUS = "opus"
_BLOCK = 1 << 16  # samples a call: encoders keep a whole call's on their stack
_SHIFT = 480  # samples by which a decoder may be early or late
_LOOKED_AT = 10 * RATE  # samples, enough to tell that


def pack_clips(
    clips: Path,
    out: Path,
    part_bytes: int,
    kbps: float = 32.0,
    hours: float | None = None,
    kind: str = CLIPS,
) -> tuple[int, float]:
    """Pack a folder of clip shards; returns the bundle's bytes and the hours in it.

    Args:
        kbps: of the sound. hours: so much of it, in whole shards, by turns of all voices; None takes all.
        kind: of the bundle, CLIPS or LINES.

    Raises:
        AizuchiError: there are no clips, a shard is damaged, or its voice is held out; nothing is written then.
    """
    if not KBPS[0] <= kbps <= KBPS[1]:
        raise BundleError(f"--opus-kbps is {kbps:g}; Opus takes {KBPS[0]:g} to {KBPS[1]:g} here")
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        raise BundleError("this libsndfile can't write Opus: version 1.0.29 or newer is needed")
    found = sorted(clips.rglob("*.json"), key=lambda path: (path.stem, path))  # all voices by turns
    if not found:
        raise BundleError(f"{clips} holds no clips")
    chosen, seconds = [], 0.0
    for path in found:
        if hours is not None and seconds >= hours * 3600:
            break
        spoken = read_shard(path)  # refuses what no training may hear
        chosen.append((path, max(clip.stop for clip in spoken)))
        seconds += chosen[-1][1] / RATE

    def items() -> Iterator[Item]:
        for path, least in tqdm(chosen, unit="shard", desc="coding"):
            name = path.relative_to(clips)
            yield _opus_item(name.with_suffix(".flac").as_posix(), path.with_suffix(".flac"), kbps, least)
            yield exact_item(name.as_posix(), path.read_bytes(), "lzma")

    size = write_bundle(out, kind, items(), part_bytes, {"hours": round(seconds / 3600, 3), "kbps": kbps})
    return size, seconds / 3600


def unpack_clips(bundle: Path, out: Path, kind: str = CLIPS) -> None:
    """Write what `pack_clips` packed to a new folder, as `ClipLibrary` reads it.

    Raises:
        BundleError: anything is damaged, or the sound is not as long as it was.
    """
    opened = Bundle(bundle, kind)
    with new_folder(out) as folder:
        for item in tqdm(opened.items(), total=len(opened.names), unit="file", desc="decoding"):
            if item.coding != _OPUS:
                write_file(folder, item.name, exact_content(item))
                continue
            path = write_file(folder, item.name, b"")
            soundfile.write(path, _decoded(item), RATE, format="FLAC", subtype="PCM_16")


def encode_opus(samples: np.ndarray, kbps: float) -> bytes:
    """Ogg Opus of samples (S,) float32 at 24 kHz."""
    level = (KBPS[1] - kbps) / (KBPS[1] - KBPS[0])
    blob = io.BytesIO()
    with soundfile.SoundFile(
        blob, "w", RATE, 1, format="OGG", subtype="OPUS", compression_level=level
    ) as sink:
        for start in range(0, len(samples), _BLOCK):
            sink.write(samples[start : start + _BLOCK])
    return blob.getvalue()


def decode_opus(blob: bytes) -> np.ndarray:
    """Samples (S,) float32 at 24 kHz, as many as were encoded, up to what the decoder is early or late by."""
    samples, rate = soundfile.read(io.BytesIO(blob), dtype="float32")
    if rate != RATE or samples.ndim != 1:
        raise BundleError(f"Opus came back at {rate} Hz and not as mono at {RATE} Hz")
    return samples


def shift_between(original: np.ndarray, decoded: np.ndarray) -> int:
    """Samples (at most 480) by which sound lies later in `decoded` than in `original`, by where they agree best."""
    count = min(len(original), len(decoded))
    start = max(0, min(int(np.abs(original[:count]).argmax()) - _LOOKED_AT // 2, count - _LOOKED_AT))
    a, b = (x[start : min(count, start + _LOOKED_AT)] for x in (original, decoded))
    size = 1 << (len(a) + 2 * _SHIFT).bit_length()
    agreement = np.fft.irfft(np.fft.rfft(a, size).conj() * np.fft.rfft(b, size), size)
    near = np.concatenate([agreement[-_SHIFT:], agreement[: _SHIFT + 1]])
    return int(near.argmax()) - _SHIFT


def _opus_item(name: str, path: Path, kbps: float, least: int) -> Item:
    """The sound of a shard whose last clip ends at sample `least`."""
    channels, rate = read_audio_with_rate(path, rate=None, mono=False)
    if rate != RATE or len(channels) != 1:
        raise BundleError(f"{path} is not mono at {RATE} Hz")
    if len(samples := channels[0]) < least:
        raise BundleError(f"{path} is cut: {len(samples)} samples, and clips up to {least}")
    blob = encode_opus(samples, kbps)
    decoded = decode_opus(blob)
    shift = shift_between(samples, decoded)
    if abs(shift) == _SHIFT or abs(len(decoded) - len(samples)) > _SHIFT:
        raise BundleError(f"{path} does not come back from Opus in its place")
    return Item(name, _OPUS, blob, {"samples": len(samples), "shift": shift})


def _decoded(item: Item) -> np.ndarray:
    """The sound of an item (samples,), where it was."""
    count, shift = item.about["samples"], item.about["shift"]
    try:
        decoded = decode_opus(item.blob)
    except soundfile.LibsndfileError as error:
        raise BundleError(f"{item.name} is damaged ({error.error_string}): pack it again") from error
    if abs(len(decoded) - count) > _SHIFT:
        raise BundleError(f"{item.name} is damaged: {len(decoded)} samples instead of {count}")
    placed = np.zeros(count, np.float32)
    part = decoded[max(0, shift) :][: count - max(0, -shift)]
    placed[max(0, -shift) :][: len(part)] = part
    return np.clip(placed, -1.0, 1.0)
