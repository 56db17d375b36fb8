"""Kyutai's protocol: the `moshi` package's own client code, streams cut anywhere, the query, and garbage."""

import asyncio
import importlib
import struct
import sys
import types

import numpy as np
import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st

from aizuchi.engine import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.serve.opus import OpusError, OpusIn, OpusOut, as_int16
from aizuchi.serve.protocols import kyutai
from aizuchi.serve.protocols.session import ProtocolError
from tests.serve.house import FRAME, engine_alone, speech, wait_for

sphn = pytest.importorskip("sphn")


def opus(frames):
    """(pages of each frame, the samples that a decoder gets from them)."""
    writer, reader = OpusOut(24000), sphn.OpusStreamReader(24000)
    pages = [writer.feed(frame) for frame in frames]
    return pages, np.concatenate([as_int16(reader.append_bytes(page)) for page in pages])


def test_a_stream_cut_at_arbitrary_bytes_is_heard_in_full_and_answered_exactly(here, model):
    pages, samples = opus(speech(8, seed=2))
    data = b"".join(pages)

    async def talk():
        url = here.ws(
            "/api/chat?audio_seed=11&audio_temperature=0.7&text_topk=5&pad_mult=0.5&text_temperature="
        )
        async with websockets.connect(url) as connection:
            assert await connection.recv() == b"\x00"  # one byte, nothing before it
            meta = await connection.recv()
            assert meta[0] == 4 and b'"audio_temperature": 0.7' in meta
            generator = np.random.default_rng(0)
            at, audio, text = 0, b"", ""
            reader, got = sphn.OpusStreamReader(24000), []
            while at < len(data):
                size = int(generator.integers(1, 1500))
                await connection.send(b"\x01" + data[at : at + size])
                at += size
                await asyncio.sleep(0.02)
            while sum(map(len, got)) < 8 * FRAME:
                message = await asyncio.wait_for(connection.recv(), 20)
                if message[0] == 1:
                    audio += message[1:]
                    got.append(reader.append_bytes(message[1:]))
                elif message[0] == 2:
                    text += message[1:].decode()
            await connection.send(b"\x06")
            while (await asyncio.wait_for(connection.recv(), 20)) != b"\x06":
                pass
            await connection.send(b"\x09unknown kinds are no fault")
            assert audio[:4] == b"OggS" and text.strip()
            return audio

    audio = asyncio.run(talk())
    wait_for(lambda: here.scheduler.live == 0)
    heard = here.only_heard()
    assert np.array_equal(heard.reshape(-1), samples[: heard.size]) and len(heard) == 8
    said = engine_alone(model, heard, Sampling(seed=11, temperature=0.7, text_top_k=5, padding_bonus=0.5))
    writer = OpusOut(24000)
    assert audio == b"".join(writer.feed(frame) for frame in said)


def test_the_moshi_packages_client_holds_a_conversation(here, monkeypatch):
    pytest.importorskip("aiohttp")
    streams = {}

    class Stream:  # stands in for a sound card; the test calls its callbacks
        def __init__(self, kind, callback=None, **options):
            assert options["blocksize"] == FRAME and options["samplerate"] == 24000
            streams[kind] = callback

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    sounddevice = types.ModuleType("sounddevice")
    sounddevice.InputStream = lambda **options: Stream("in", **options)
    sounddevice.OutputStream = lambda **options: Stream("out", **options)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
    monkeypatch.delitem(sys.modules, "moshi.client", raising=False)
    pytest.importorskip("moshi.client_utils")
    client = importlib.import_module("moshi.client")
    monkeypatch.delitem(sys.modules, "moshi.client")  # no other test may see the false sound card
    tokens, logs = [], []

    class Printer:
        def print_token(self, token, color=None):
            tokens.append(token)

        def log(self, level, message):
            logs.append((level, message))

        def print_header(self):
            pass

        print_pending = print_lag = print_header

    async def talk():
        arguments = types.SimpleNamespace(url=here.url, https=False, host="", port=0)
        task = asyncio.create_task(client.run(Printer(), arguments))
        while "in" not in streams:
            await asyncio.sleep(0.01)
        while not here.scheduler.live:
            await asyncio.sleep(0.01)
        played = []
        for frame in speech(40, seed=3):
            await asyncio.to_thread(
                streams["in"], frame.astype(np.float32)[:, None] / 32768, FRAME, None, None
            )
            await asyncio.sleep(0.05)
            out = np.zeros((FRAME, 1), np.float32)
            streams["out"](out, FRAME, None, None)
            played.append(out)
            if np.abs(np.stack(played)).max() > 0 and len(tokens) > 3:
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return np.stack(played)

    assert np.abs(asyncio.run(talk())).max() > 0
    assert len(tokens) > 3 and not [entry for entry in logs if entry[0] == "error"]


def test_a_bad_query_is_refused_before_the_conversation(here):
    async def call():
        with pytest.raises(websockets.InvalidStatus) as error:
            await websockets.connect(here.ws("/api/chat?audio_topk=many"))
        assert error.value.response.status_code == 400 and b"audio_topk" in error.value.response.body

    asyncio.run(call())


def test_damaged_sound_ends_with_an_error_in_words(here):
    async def call():
        async with websockets.connect(here.ws("/api/chat")) as connection:
            await connection.send(b"\x01" + bytes(range(200)))
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                while True:
                    last = await asyncio.wait_for(connection.recv(), 20)
            assert last[0] == 5 and b"Opus" in last and closed.value.rcvd.code == 1007

    asyncio.run(call())
    wait_for(lambda: here.scheduler.live == 0)


def test_few_bytes_that_hold_much_sound_are_refused_early():
    writer = sphn.OpusStreamWriter(24000)
    header = bytes(writer.append_pcm(np.zeros(FRAME, np.float32)))[:102]
    # A page of 120 packets of two bytes each that say 40 ms: 13 kB of sound for a byte.

    def page(number):
        body = b"\x10\x00" * 120
        head = struct.pack("<4sBBqIII", b"OggS", 0, 0, 1920 * 120 * number, 42, number, 0)
        raw = bytearray(head + bytes([120]) + bytes([2]) * 120 + body)
        crc = 0
        for byte in raw:
            crc ^= byte << 24
            for _ in range(8):
                crc = ((crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        raw[22:26] = struct.pack("<I", crc)
        return bytes(raw)

    reader = OpusIn(24000)
    reader.feed(header)
    with pytest.raises(OpusError, match="real time"):
        heard = 0
        for number in range(2, 40):
            heard += sum(map(len, reader.feed(page(number))))
            assert heard < 90 * 24000


@given(st.one_of(st.binary(max_size=300), st.text(max_size=50)))
def test_any_message_is_parsed_or_refused(message):
    try:
        kind, payload = kyutai.parse(message)
        assert bytes([kind]) + payload == message
    except ProtocolError:
        pass


QUERY = st.dictionaries(
    st.sampled_from([*kyutai._QUERY, "seed", "audio_seed", "text_seed", "max_steps", "email"]),
    st.one_of(st.text(max_size=12), st.floats().map(str), st.integers().map(str)),
)


@given(QUERY)
def test_any_query_gives_settings_or_our_error(query):
    try:
        sampling, limit = kyutai.sampling_of(query, Sampling())
        assert limit is None or limit >= 1
        assert isinstance(sampling.seed, int)
    except AizuchiError:
        pass


def test_seeds_by_their_several_names():
    def seed(**query):
        return kyutai.sampling_of(query, Sampling())[0].seed

    assert seed(audio_seed="5") == seed(text_seed="5") == seed(seed="5", audio_seed="7") == 5
    assert seed(audio_seed="5", text_seed="6") == seed(audio_seed="5", text_seed="6") not in (5, 6)
    assert seed() != seed() and seed(seed="-1") >= 0  # PersonaPlex's word for any
    prompts = {"voice_prompt": "NATF2.pt", "text_prompt": "You are kind."}
    assert kyutai.sampling_of(prompts | {"seed": "3"}, Sampling())[0] == Sampling(seed=3)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_stream_gives_sound_or_our_error(data):
    pages, _ = opus(speech(2))
    raw = bytearray(b"".join(pages))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    reader = OpusIn(24000)
    try:
        for piece in reader.feed(bytes(raw)):
            assert piece.dtype == np.int16
    except OpusError:
        pass
