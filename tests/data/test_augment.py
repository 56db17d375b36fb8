"""The composed augmentation: seeded, in the paper's proportions, and honest about its configuration."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aizuchi.audio import write_audio
from aizuchi.data.augment import PRESETS, UserAugment
from aizuchi.errors import AizuchiError

OFF = {f.name: 0.0 for f in dataclasses.fields(UserAugment) if f.name.endswith("_p")}


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    sides = 0.05 * rng.standard_normal((2, 24000)).astype(np.float32)
    sides[0, 12000:] = sides[1, :12000] = 0
    return sides


def test_the_same_seed_gives_the_same_wave_and_inputs_are_left_alone(pair):
    augment = UserAugment.from_config("wide")
    before = pair.copy()
    runs = [augment(pair[1], pair[0], np.random.default_rng(s)) for s in (3, 3, 4)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    assert np.array_equal(pair, before)
    assert all(r.dtype == np.float32 and r.shape == (24000,) and np.abs(r).max() <= 1 for r in runs)


def test_all_off_is_the_identity(pair):
    assert np.array_equal(UserAugment(**OFF)(pair[1], pair[0], np.random.default_rng(0)), pair[1])


def test_effects_come_as_often_as_the_paper_says(pair):
    augment, applied, count = UserAugment(), [], 400
    for seed in range(count):
        augment(pair[1, :2400], pair[0, :2400], np.random.default_rng(seed), applied)
    share = {name: sum(a.startswith(name) for a in applied) / count for name in ("gain", "noise", "echo")}
    assert share["gain"] == pytest.approx(0.5, abs=0.08)  # three standard deviations of 400 draws
    assert share["noise"] == pytest.approx(0.3, abs=0.07)
    assert share["echo"] == pytest.approx(0.3, abs=0.07)
    assert {a.split()[0] for a in applied} == {"gain", "noise", "echo"}
    decibels = [float(a.split()[1]) for a in applied if a.startswith("gain")]
    assert -24 <= min(decibels) < -18 and 9 < max(decibels) <= 15


def test_switching_one_effect_leaves_the_draws_of_the_others(pair):
    with_noise, without = [], []
    for seed in range(30):
        UserAugment()(pair[1], pair[0], np.random.default_rng(seed), with_noise)
        UserAugment(noise_p=0)(pair[1], pair[0], np.random.default_rng(seed), without)
    assert without == [a for a in with_noise if not a.startswith("noise")]


def test_each_preset_and_effect_runs(pair, tmp_path):
    write_audio(tmp_path / "voice.wav", pair[0])
    everything = dict.fromkeys(OFF, 1.0)
    augment = UserAugment(
        **everything, voice_files=(str(tmp_path),), noise_files=(str(tmp_path / "voice.wav"),)
    )
    applied: list[str] = []
    out = augment(pair[1], pair[0], np.random.default_rng(0), applied)
    names = ["room", "gain", "echo", "noise", "babble", "clip", "band", "gate", "opus"]
    assert [a.split()[0] for a in applied] == names
    assert np.isfinite(out).all() and out.any()
    for preset in PRESETS:
        UserAugment.from_config(preset)(pair[1], pair[0], np.random.default_rng(0))


def test_noise_is_relative_to_the_voice_and_not_to_the_echo(pair):
    loud = np.full(24000, 0.5, np.float32)
    only = {**OFF, "noise_p": 1.0, "noise_db": (-10.0, -10.0), "noise_silent": 0.0}
    echo = {**only, "echo_p": 1.0, "echo_scale": (0.2, 0.2), "echo_room_p": 0.0}
    user = pair[1]
    quiet = UserAugment(**only)(user, loud, np.random.default_rng(0))
    both = UserAugment(**echo)(user, loud, np.random.default_rng(0))
    first = slice(0, 2000)  # before the echo arrives
    assert np.allclose(quiet[first], both[first], atol=1e-7) and not np.allclose(quiet, both, atol=1e-3)


def test_full_scale_is_the_limit(pair):
    loud = UserAugment(**{**OFF, "gain_p": 1.0}, gain_db=(15.0, 15.0))(
        pair[1] * 10, pair[0], np.random.default_rng(0)
    )
    assert np.abs(loud).max() == 1.0


def test_from_files_and_mappings(tmp_path):
    assert UserAugment.from_config("paper") == UserAugment()
    assert UserAugment.from_config("wide").opus_p == 0.3
    (tmp_path / "a.yaml").write_text("preset: wide\ngain_db: [-6, 6]\n")
    (tmp_path / "a.json").write_text('{"preset": "wide", "gain_db": [-6, 6]}')
    pytest.importorskip("yaml")
    made = [UserAugment.from_config(tmp_path / name) for name in ("a.yaml", "a.json")]
    assert made[0] == made[1] == UserAugment.from_config({"preset": "wide", "gain_db": (-6, 6)})
    assert made[0].gain_db == (-6, 6) and made[0].room_p == 0.4


@pytest.mark.parametrize(
    "config, message",
    [
        ({"gain_p": 1.5}, "gain_p is 1.5"),
        ({"gain_db": [3]}, "gain_db"),
        ({"gain_db": [3, -3]}, "gain_db"),
        ({"gain_db": "loud"}, "gain_db"),
        ({"noise_section": 0}, "noise_section"),
        ({"band_rates": [5]}, "band_rates"),
        ({"room_rt60": [0, 1]}, "room_rt60"),
        ({"babble_p": 0.5}, "voice_files is empty"),
        ({"loudness": 3}, "no field 'loudness'"),
        ({"preset": "loud"}, "preset 'loud' is unknown"),
        ("nothing.yaml", "neither a preset"),
    ],
)
def test_a_wrong_configuration_is_named(config, message):
    with pytest.raises(AizuchiError, match=message):
        UserAugment.from_config(config)


def test_malformed_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{\n{")
    with pytest.raises(AizuchiError, match="a.json:2"):
        UserAugment.from_config(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(AizuchiError, match="fields"):
        UserAugment.from_config(tmp_path / "b.json")


def test_wrong_shapes_are_refused(pair):
    with pytest.raises(AizuchiError, match="equally long"):
        UserAugment()(pair[1], pair[0][:-1], np.random.default_rng(0))
