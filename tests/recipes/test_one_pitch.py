"""Others' speech at the assistant's pitch."""

import random

import numpy as np
import pytest

pytest.importorskip("hibari")
pytest.importorskip("pyworld")

from aizuchi.errors import AizuchiError
from recipes.mini.codec_data import waves
from recipes.mini.grid import FRAME, PITCH
from recipes.mini.one_pitch import CLIPS, Pairs, at_one_pitch, main, make_pairs
from recipes.mini.timing import RATE


def vowel(pitch: float, seconds: float = 0.8, formant: float = 900.0) -> np.ndarray:
    """Harmonics of a pitch that glides a fifth of it down, loudest around a formant."""
    time = np.arange(round(seconds * RATE)) / RATE
    angle = 2 * np.pi * np.cumsum(pitch * (1 - 0.2 * time / seconds)) / RATE
    orders = np.arange(1, int(8000 // pitch))
    loud = 1 / (1 + ((orders * pitch - formant) / 300) ** 2)
    return (0.05 * (loud[:, None] * np.sin(orders[:, None] * angle)).sum(0)).astype(np.float32)


class Speaker:
    """Says vowels, one higher than the other, with silence around them."""

    def someone(self, rng):
        return np.pad(vowel(rng.uniform(90, 260), 0.3), 2400)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for part in ("train", "valid"):
        assert make_pairs(folder / part / "00000.json", Speaker()) > CLIPS * 0.5
    return folder


def periodic(wave: np.ndarray, period: int) -> float:
    """How much of it comes again after a period, 1 for all."""
    return float((wave[period:] * wave[:-period]).sum() / (wave[period:] ** 2).sum())


@pytest.mark.parametrize("pitch", [110.0, 230.0])
def test_a_voice_keeps_its_spectrum_and_loses_its_pitch(pitch):
    said = vowel(pitch)
    made = at_one_pitch(said)
    middle = slice(3 * FRAME, 8 * FRAME)
    assert made.shape == said.shape and made.dtype == np.float32
    before, after = (periodic(x[middle], round(RATE / PITCH)) for x in (said, made))
    assert after > 0.95 and after - before > 0.25
    assert np.sqrt((made**2).mean() / (said**2).mean()) == pytest.approx(1, abs=0.02)
    frequencies = np.fft.rfftfreq(middle.stop - middle.start, 1 / RATE)
    for low, high in ((0, 600), (600, 1200), (1200, 2400)):
        inside = (frequencies >= low) & (frequencies < high)
        energy = [float((np.abs(np.fft.rfft(x[middle]))[inside] ** 2).sum()) for x in (said, made)]
        assert abs(10 * np.log10(energy[1] / energy[0])) < 5  # harmonics lie elsewhere in a band


def test_silence_stays_silent():
    said = np.concatenate([np.zeros(12000), vowel(150.0), np.zeros(12000)]).astype(np.float32)
    made = at_one_pitch(said)
    assert np.abs(made[:9600]).max() < 1e-3 and np.abs(made[-9600:]).max() < 1e-3
    assert np.abs(at_one_pitch(np.zeros(5000, np.float32))).max() < 1e-3


def test_rows_lie_on_the_grid(pairs):
    found = Pairs(pairs / "train")
    assert len(found.clips) == CLIPS
    row = found.row(20 * FRAME, random.Random(1))
    assert row.shape == (20 * FRAME, 2) and row.dtype == np.float32 and row.any(0).all()
    assert np.array_equal(row, found.row(20 * FRAME, random.Random(1)))
    # wherever a clip begins: from one loud frame to the next, and over gaps, the same periods
    period = round(RATE / PITCH)
    loud = np.flatnonzero(row[:, 1].reshape(-1, FRAME).std(1) > 0.02)
    folded = [row[i * FRAME :][:FRAME, 1].reshape(-1, period).mean(0) for i in loud]
    alike = [float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(folded, folded[1:])]
    assert len(alike) >= 8 and min(alike) > 0.8


def test_the_codecs_rows_of_others_ask_for_what_is_at_one_pitch(pairs, tmp_path):
    from recipes.mini.clips import Shard, make_shard
    from recipes.mini.voices import ASSISTANT

    make_shard(Shard(ASSISTANT, 0), tmp_path, seed=3, size=40)
    source = waves(str(tmp_path), lines=6, assistant=0.3, pairs=str(pairs))
    rows = [source.draw(i, 12 * FRAME, np.random.default_rng(i)) for i in range(30)]
    others = [row for row in rows if row.target is not None]
    assert 10 < len(others) < 30
    assert all(
        not row.phase and (row.labels == -1).all() and not np.array_equal(row.wave, row.target)
        for row in others
    )


def test_pairs_are_made_once(pairs, tmp_path):
    options = ["--clips", str(tmp_path / "nothing"), "--out", str(pairs), "--shards", "1", "--valid"]
    assert main([*options, "1"]) == 0  # all are there: no clip is needed
    assert main([*options, "2"]) == 2


def test_folders_without_pairs_are_told(tmp_path, capsys):
    with pytest.raises(AizuchiError, match="no pairs"):
        Pairs(tmp_path)
    (tmp_path / "00000.json").write_text('{"format": 0}')
    with pytest.raises(AizuchiError, match="make them again"):
        Pairs(tmp_path)
    (tmp_path / "00000.json").write_text('{"format": 1, "clips": [[0, 1920]]}')
    with pytest.raises(AizuchiError, match="flac is missing"):
        Pairs(tmp_path)
    assert main(["--clips", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"), "--shards", "1"]) == 2
    assert "clips makes them" in capsys.readouterr().err
