"""OpenAI's protocol, with OpenAI's own client, and its parser under fire."""

import asyncio
import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.engine import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.serve.protocols import realtime
from aizuchi.serve.settings import with_settings
from tests.serve.house import engine_alone, speech, wait_for


def test_the_openai_client_holds_a_conversation(here, model):
    openai = pytest.importorskip("openai")
    sent = speech(6, seed=4)

    async def talk():
        client = openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key="not-asked-for")
        assert [m.id async for m in client.models.list()] == ["tiny"]
        kinds, audio, text, errors = [], b"", "", []
        async with client.realtime.connect(model="tiny", extra_query={"seed": "21"}) as connection:

            async def take(*until):
                nonlocal audio, text
                while True:
                    event = await asyncio.wait_for(connection.recv(), 20)
                    kinds.append(event.type)
                    if event.type == "response.output_audio.delta":
                        audio += base64.b64decode(event.delta)
                    elif event.type == "response.output_audio_transcript.delta":
                        text += event.delta
                    elif event.type == "error":
                        errors.append(event.error)
                    if event.type in until:
                        return event

            created = await take("session.created")
            assert created.session.type == "realtime"
            assert created.session.model_extra["aizuchi"]["capabilities"]["turns"] is False
            await connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Be brief.",
                    "audio": {"input": {"turn_detection": {"type": "server_vad"}}},
                    "aizuchi": {"temperature": 0.6},
                }
            )
            updated = await take("session.updated")
            assert updated.session.model_extra["aizuchi"]["settings"]["temperature"] == 0.6
            assert {error.param for error in errors if error.param} == {
                "session.instructions",
                "session.audio.input.turn_detection",
            }
            for frame in sent:
                await connection.input_audio_buffer.append(audio=base64.b64encode(frame.tobytes()).decode())
                await take("response.output_audio.delta")
            await connection.response.create()
            error = await take("error")
            assert error.error.code == "unsupported" and "when it wants" in error.error.message
            here.scheduler.drain(0)
            done = await take("response.done")
            assert done.response.status == "completed"
            assert done.response.output[0].content[0].transcript == text
        for kind in ("response.created", "response.output_item.added", "response.content_part.added"):
            assert kinds.count(kind) == 1 and kinds.index(kind) < kinds.index("response.output_audio.delta")
        return np.frombuffer(audio, "<i2").reshape(-1, 1920), text

    audio, text = asyncio.run(talk())
    wait_for(lambda: here.scheduler.live == 0)
    assert text.strip()
    heard = here.only_heard()
    assert np.array_equal(heard, sent)
    # The first column runs at joining, with the settings of the connection; the change came before the first frame.
    import torch

    from aizuchi.engine import DuplexEngine
    from aizuchi.serve.stepping import to_int16

    engine = DuplexEngine(model, 2)
    engine.join(0, Sampling(seed=21))
    engine.configure(0, Sampling(seed=21, temperature=0.6))
    said = []
    for frame in heard:
        wave = torch.zeros(2, 1, 1920)
        wave[0, 0] = torch.from_numpy(frame.astype(np.float32) / 32768)
        said.append(to_int16(engine.step(wave).waveform[0, 0].numpy()))
    assert np.array_equal(audio, np.stack(said))
    assert not np.array_equal(audio, engine_alone(model, heard, Sampling(seed=22)))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=50), st.text(max_size=80), JSON.map(json.dumps)))
def test_any_message_is_an_event_or_refused(message):
    try:
        event = realtime.parse(message)
        assert isinstance(event["type"], str)
    except realtime.RequestError as error:
        assert error.code and str(error)


@given(st.dictionaries(st.sampled_from(["type", "audio", "aizuchi", "tools", "output_modalities"]), JSON))
def test_any_session_is_understood_or_refused(session):
    try:
        changes, vain = realtime.session_changes(session)
        assert all(error.param.startswith("session.") for error in vain)
        with_settings(Sampling(), changes)
    except (realtime.RequestError, AizuchiError):
        pass


@given(JSON)
def test_any_audio_and_item_is_understood_or_refused(value):
    for read, event in (
        (realtime.audio_of, {"audio": value}),
        (realtime.spoken_by_assistant, {"item": value}),
        (realtime.spoken_by_assistant, {"item": {"type": "message", "role": "assistant", "content": value}}),
    ):
        try:
            assert len(read(event)) >= 0
        except realtime.RequestError:
            pass
