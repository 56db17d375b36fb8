"""Codecs side by side on the same speech."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from aizuchi.audio import SAMPLE_RATE, read_audio
from aizuchi.errors import AizuchiError, MissingDependencyError
from aizuchi.evaluate.clips import Clip
from aizuchi.evaluate.codec.codecs import Codec
from aizuchi.evaluate.codec.metrics import METRICS, align
from aizuchi.evaluate.codec.usage import codebook_usage
from aizuchi.evaluate.recognize import Recognizer
from aizuchi.evaluate.results import Cache, Measure, Section, average, content_key
from aizuchi.evaluate.text import WordErrors, word_errors

VERSION = 1  # of the figures kept


def evaluate(
    clips: Sequence[Clip],
    codecs: Sequence[Codec],
    metrics: Sequence[str] | None = None,
    recognizer: Recognizer | None = None,
    cache: Cache | None = None,
    progress: bool = True,
) -> Section:
    """Measure every codec on every clip.

    The word errors are against a clip's text where it is known, and else against what is heard in the
    recording itself.

    Args:
        clips: recordings.
        codecs: each a row.
        metrics: names from METRICS; None takes all whose packages are installed.
        recognizer: for word errors after coding; None leaves them out.
        cache: keeps figures by what was compared.
        progress: show a bar.

    Raises:
        AizuchiError: a metric is unknown.
    """
    comparison = Comparison(codecs, metrics, recognizer, cache)
    for clip in tqdm(clips, desc="codecs", unit="", disable=None if progress else True):
        comparison.add(clip)
    return comparison.finish()


class Comparison:
    """Codecs side by side on recordings that come one by one; see `evaluate` for the arguments.

    Raises:
        AizuchiError: a metric is unknown.
    """

    def __init__(
        self,
        codecs: Sequence[Codec],
        metrics: Sequence[str] | None = None,
        recognizer: Recognizer | None = None,
        cache: Cache | None = None,
    ) -> None:
        chosen = list(METRICS) if metrics is None else list(metrics)
        unknown = sorted(set(chosen) - set(METRICS))
        if unknown:
            raise AizuchiError(f"unknown metrics {', '.join(unknown)}: choose from {', '.join(METRICS)}")
        self.section = Section("codec", about={"clips": 0, "metrics": chosen})
        if recognizer:
            self.section.about["recognizer"] = recognizer.name
        self._codecs = codecs
        self._meter = _Meter(chosen, recognizer, cache or Cache(None), self.section)
        self._codes: dict[str, list[np.ndarray]] = {}

    def add(self, clip: Clip) -> None:
        """Code a recording with every codec, and measure; one that can't be read is counted as broken."""
        section = self.section
        section.about["clips"] += 1
        try:
            wave = read_audio(clip.path)[0]
        except (AizuchiError, OSError) as error:
            section.broken.append({"path": str(clip.path), "reason": str(error)})
            return
        for codec in self._codecs:
            start = time.perf_counter()
            coded = codec(wave)
            spent = time.perf_counter() - start
            if coded.codes is not None:
                self._codes.setdefault(codec.name, []).append(coded.codes)
            figures, errors = self._meter.measure(clip, wave, align(wave, coded.wave, SAMPLE_RATE))
            section.items.append(
                {
                    "id": clip.name,
                    "codec": codec.name,
                    "seconds": round(len(wave) / SAMPLE_RATE, 3),
                    "kbps": coded.kbps,
                    "real_time": None if coded.wave is wave else spent / (len(wave) / SAMPLE_RATE),
                    "figures": figures,
                    "errors": errors,
                }
            )

    def finish(self) -> Section:
        """The section with its tables."""
        section = self.section
        section.about["seconds of speech"] = round(
            sum({item["id"]: item["seconds"] for item in section.items}.values()), 1
        )
        section.tables["Codecs on the same speech"] = {
            codec.name: _row(codec.name, section.items) for codec in self._codecs
        }
        for codec in self._codecs:
            codes = self._codes.get(codec.name)
            # one that is another's first codebooks has nothing of its own to tell
            if codes and not any(_are_first_of(codes, more) for more in self._codes.values()):
                section.tables[f"Codebooks of {codec.name}"] = _usage_rows(codes, codec)
        return section


def _are_first_of(some: list[np.ndarray], more: list[np.ndarray]) -> bool:
    return len(some) == len(more) and all(
        len(a) < len(b) and np.array_equal(a, b[: len(a)]) for a, b in zip(some, more)
    )


class _Meter:
    """Figures of one pair of waves, each metric kept by itself."""

    def __init__(
        self, metrics: list[str], recognizer: Recognizer | None, cache: Cache, section: Section
    ) -> None:
        self._metrics, self._recognizer, self._cache, self._section = metrics, recognizer, cache, section
        self._missing: set[str] = set()

    def measure(
        self, clip: Clip, wave: np.ndarray, coded: np.ndarray
    ) -> tuple[dict[str, float], dict[str, int] | None]:
        figures: dict[str, float] = {}
        for name in self._metrics:
            if name in self._missing:
                continue
            key = content_key("codec", VERSION, name, wave, coded)
            try:
                found = self._cache.get(key)
                if found is None:
                    found = METRICS[name].measure(wave, coded, SAMPLE_RATE)
                    self._cache.put(key, found)
                figures.update(found)
            except MissingDependencyError as error:
                self._missing.add(name)
                self._section.skip(name, str(error))
            except AizuchiError as error:
                self._section.skip(name, str(error))
        return figures, self._errors(clip, wave, coded)

    def _errors(self, clip: Clip, wave: np.ndarray, coded: np.ndarray) -> dict[str, int] | None:
        if self._recognizer is None:
            return None
        wanted = clip.text if clip.text is not None else self._heard(wave)
        found = word_errors(wanted, self._heard(coded))
        return {
            "words": found.words,
            "substitutions": found.substitutions,
            "deletions": found.deletions,
            "insertions": found.insertions,
        }

    def _heard(self, wave: np.ndarray) -> str:
        assert self._recognizer is not None
        key = content_key("heard", VERSION, self._recognizer.name, wave)
        text = self._cache.get(key)
        if text is None:
            text = self._recognizer(wave, SAMPLE_RATE).text
            self._cache.put(key, text)
        return text


def _row(name: str, items: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    mine = [item for item in items if item["codec"] == name]
    row = {"bit rate": average([item["kbps"] for item in mine], "kb/s")}
    for metric in METRICS.values():
        for column, (unit, better) in metric.columns.items():
            values = [item["figures"].get(column) for item in mine]
            if any(value is not None for value in values):
                row[column] = average(values, unit, better)
    counted = [item for item in mine if item["errors"] is not None]
    if counted:
        errors = sum((WordErrors(**item["errors"]) for item in counted), WordErrors())
        value = None if errors.rate is None else 100 * errors.rate
        row["WER"] = Measure(value, len(counted), "%", "lower")
    row["coding time / duration"] = average(
        [item["real_time"] for item in mine], "", "lower", median=True, note="median; coding and decoding"
    )
    return row


def _usage_rows(codes: list[np.ndarray], codec: Any) -> dict[str, dict[str, Measure]]:
    size, rate = codec.codebook_size, codec.frame_rate
    rows = {}
    for i, usage in enumerate(codebook_usage(codes, size)):
        rows[f"codebook {i + 1}"] = {
            "entries used": Measure(100 * usage.used, usage.codes, "%", "higher"),
            "perplexity": Measure(usage.perplexity, usage.codes, "", "higher", note=f"of {size}"),
            "entropy": Measure(usage.entropy, usage.codes, "bits", "higher"),
            "entropy rate": Measure(usage.entropy * rate / 1000, usage.codes, "kb/s"),
        }
    return rows
