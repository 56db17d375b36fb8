"""What the mini recipe's codec learns from."""

import numpy as np
import pytest

pytest.importorskip("hibari")

from recipes.mini.clips import Shard, make_shard
from recipes.mini.codec_data import Waves, validation_waves, waves
from recipes.mini.heard import plain
from recipes.mini.labels import CLASSES
from recipes.mini.mix import speak_assistant
from recipes.mini.timing import RATE
from recipes.mini.voices import ASSISTANT


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    make_shard(Shard(ASSISTANT, 0), folder, seed=3, size=40)
    return folder


def draw(source: Waves, position: int, samples: int = 12 * 1920):
    return source.draw(position, samples, np.random.default_rng(position))


def test_rows_follow_from_their_position(clips):
    first, second = waves(str(clips), lines=6), waves(str(clips), lines=6)
    draw(first, 3)
    for position in (0, 7):
        (wave, labels), (again, labels_again) = (draw(source, position)[:2] for source in (first, second))
        assert np.array_equal(wave, again) and np.array_equal(labels, labels_again)
        assert wave.shape == (23040,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        assert labels.shape == (12,) and labels.min() >= -1 and labels.max() < CLASSES
    assert not np.array_equal(draw(first, 0)[0], draw(first, 7)[0])


def test_most_of_the_assistants_rows_bring_the_codes_of_another_codec(clips):
    from aizuchi.data.codec import encode, load_codec

    source = waves(str(clips), lines=6, assistant=0.6, voice_codec="aizuchi/pretrained/mini", own_codes=0.3)
    plain = waves(str(clips), lines=6, assistant=0.6)
    rows = [(draw(source, i), draw(plain, i)) for i in range(30)]
    assert all(np.array_equal(row.wave, other.wave) and other.codes is None for row, other in rows)
    brought = [row for row, _ in rows if row.codes is not None]
    assert 5 < len(brought) < 25 and all(row.decoded and row.phase for row in brought)
    told = encode(load_codec("aizuchi/pretrained/mini"), brought[0].wave[None])[0]
    assert np.array_equal(brought[0].codes, told)


def test_only_the_assistants_waveform_can_be_told(clips):
    for share in (0.0, 1.0):
        source = waves(str(clips), lines=6, assistant=share)
        assert all(draw(source, position).phase is bool(share) for position in range(6))


def test_labels_tell_speech_from_silence(clips):
    source = waves(str(clips), lines=6)
    source.shares = {"assistant": 1}
    rms = {True: [], False: []}
    for position in range(12):
        wave, labels = draw(source, position)[:2]
        for frame, label in zip(wave.reshape(12, 1920), labels):
            rms[bool(label)].append(float(np.sqrt((frame**2).mean())))
    assert np.median(rms[True]) > 10 * np.median(rms[False])


def test_validation_has_clips_of_its_own(clips):
    def names(source):
        return {clip.name for found in source.clips.values() for clip in found}

    train, valid = waves(str(clips), lines=6), validation_waves(str(clips), lines=300)
    assert not names(train) & names(valid)
    assert len(names(train) | names(valid)) == 40


def test_others_may_be_heard_only(clips):
    def kinds(share, assistant):
        source = waves(str(clips), lines=6, decoded=share, assistant=assistant)
        return [draw(source, position)[2] for position in range(12)]

    assert all(kinds(1.0, 0.0)) and not any(kinds(0.0, 0.0)) and all(kinds(0.0, 1.0))


def test_every_word_comes_as_often(clips):
    """Rows drawn by the word hold it whole, wherever it is in its line; the others are what they were."""
    source, plainly = (waves(str(clips), lines=60, by_word=share) for share in (1.0, 0.0))
    source.shares = plainly.shares = {"assistant": 1}
    source.holding = {word: source.holding[word] for word in list(source.holding)[:3]}
    said: dict[str, list[np.ndarray]] = {word: [] for word in source.holding}
    for word, lines in source.holding.items():
        for clip in map(speak_assistant, lines):
            starts = [round(start * RATE) for text, start, _ in clip.words if plain(text) == word]
            said[word] += [clip.audio[start : start + 1000] for start in starts]
    found = set()
    for position in range(8):
        wave = draw(source, position, 25 * 1920)[0]
        here = {word for word, parts in said.items() if any(holds(wave, part) for part in parts)}
        assert here
        found |= here
    assert len(found) > 1 and not plainly.holding


def holds(wave, part):
    """Whether the wave has the part somewhere, sample by sample."""
    energy = np.convolve(wave**2, np.ones(len(part)), "valid")
    at = int(np.argmin(energy - 2 * np.correlate(wave, part, "valid")))
    return bool(np.allclose(wave[at : at + len(part)], part, atol=1e-6))
