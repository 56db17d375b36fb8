"""The plain protocol against a real server: sound for sound what the engine alone computes, and coming back."""

import asyncio

import numpy as np

from aizuchi.engine import Sampling
from tests.serve.house import engine_alone, plain, speech, wait_for


def test_a_conversation_is_what_the_engine_alone_computes(here, model):
    async def talk():
        async with plain(here) as client:
            started = await client.start(settings={"seed": 7, "temperature": 0.9})
            assert started["settings"]["seed"] == 7 and started["recording"] is False
            sent = speech(12)
            cut = [5, 1000, 1920, 7000, 7001, 20000]  # bytes: pieces of any length
            data = sent.astype("<i2").tobytes()
            for begin, end in zip([0, *cut], [*cut, len(data)]):
                await client.connection.send(data[begin:end])
                await asyncio.sleep(0.05)
            await client.until_frames(12)
            await client.say(type="end")
            end = await client.until("end")
            assert end["code"] == "bye"
            return sent, np.stack(client.audio), client

    sent, audio, client = asyncio.run(talk())
    wait_for(lambda: here.scheduler.live == 0)
    heard = here.only_heard()
    assert np.array_equal(heard, sent)
    assert np.array_equal(audio, engine_alone(model, heard, Sampling(seed=7, temperature=0.9)))
    texts = [m for m in client.messages if m["type"] == "text"]
    assert texts and texts[0]["begins"] and all(0 <= m["frame"] < 12 for m in texts)


def test_a_dropped_conversation_goes_on_where_it_was(here, model):
    sent = speech(20, seed=1)

    async def talk():
        async with plain(here) as client:
            started = await client.start(settings={"seed": 3})
            for frame in sent[:9]:
                await client.send(frame)
                await client.until_frames(len(client.audio) + 1)
            client.connection.transport.abort()  # vanishes
            first = client.audio
        while here.scheduler.live:
            await asyncio.sleep(0.01)
        async with plain(here) as other:  # somebody else takes the row
            await other.start()
            await other.send(sent[0])
            await other.until_frames(1)
            async with plain(here) as client:
                resumed = await client.start(resume=started["token"])
                assert resumed["type"] == "resumed" and resumed["frame"] == 9
                assert resumed["settings"]["seed"] == 3
                for frame in sent[9:]:
                    await client.send(frame)
                    await client.until_frames(len(client.audio) + 1)
                return np.stack(first + client.audio)

    audio = asyncio.run(talk())
    assert np.array_equal(audio, engine_alone(model, sent, Sampling(seed=3)))
