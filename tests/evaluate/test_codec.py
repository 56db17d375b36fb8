"""Codec metrics: known values, planted noise that falls in order, and codecs side by side."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.audio import SAMPLE_RATE, write_audio
from aizuchi.errors import AizuchiError, MissingDependencyError
from aizuchi.evaluate.clips import Clip, find_clips
from aizuchi.evaluate.codec.codecs import OpusCodec, Original, TokenCodec, open_codecs
from aizuchi.evaluate.codec.evaluate import evaluate
from aizuchi.evaluate.codec.metrics import METRICS, align, mel_distance, mel_energies, si_sdr
from aizuchi.evaluate.codec.usage import codebook_usage
from aizuchi.evaluate.results import Cache
from tests.evaluate.fakes import BurstRecognizer

ABSOLUTE = {"dnsmos", "distillmos"}  # look at the coded speech alone
NEEDS = {
    "pesq": "pesq",
    "stoi": "pystoi",
    "dnsmos": "speechmos",
    "distillmos": "distillmos",
    "visqol": "visqol",
    "speaker": "resemblyzer",
}


class QuantizingCodec:
    """A codec whose codes are the samples themselves, quantised ever finer: 12.5 frames of 1920 a second."""

    class config:
        codebook_size = 16

    def encode(self, wave):
        frames = torch.nn.functional.pad(wave[:, 0], (0, -wave.shape[-1] % 1920)).unfold(1, 1920, 1920)
        self.sign, level = frames.sign(), frames.abs().amax(-1)  # (B, F)
        codes, rest = [], level
        for k in range(3):
            step = 1.0 / 16 ** (k + 1)
            code = (rest / step).floor().clamp(0, 15).long()
            codes.append(code)
            rest = rest - code * step
        return torch.stack(codes, 1)  # (B, K, F)

    def decode(self, codes):
        level = sum(codes[:, k] / 16.0 ** (k + 1) for k in range(codes.shape[1]))
        return (self.sign * level[..., None]).flatten(1)[:, None]


@pytest.fixture(scope="module")
def speech():
    """4.6 s of speech (DNSMOS doubles a clip up to 9 s or more, and costs by the second)."""
    hibari = pytest.importorskip("hibari")
    voice = hibari.Hibari()
    return voice("The quick brown fox jumps over the lazy dog. Well, what is two plus three?", seed=0)[
        : int(4.6 * SAMPLE_RATE)
    ]


def test_si_sdr_of_a_planted_ratio():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=48_000)
    noise = rng.normal(size=48_000)
    signal -= signal.mean()
    noise -= noise.mean()
    noise -= signal * (noise @ signal) / (signal @ signal)  # orthogonal, so that the ratio is exact
    for decibels in (-5.0, 0.0, 20.0):
        scaled = noise * math.sqrt((signal @ signal) / (noise @ noise) / 10 ** (decibels / 10))
        assert si_sdr(signal, signal + scaled)["SI-SDR"] == pytest.approx(decibels, abs=1e-6)
        assert si_sdr(signal, 0.3 * (signal + scaled) + 0.1)["SI-SDR"] == pytest.approx(decibels, abs=1e-6)
    with pytest.raises(AizuchiError, match="silent"):
        si_sdr(np.zeros(10), np.ones(10))


def test_mel_distance_of_a_planted_gain():
    wave = np.random.default_rng(0).normal(size=24_000) * 0.1
    assert mel_distance(wave, wave, SAMPLE_RATE)["mel distance"] == 0
    # half the amplitude everywhere is ln 2 nepers
    assert mel_distance(wave, wave / 2, SAMPLE_RATE)["mel distance"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_tone_lies_in_its_mel_band():
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    for hertz in (300, 1000, 5000):
        energy = mel_energies(np.sin(2 * np.pi * hertz * time), SAMPLE_RATE).sum(axis=1)
        mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), 82)[1:-1]
        assert abs(700 * (10 ** (mels[energy.argmax()] / 2595) - 1) - hertz) / hertz < 0.06


@pytest.mark.parametrize("name", list(METRICS))
def test_planted_noise_falls_in_order(speech, name):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    noise = np.random.default_rng(1).normal(size=len(speech)).astype(np.float32)
    level = np.sqrt(np.mean(speech**2))
    results = []
    for decibels in (None, 25, 10, -5):
        noisy = speech if decibels is None else speech + noise * level * 10 ** (-decibels / 20)
        results.append(METRICS[name].measure(speech, noisy.astype(np.float32), SAMPLE_RATE))
    for column, (_, better) in METRICS[name].columns.items():
        values = [result[column] for result in results]
        ordered = sorted(values, reverse=better == "higher")
        assert values == ordered and len(set(values)) == 4, f"{column}: {values}"


@pytest.mark.parametrize(
    "name, column, value",
    [
        ("pesq", "PESQ", 4.6439),
        ("stoi", "STOI", 1.0),
        ("visqol", "ViSQOL", 5.0),
        ("speaker", "speaker similarity", 1.0),
    ],
)
def test_an_exact_copy_scores_what_the_standard_says(speech, name, column, value):
    pytest.importorskip(NEEDS[name])
    found = METRICS[name].measure(speech, speech.copy(), SAMPLE_RATE)[column]
    if name == "visqol":  # its lattice mapper gives a copy 4.6, its polynomial 5
        assert 4.5 < found <= value
        return
    assert found == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("lag", [-700, -3, 0, 5, 1100])
def test_alignment_undoes_a_delay(lag):
    wave = np.random.default_rng(0).normal(size=24_000).astype(np.float32)
    moved = np.roll(wave, lag)
    inner = slice(1200, -1200)
    assert np.array_equal(align(wave, moved, SAMPLE_RATE)[inner], wave[inner])


def test_what_agrees_nowhere_is_not_shifted():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 9000)).astype(np.float32)
    assert align(one, other, SAMPLE_RATE) is other
    assert align(one, np.zeros_like(one), SAMPLE_RATE).any() == False  # noqa: E712


@given(st.lists(st.lists(st.integers(0, 7), min_size=4, max_size=4), min_size=1, max_size=30))
def test_usage_within_its_bounds(rows):
    codes = np.array(rows).T  # (4, frames)
    for usage, row in zip(codebook_usage([codes], 8), codes):
        assert usage.used == len(set(row.tolist())) / 8
        assert 0 <= usage.entropy <= math.log2(len(set(row.tolist()))) + 1e-9
        assert usage.perplexity == pytest.approx(2**usage.entropy)


def test_usage_by_hand():
    codes = [np.array([[0, 1, 2, 3], [5, 5, 5, 5]]), np.array([[0, 1, 2, 3], [5, 5, 6, 6]])]
    first, second = codebook_usage(codes, 8)
    assert (first.used, first.entropy, first.perplexity, first.codes) == (0.5, 2.0, 4.0, 8)
    assert second.used == 0.25
    assert second.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    for bad in ([], [np.zeros((2, 0), int)], [codes[0], codes[0][:1]]):
        with pytest.raises(AizuchiError):
            codebook_usage(bad, 8)
    with pytest.raises(AizuchiError, match="outside"):
        codebook_usage(codes, 4)


def test_opus_costs_what_it_says_and_gets_better_with_bits(speech):
    pytest.importorskip("av")
    ratios = []
    for kbps in (6, 12, 32):
        coded = OpusCodec(kbps)(speech)
        assert coded.wave.shape == speech.shape
        assert coded.kbps == pytest.approx(kbps, rel=0.35)
        ratios.append(
            mel_distance(speech, align(speech, coded.wave, SAMPLE_RATE), SAMPLE_RATE)["mel distance"]
        )
    assert ratios == sorted(ratios, reverse=True)
    with pytest.raises(AizuchiError, match="6 to 256"):
        OpusCodec(2)


def test_codecs_side_by_side(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        write_audio(tmp_path / f"clip{i}.wav", rng.uniform(-0.5, 0.5, 24_000))
    (tmp_path / "clip0.txt").write_text("word")
    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")
    model = QuantizingCodec()
    codecs = [Original()] + [TokenCodec(model, k, name="toy") for k in (1, 2, 3)]
    cache = Cache(tmp_path / "cache")
    clips = find_clips([tmp_path])
    assert [(clip.name, clip.text) for clip in clips] == [
        ("broken", None),
        ("clip0", "word"),
        ("clip1", None),
    ]
    section = evaluate(clips, codecs, ["si-sdr", "mel"], BurstRecognizer(), cache, progress=False)
    assert [row["path"] for row in section.broken] == [str(tmp_path / "broken.wav")]
    table = section.tables["Codecs on the same speech"]
    assert list(table) == ["original", "toy, 1 codebook", "toy, 2 codebooks", "toy, 3 codebooks"]
    assert [round(row["bit rate"].value, 6) for row in table.values()] == [384.0, 0.05, 0.1, 0.15]
    assert table["original"]["SI-SDR"].value > 150 and table["original"]["mel distance"].value == 0
    assert table["original"]["SI-SDR"].n == 2
    assert "WER" in table["original"]
    usage = section.tables["Codebooks of toy, 3 codebooks"]
    assert "Codebooks of toy, 2 codebooks" not in section.tables  # they are the same ones
    assert list(usage) == ["codebook 1", "codebook 2", "codebook 3"]
    assert usage["codebook 1"]["entries used"].n == 26  # 13 frames of each clip

    class Fails:
        name = "bursts"

        def __call__(self, wave, rate):
            raise AssertionError("asked again")

    again = evaluate(clips, codecs, ["si-sdr", "mel"], Fails(), cache, progress=False)
    strip = lambda items: [{k: v for k, v in item.items() if k != "real_time"} for item in items]  # noqa: E731
    assert strip(again.items) == strip(section.items)


def test_a_missing_package_is_counted_once_and_named(tmp_path, monkeypatch):
    from aizuchi.evaluate.codec import metrics

    def missing(module, extra):
        raise MissingDependencyError(f"{module}: pip install 'aizuchi[{extra}]'")

    monkeypatch.setattr(metrics, "require", missing)
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 24_000))
    section = evaluate([Clip(tmp_path / "a.wav")] * 2, [Original()], ["pesq", "mel"], progress=False)
    assert section.skipped == [{"what": "pesq", "reason": "pesq: pip install 'aizuchi[eval]'", "count": 1}]
    assert "mel distance" in section.tables["Codecs on the same speech"]["original"]


def test_bad_requests_are_refused(tmp_path):
    for spec in ("opus:loud", "nothing", "os:nothing"):
        with pytest.raises(AizuchiError):
            open_codecs([spec])
    with pytest.raises(AizuchiError, match="codebook_size"):
        TokenCodec(object())
    with pytest.raises(AizuchiError, match="unknown metrics"):
        evaluate([], [], ["loudness"])
    with pytest.raises(AizuchiError, match="no sound file"):
        find_clips([tmp_path])


def test_clips_are_spread_and_known_by_their_metadata(tmp_path):
    for i in range(10):
        write_audio(tmp_path / f"LJ{i}.wav", np.ones(10) * 0.1)
    (tmp_path / "metadata.csv").write_text('LJ0|In 1455,|In fourteen fifty-five,\nLJ5|"Quoted|"Quoted\n')
    clips = find_clips([tmp_path], limit=2)
    assert [(clip.name, clip.text) for clip in clips] == [
        ("LJ0", "In fourteen fifty-five,"),
        ("LJ5", '"Quoted'),
    ]
