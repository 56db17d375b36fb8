"""flite, SVOX Pico and festival: older synthesisers, for variety among the users' voices.

flite and festival print their segments, so word times are exact; Pico tells nothing, and its word times are
estimated from the lengths of the words inside the spoken stretch.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from aizuchi.errors import AizuchiError
from recipes.mini.timing import RATE, Span, Spoken, sound_edges, spread, trim

_SEGMENT = re.compile(r"(\S+):([\d.]+)")


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise AizuchiError(f"{name} is not installed; apt-get install flite festival festvox-us-slt-hts")
    return path


def _read(path: str | Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32")
    return _level(soxr.resample(audio, rate, RATE).astype(np.float32))


def _level(audio: np.ndarray, peak: float = 0.7) -> np.ndarray:
    """The engines differ by 20 dB; bring each clip to one peak."""
    top = float(np.abs(audio).max(initial=0.0))
    return audio * (peak / top) if top > 1e-4 else audio


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise AizuchiError(f"{os.path.basename(command[0])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


class FliteVoice:
    """A flite voice: rms, slt, awb or kal16."""

    def __init__(self, speaker: str) -> None:
        self.tool, self.speaker = _tool("flite"), speaker

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """Synthesise `text`; see `recipes.mini.voices.Engine`."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "clip.wav")
            stretch = f"duration_stretch={1 / speed:.3f}"
            options = ["-voice", self.speaker, "--setf", stretch, "-psdur", "-t", text, "-o", path]
            printed = _run([self.tool, *options])
            audio = _read(path)
        segments, start = [], 0.0
        for name, end in _SEGMENT.findall(printed):
            segments.append((name, start, float(end)))
            start = float(end)
        words = self._words(text.split(), segments)
        phones = tuple(s for s in segments if s[0] != "pau")
        if words is None:
            words = spread(text.split(), [len(w) for w in text.split()], phones[0][1], phones[-1][2])
            return trim(Spoken(audio, words, phones, exact=False))
        return trim(Spoken(audio, words, phones))

    def _words(self, words: list[str], segments: list[Span]) -> tuple[Span, ...] | None:
        """Give each word its segments: the phones of the words said alone are aligned with the spoken ones."""
        spoken = [s for s in segments if s[0] != "pau"]
        alone = [(phone, i) for i, word in enumerate(words) for phone in _phones_alone(self.tool, word)]
        matcher = difflib.SequenceMatcher(None, [p for p, _ in alone], [s[0] for s in spoken], autojunk=False)
        owners: list[list[int]] = [[] for _ in words]
        for block in matcher.get_opcodes():
            tag, a0, a1, b0, b1 = block
            if tag == "delete":
                continue
            for b in range(b0, b1):
                # an inserted or replaced phone goes to the word at the same relative place
                a = a0 + (b - b0) if tag == "equal" else a0 + (b - b0) * max(a1 - a0, 1) // max(b1 - b0, 1)
                owners[alone[min(a, len(alone) - 1)][1]].append(b)
        if not all(owners):
            return None
        return tuple((w, spoken[min(o)][1], spoken[max(o)][2]) for w, o in zip(words, owners))


@functools.lru_cache(maxsize=8192)
def _phones_alone(tool: str, word: str) -> tuple[str, ...]:
    printed = _run([tool, "-voice", "kal16", "-ps", "-t", word.strip(".,?!") or word, "-o", os.devnull])
    return tuple(p for p in printed.split() if p != "pau")


class PicoVoice:
    """SVOX Pico by the package ttspico: "en-US" or "en-GB"."""

    def __init__(self, speaker: str) -> None:
        try:
            import ttspico
        except ImportError as error:
            raise AizuchiError("ttspico is not installed; pip install ttspico") from error
        self.engine = ttspico.TtsEngine(speaker)

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """Synthesise `text`; see `recipes.mini.voices.Engine`."""
        self.engine.rate = round(100 * speed)
        pcm = np.frombuffer(self.engine.speak(text), np.int16).astype(np.float32) / 32768
        audio = _level(soxr.resample(pcm, 16_000, RATE).astype(np.float32))
        words = text.split()
        # A comma or a full stop inside is a pause; give the word before it that time as weight.
        weights = [
            len(w) + (2.5 if w[-1] in ".,?!" and i + 1 < len(words) else 0) for i, w in enumerate(words)
        ]
        return trim(Spoken(audio, spread(words, weights, *sound_edges(audio)), exact=False))


class FestivalVoice:
    """Festival's voice slt (festvox-us-slt-hts)."""

    def __init__(self, speaker: str) -> None:
        self.tool = _tool("festival")
        self.voice = {"slt": "voice_cmu_us_slt_arctic_hts"}[speaker]

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """Synthesise `text`; see `recipes.mini.voices.Engine`."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "clip.wav")
            quoted = text.replace("\\", "").replace('"', "")
            first = "R:SylStructure.daughter1.daughter1.R:Segment.segment_start"
            last = "R:SylStructure.daughtern.daughtern.R:Segment.end"
            script = f"""({self.voice})
                (Parameter.set 'Duration_Stretch {1 / speed:.3f})
                (set! utt (utt.synth (Utterance Text "{quoted}")))
                (utt.save.wave utt "{path}" 'riff)
                (mapcar (lambda (w) (format t "%s %f %f\\n" (item.name w) (item.feat w '{first})
                    (item.feat w '{last}))) (utt.relation.items utt 'Word))"""
            Path(folder, "say.scm").write_text(script)
            printed = _run([self.tool, "-b", os.path.join(folder, "say.scm")])
            audio = _read(path)
        rows = [line.split() for line in printed.splitlines() if len(line.split()) == 3]
        words = _merge([(name, float(start), float(end)) for name, start, end in rows], text.split())
        if words is None:
            spans = text.split()
            words = spread(spans, [len(w) for w in spans], *sound_edges(audio))
            return trim(Spoken(audio, words, exact=False))
        return trim(Spoken(audio, words))


def _merge(tokens: list[Span], words: list[str]) -> tuple[Span, ...] | None:
    """Tokens as the engine split them ("what", "'s") back into the written words; None if they don't fit."""
    spans, i = [], 0
    for word in words:
        wanted = re.sub(r"[^a-z']", "", word.lower())
        got, first = "", i
        while i < len(tokens) and got != wanted:
            got += tokens[i][0].lower()
            i += 1
        if got != wanted or first == i:
            return None
        start, end = tokens[first][1], max(t[2] for t in tokens[first:i])
        if tokens[i - 1][2] <= tokens[i - 1][1] and i < len(tokens):
            end = max(end, tokens[i][1])  # a clitic ("'s") has no segments of its own here
        if end <= start or (spans and start < spans[-1][1]):
            return None
        spans.append((word, start, end))
    return tuple(spans) if i == len(tokens) else None


ENGINES = {"flite": FliteVoice, "pico": PicoVoice, "festival": FestivalVoice}
