"""What a codec does to a recording, one function a metric; each package is optional (extra `eval`).

A metric takes the recording and what came out of the codec, both (samples,) at the same rate and aligned,
and gives named figures.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from aizuchi.errors import AizuchiError, MissingDependencyError, require

LOW_RATE = 16_000  # what the perceptual metrics are defined for
Figures = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and how its figures are read.

    Attributes:
        measure: (recording, coded, rate) -> figures.
        columns: figure -> (unit, which way is better).
    """

    measure: Callable[[np.ndarray, np.ndarray, int], Figures]
    columns: dict[str, tuple[str, str]]


def si_sdr(given: np.ndarray, coded: np.ndarray, rate: int = LOW_RATE) -> Figures:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., arXiv 1811.02508)."""
    given, coded = given.astype(np.float64) - given.mean(), coded.astype(np.float64) - coded.mean()
    energy = float(given @ given)
    if energy == 0:
        raise AizuchiError("the recording is silent")
    target = given * (float(coded @ given) / energy)
    error = coded - target
    ratio = float(target @ target) / max(float(error @ error), 1e-20 * energy)
    return {"SI-SDR": float(10 * np.log10(max(ratio, 1e-20)))}


def mel_distance(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """Mean absolute difference of log mel spectra, in nepers (1 is 8.7 dB): 80 bands, 1024-point windows.

    Energies are taken no lower than 80 dB below the recording's loudest band.
    """
    first, second = mel_energies(given, rate), mel_energies(coded, rate)
    floor = max(float(first.max()) * 1e-8, 1e-20)
    difference = np.log(np.maximum(first, floor)) - np.log(np.maximum(second, floor))
    return {"mel distance": float(np.abs(difference).mean()) / 2}  # of amplitudes: half of that of energies


def mel_energies(
    wave: np.ndarray, rate: int, bands: int = 80, size: int = 1024, hop: int = 256
) -> np.ndarray:
    """Energies in mel bands, (bands, frames), on the scale of O'Shaughnessy (2595 log10(1 + f/700))."""
    padded = np.pad(wave.astype(np.float64), (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (frames, size)
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2  # (frames, size / 2 + 1)
    return _mel_bank(rate, bands, size) @ power.T


@functools.lru_cache(maxsize=4)
def _mel_bank(rate: int, bands: int, size: int) -> np.ndarray:
    """Triangles evenly spaced on the mel scale, each of unit sum, (bands, size / 2 + 1)."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(size, 1 / rate)[None]
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(
        np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)), 0, None
    )
    # a band narrower than a bin takes the nearest one
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(frequency[0] - middle[band, 0]).argmin()] = 1.0
    return bank / bank.sum(axis=1, keepdims=True)


def pesq_wideband(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """PESQ, wide band (ITU-T P.862.2), 1.04 to 4.64."""
    pesq = require("pesq", extra="eval")
    try:
        value = pesq.pesq(LOW_RATE, _low(given, rate), _low(coded, rate), "wb")
    except (pesq.PesqError, ValueError) as error:
        raise AizuchiError(f"PESQ finds no speech to compare ({error})") from error
    return {"PESQ": float(value)}


def stoi(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """Short-time objective intelligibility (Taal et al. 2011) and its extended form, up to 1."""
    pystoi = require("pystoi", extra="eval")
    first, second = _low(given, rate), _low(coded, rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns, and gives 1e-5, where speech is too short
        try:
            return {
                "STOI": float(pystoi.stoi(first, second, LOW_RATE)),
                "ESTOI": float(pystoi.stoi(first, second, LOW_RATE, extended=True)),
            }
        except RuntimeWarning as error:
            raise AizuchiError(f"STOI can't be computed: {error}") from error


def dnsmos(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """DNSMOS P.835 overall and P.808 (predicted from the coded speech alone), 1 to 5."""
    result = _dnsmos_model()(np.clip(_low(coded, rate), -1.0, 1.0), LOW_RATE, False)
    return {"DNSMOS": float(result["ovrl_mos"]), "DNSMOS P.808": float(result["p808_mos"])}


@functools.cache
def _dnsmos_model() -> Any:
    """The package's scorer on one thread: its own sessions spin on every core."""
    module, runtime = require("speechmos.dnsmos", extra="eval"), require("onnxruntime", extra="eval")
    folder = Path(str(module.__file__)).parent / "dnsmos_models"
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    scorer = module.DNSMOS(*paths)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    scorer.onnx_sess, scorer.p808_onnx_sess = (runtime.InferenceSession(path, options) for path in paths)
    return scorer


def distillmos(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """DistillMOS (predicted from the coded speech alone), 1 to 5."""
    import torch

    model = _distillmos_model()
    with torch.no_grad():
        value = model(torch.from_numpy(_low(coded, rate))[None])
    return {"DistillMOS": float(value.reshape(-1)[0])}


@functools.cache
def _distillmos_model() -> Any:
    with _torchaudio_stand_in(), contextlib.redirect_stdout(io.StringIO()):  # it prints its weights' path
        model = require("distillmos", extra="eval").ConvTransformerSQAModel()
    return model.eval()


@contextlib.contextmanager
def _torchaudio_stand_in() -> Iterator[None]:
    """distillmos imports torchaudio, and uses it only to load files, which nobody here asks of it.

    Where it is not installed, or was built for another torch, an empty module stands in for it.
    """
    try:
        importlib.import_module("torchaudio")
        stand_in = False
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        stand_in = True
    try:
        yield
    finally:
        if stand_in:
            del sys.modules["torchaudio"]


def visqol(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """ViSQOL v3 in speech mode, MOS 1 to 5. Without its lattice runtime it predicts too high."""
    result = _visqol_api().measure_from_arrays(
        _low(given, rate).astype(np.float64), _low(coded, rate).astype(np.float64), LOW_RATE
    )
    return {"ViSQOL": float(result.moslqo)}


@functools.cache
def _visqol_api() -> Any:
    module = require("visqol", extra="eval")
    logging.getLogger("visqol").setLevel(logging.ERROR)  # of its mapper's fallback, which the docs tell
    api = module.VisqolApi()
    api.create(mode="speech")
    return api


def speaker_similarity(given: np.ndarray, coded: np.ndarray, rate: int) -> Figures:
    """Cosine of the two recordings' speaker embeddings (Resemblyzer), up to 1."""
    encoder = _speaker_encoder()
    audio = _resemblyzer()
    vectors = []
    for wave in (given, coded):
        low = audio.preprocess_wav(_low(wave, rate))
        if len(low) < LOW_RATE // 2:
            raise AizuchiError("under half a second of speech: too short to tell speakers by")
        vectors.append(encoder.embed_utterance(low))
    return {"speaker similarity": float(vectors[0] @ vectors[1])}


@functools.cache
def _speaker_encoder() -> Any:
    return _resemblyzer().VoiceEncoder("cpu", verbose=False)


def _resemblyzer() -> Any:
    """It is in no extra, since it asks for a package that no longer builds."""
    try:
        return require("resemblyzer", extra="eval")
    except MissingDependencyError as error:
        message = f"{error}, and: pip install --no-deps resemblyzer webrtcvad-wheels"
        raise MissingDependencyError(message) from error


METRICS: dict[str, Metric] = {
    "pesq": Metric(pesq_wideband, {"PESQ": ("MOS", "higher")}),
    "stoi": Metric(stoi, {"STOI": ("", "higher"), "ESTOI": ("", "higher")}),
    "si-sdr": Metric(si_sdr, {"SI-SDR": ("dB", "higher")}),
    "mel": Metric(mel_distance, {"mel distance": ("Np", "lower")}),
    "dnsmos": Metric(dnsmos, {"DNSMOS": ("MOS", "higher"), "DNSMOS P.808": ("MOS", "higher")}),
    "distillmos": Metric(distillmos, {"DistillMOS": ("MOS", "higher")}),
    "visqol": Metric(visqol, {"ViSQOL": ("MOS", "higher")}),
    "speaker": Metric(speaker_similarity, {"speaker similarity": ("", "higher")}),
}


def align(given: np.ndarray, coded: np.ndarray, rate: int, max_seconds: float = 0.05) -> np.ndarray:
    """Shift a coded wave by up to 50 ms to where it agrees best with the recording; the length stays.

    A codec's own delay is not distortion. Where nothing agrees, nothing is shifted.
    """
    reach = int(max_seconds * rate)
    size = 1 << (2 * len(given) + 2 * reach).bit_length()
    spectrum = np.fft.rfft(coded, size) * np.fft.rfft(given, size).conj()
    correlation = np.fft.irfft(spectrum, size)
    lags = np.concatenate([correlation[-reach:], correlation[: reach + 1]]) if reach else correlation[:1]
    lag = int(lags.argmax()) - reach  # positive: coded is late
    norm = np.sqrt(float(given.astype(np.float64) @ given) * float(coded.astype(np.float64) @ coded))
    if norm == 0 or lags.max() < 0.3 * norm or lag == 0:
        return coded
    out = np.zeros_like(coded)
    if lag > 0:
        out[:-lag] = coded[lag:]
    else:
        out[-lag:] = coded[:lag]
    return out


def _low(wave: np.ndarray, rate: int) -> np.ndarray:
    wave = soxr.resample(wave, rate, LOW_RATE) if rate != LOW_RATE else wave
    return np.ascontiguousarray(wave, dtype=np.float32)
