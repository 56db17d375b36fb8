"""The assistant's voice on the codec's grid."""

import numpy as np
import pytest

pytest.importorskip("hibari")

from recipes.mini import grid, mix
from recipes.mini.clips import Shard, make_shard
from recipes.mini.codec_data import waves
from recipes.mini.grid import FRAME, HOP
from recipes.mini.script import Event, Script
from recipes.mini.timing import RATE
from recipes.mini.voices import ASSISTANT, get_assistant


def test_every_frame_holds_whole_periods():
    assert grid.PITCH * FRAME / RATE == 16


def test_a_steady_sound_is_the_same_in_every_frame():
    hops = 192
    flat = np.full((601, hops), -4.0, np.float32)
    zero = np.zeros((601, hops), np.float32)
    sound = grid.synthesize([flat, zero, flat - 1, flat - 2, zero], np.full(hops, 215.0))
    assert sound.shape == (hops * HOP,) and sound.dtype == np.float32
    frames = sound[10 * FRAME : 20 * FRAME].reshape(-1, FRAME)
    assert np.abs(frames).max() > 1e-3
    np.testing.assert_allclose(frames[1:], frames[:-1], atol=1e-3 * np.abs(frames).max())


def test_noise_is_as_loud_as_the_networks_own():
    from hibari import dsp

    hops = 320
    none, zero = np.full((601, hops), -20.0, np.float32), np.zeros((601, hops), np.float32)
    f0 = np.zeros(hops, np.float32)
    own = dsp.synth(none, zero, none + 16, none, zero, f0, np.random.default_rng(0))
    ours = grid.synthesize([none, zero, none + 16, none, zero], f0)
    inside = slice(3 * FRAME, -3 * FRAME)
    assert np.std(ours[inside]) == pytest.approx(np.std(own[inside]), rel=0.05)


def test_clips_are_whole_frames_with_their_words():
    clip = get_assistant().speak("Seven plus two is nine. What else?")
    assert len(clip.audio) % FRAME == 0
    assert [word for word, _, _ in clip.words] == ["Seven", "plus", "two", "is", "nine.", "What", "else?"]
    for word, start, end in clip.words:
        part = clip.audio[round(start * RATE) : round(end * RATE)]
        assert np.sqrt((part**2).mean()) > 0.005, word


def test_dialogues_place_the_assistant_on_the_grid():
    mix.speak_assistant.cache_clear()
    text = "Seven plus two is nine."
    script = Script(
        "s",
        "hibari:heart",
        0.8,
        1.0,
        [
            Event(0, "user", "Hello there.", "hello", gap=0.0),
            Event(1, "model", text, "answer", after=0, gap=0.317),
            Event(2, "model", text, "answer", after=1, gap=0.761),
        ],
    )
    mixed = mix.render(script)
    clip = get_assistant().speak(text)
    places = []
    for start, _ in mixed.times[1:]:
        at = round((start - clip.words[0][1]) * RATE / FRAME) * FRAME
        np.testing.assert_allclose(mixed.audio[0, at : at + len(clip.audio)], clip.audio, atol=1e-6)
        places.append(at)
        assert start == pytest.approx(at / RATE + clip.words[0][1], abs=2e-4)
    assert places[1] > places[0] + len(clip.audio) - FRAME
    spoken = [word for word in mixed.words if word.text == "nine."]
    assert [w.end for w in spoken] == pytest.approx([end for _, end in mixed.times[1:]], abs=2e-4)


def test_the_codecs_rows_begin_on_the_grid(tmp_path):
    make_shard(Shard(ASSISTANT, 0), tmp_path, seed=3, size=4)
    source = waves(str(tmp_path), lines=6)
    source.shares = {"assistant": 1}
    spoken = [mix.speak_assistant(text).audio.reshape(-1, FRAME) for text in source.lines]
    known = np.concatenate(spoken)
    loud = known[np.abs(known).max(1) > 0.05]
    found = 0
    for position in range(8):
        row = source.draw(position, 12 * FRAME, np.random.default_rng(position))[0].reshape(-1, FRAME)
        for frame in row[np.abs(row).max(1) > 0.05]:
            assert np.abs(loud - frame).max(1).min() < 1e-5
            found += 1
    assert found > 20
