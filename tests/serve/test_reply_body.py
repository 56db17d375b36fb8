"""Fuzzing of `/v1/reply`: any body is sound within the bounds, or our own error; so is any query."""

import io
import types

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from aizuchi.engine import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.serve.protocols import reply
from aizuchi.serve.settings import NAMES, number, with_settings

SERVICE = types.SimpleNamespace(
    scheduler=types.SimpleNamespace(rate=24000), limits=types.SimpleNamespace(reply_seconds=2.0)
)


def sound(form, subtype):
    wave = np.random.default_rng(0).standard_normal(3000) * 0.1
    body = io.BytesIO()
    soundfile.write(body, wave, 16000, format=form, subtype=subtype)
    return body.getvalue()


BODIES = [
    sound(form, subtype)
    for form, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("AIFF", "PCM_24"),
    )
]


def decoded(data):
    try:
        samples = reply._decode(io.BytesIO(data), SERVICE)
    except AizuchiError as error:
        assert str(error)
        return None
    assert samples.dtype == np.int16 and samples.ndim == 1 and len(samples) <= 2.0 * 24000 + 1
    return samples


@pytest.mark.parametrize("body", BODIES)
def test_whole_files_are_read(body):
    assert len(decoded(body)) == pytest.approx(3000 * 1.5, abs=2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_sound_or_refused(data):
    raw = bytearray(data.draw(st.sampled_from(BODIES)))
    near = st.integers(0, min(len(raw) - 1, 120))  # headers are where lengths and rates stand
    for at in data.draw(st.lists(near | st.integers(0, len(raw) - 1), max_size=6)):
        raw[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    decoded(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_are_refused(data):
    decoded(data)


@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.text(max_size=10) | st.floats().map(str) | st.integers().map(str)
    )
)
def test_any_query_gives_settings_or_our_error(query):
    try:
        sampling = with_settings(Sampling(), {name: number(name, query[name]) for name in query})
        assert all(value == value for value in vars(sampling).values())
    except AizuchiError:
        pass
