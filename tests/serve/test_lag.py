"""The parts that need no server: the lag policy, the pace, the words, the settings, and the plain parser."""

import asyncio
import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.engine import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.serve.caller import OUT_FRAMES, Caller, Ended, Said
from aizuchi.serve.intake import Intake, LagPolicy, level_db
from aizuchi.serve.pace import Pace
from aizuchi.serve.protocols import plain
from aizuchi.serve.protocols.session import ProtocolError
from aizuchi.serve.security import Keys
from aizuchi.serve.settings import with_settings
from aizuchi.serve.words import TextStream

SIZE = 4


def frames(*values):
    return np.repeat(np.array(values, np.int16), SIZE)


def waiting(intake):
    return [int(frame.samples[0]) for frame in intake.frames]


def test_silence_is_skipped_before_speech_and_the_oldest_last():
    intake = Intake(SIZE, LagPolicy(soft=3, hard=5))
    intake.push(frames(9000, 0, 9001), 0.0)
    assert waiting(intake) == [9000, 0, 9001] and intake.skipped_silent == 0  # nothing below the soft limit
    intake.push(frames(1), 0.0)
    assert waiting(intake) == [9000, 9001, 1] and intake.skipped_silent == 1  # the oldest silent one
    intake.push(frames(9002, 9003, 9004), 0.0)
    assert waiting(intake) == [9000, 9001, 9002, 9003, 9004] and intake.skipped_silent == 2
    intake.push(frames(9005), 0.0)
    assert waiting(intake) == [9001, 9002, 9003, 9004, 9005] and intake.skipped_oldest == 1
    assert [frame.number for frame in intake.frames] == [2, 4, 5, 6, 7]  # which of all that came


@given(st.lists(st.integers(0, 11), max_size=30), st.integers(1, 4), st.integers(0, 4))
def test_pieces_of_any_length_give_the_same_frames_and_are_bounded(cuts, soft, more):
    policy = LagPolicy(soft, soft + more)
    intake = Intake(SIZE, policy)
    sent = np.arange(1, sum(cuts) + 1, dtype=np.int16) * 500
    at = 0
    for cut in cuts:
        intake.push(sent[at : at + cut], 0.0)
        at += cut
        assert len(intake) <= policy.hard
    whole = len(sent) // SIZE
    assert intake.count == whole == len(intake) + intake.skipped_silent + intake.skipped_oldest
    for frame in intake.frames:
        assert np.array_equal(frame.samples, sent[frame.number * SIZE :][:SIZE])


def test_a_file_is_never_skipped_and_its_end_is_filled_up():
    intake = Intake(SIZE, None)
    intake.push(frames(*range(50))[:-1], 0.0)
    assert (
        intake.flush(0.0) == 3 and len(intake) == 50 and intake.frames[-1].samples.tolist() == [49] * 3 + [0]
    )


def test_levels():
    assert level_db(np.zeros(10, np.int16)) == -100
    assert level_db(np.full(10, -32768, np.int16)) == pytest.approx(0, abs=1e-6)
    assert level_db(np.full(10, 3277, np.int16)) == pytest.approx(-20, abs=0.01)


def test_a_lone_caller_is_served_at_once_and_many_are_gathered():
    pace = Pace(0.08, share=0.5)
    for arrival in np.arange(10) * 0.08 + 0.013:  # one caller
        assert pace.due <= arrival
        pace.stepped(arrival, arrival + 0.01)
    coming, steps = sorted(np.random.default_rng(0).random(200) + 2), 0
    while coming:  # many at random: a step takes all that came
        start = max(coming[0], pace.due)
        assert start - coming[0] <= pace.interval + 1e-9
        coming = [arrival for arrival in coming if arrival > start]
        pace.stepped(start, start + 0.01)
        steps += 1
    assert 40 < steps <= 1 / pace.interval + 1  # busy for half of the time at most


def test_a_late_step_does_not_shift_the_clock():
    pace = Pace(0.08, share=1.0)
    for _ in range(200):
        pace.stepped(pace.due, pace.due + 0.08)
    before = pace.due
    pace.stepped(before + 0.03, before + 0.11)
    assert pace.due == pytest.approx(before + 0.08)


def test_nobody_is_let_in_when_steps_come_near_the_deadline():
    pace = Pace(0.08)
    for _ in range(100):
        pace.stepped(0.0, 0.02)
        pace.answered(0.03)
    assert pace.admits(3)
    pace.stepped(0.0, 0.07)
    assert not pace.admits(1) and pace.admits(0)  # the first can only be slow by itself
    for _ in range(100):
        pace.stepped(0.0, 0.02)
    assert pace.admits(1)
    pace.answered(0.09)
    assert not pace.admits(1)
    for _ in range(5):
        pace.idle()
    assert pace.admits(1)


class Letters:
    """A tokenizer of bytes with a word mark, to cut characters into pieces."""

    pieces = ["<pad>", "▁a", "b", "<0xC3>", "<0xA9>", "▁"]

    def id_to_piece(self, token):
        return self.pieces[token]

    def encode(self, text):
        return [1 if text[0] == "a" else 2] * len(text)

    def decode(self, ids):
        raw = b""
        for token in ids:
            piece = self.pieces[token]
            raw += (
                bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode()
            )
        return raw.decode("utf-8", "replace").strip()


def test_text_comes_word_by_word_and_characters_whole():
    stream = TextStream(Letters(), pad=0, epad=0)
    said = [stream.feed(token) for token in (0, 1, 2, 3, 4, 2, 0, 2, 1, 0, -2)]
    assert said == [
        ("", False),
        ("a", True),
        ("b", False),
        ("", False),
        ("é", False),
        ("b", False),
        ("", False),
        (" b", True),
        (" a", True),
        ("", False),
        ("", False),
    ]
    assert TextStream(None, 3, 0).feed(17) == ("", False)
    assert stream.script("aaaaaaaaaa b", limit=12)[:10] == [1] * 10


def test_a_slow_readers_sound_is_bounded_and_its_words_are_kept():
    async def run():
        caller = Caller(Sampling(), "test", SIZE, LagPolicy())

        def emit():
            for i in range(100):
                level = -80.0 if i % 2 else -20.0
                caller.emit(Said(i, i, frames(i), f"w{i}", True, -20.0, level, 0.0))
            caller.emit(Ended("bye", ""))
            caller.emit(Ended("failed", "only the first end counts"))

        thread = threading.Thread(target=emit)
        thread.start()
        thread.join()
        events = [await caller.next() for _ in range(101)]
        assert events[-1].code == "bye" and [e.text for e in events[:-1]] == [f"w{i}" for i in range(100)]
        kept = [e.frame for e in events[:-1] if e.samples is not None]
        assert len(kept) == OUT_FRAMES and caller.counters.unsent == 100 - OUT_FRAMES
        assert sum(frame % 2 == 0 for frame in kept) > OUT_FRAMES * 0.8  # silence went first

    asyncio.run(run())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["start", "configure", "inject", "ping", "end", "x", None])},
    optional={"rate": JSON, "resume": JSON, "settings": JSON, "text": JSON, "t": JSON},
)


@given(st.one_of(st.text(max_size=60), JSON.map(json.dumps), MESSAGES.map(json.dumps)))
def test_any_text_message_is_a_command_or_refused(message):
    try:
        command = plain.parse(message)
        settings = getattr(command, "settings", {})
        sampling = with_settings(Sampling(), settings)
        assert all(value == value for value in vars(sampling).values())
    except (ProtocolError, AizuchiError):
        pass


@given(st.dictionaries(st.sampled_from(list(vars(Sampling()))), st.floats() | st.integers() | JSON))
def test_any_settings_are_taken_or_refused(changes):
    try:
        sampling = with_settings(Sampling(), changes)
        from aizuchi.engine.sampling import RowSettings

        RowSettings.create(1).put(0, sampling)
    except AizuchiError:
        pass


def test_pcm_at_other_rates_and_odd_bytes():
    pcm = plain.PcmIn(24000, 24000)
    data = np.arange(-5, 6, dtype="<i2").tobytes()
    pieces = [pcm.feed(data[i : i + 3]) for i in range(0, len(data), 3)]
    assert np.concatenate(pieces).tolist() == list(range(-5, 6))
    tone = (np.sin(np.arange(48000) * 2 * np.pi * 300 / 48000) * 20000).astype("<i2")
    pcm = plain.PcmIn(48000, 24000)
    out = np.concatenate([pcm.feed(tone[i : i + 960].tobytes()) for i in range(0, 48000, 960)])
    assert 23000 < len(out) <= 24000
    spectrum = np.abs(np.fft.rfft(out[2000:22000]))
    assert np.argmax(spectrum) == pytest.approx(300 * 20000 / 24000, abs=1)


def test_keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# mine\nabcdefghijklmnop\n\nponmlkjihgfedcba\n")
    keys = Keys.read(path)
    assert (
        keys and keys.allow("ponmlkjihgfedcba") and not keys.allow("abcdefghijklmno") and not keys.allow(None)
    )
    assert Keys().allow(None)
    for text, message in (("", "no key"), ("short\n", "16"), ("has spaces in the key\n", "16")):
        path.write_text(text)
        with pytest.raises(AizuchiError, match=message):
            Keys.read(path)
    with pytest.raises(AizuchiError, match="can't be read"):
        Keys.read(tmp_path / "none")
