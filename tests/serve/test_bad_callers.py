"""Callers whose fault comes in the middle or lasts for long: garbage, silence of the network, a wrong rate."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import types

import numpy as np
import pytest
import torch
import websockets

from aizuchi.engine import Sampling
from aizuchi.serve import caller as caller_module
from aizuchi.serve import scheduler as scheduler_module
from aizuchi.serve import seats as seats_module
from aizuchi.serve import server as server_module
from aizuchi.serve.caller import Caller, Ended, Said
from aizuchi.serve.parking import Parked, Parking
from tests.serve.house import FRAME, PlainClient, house, plain, speech, wait_for


def test_garbage_in_a_conversation(here):
    """Plain and Kyutai: an error in words and code 1007. OpenAI: an `error` event, and the session goes on."""

    async def talk():
        async with plain(here) as client:
            await client.start()
            await client.send(speech(1)[0])
            await client.connection.send('{"type": "configure", "settings": []}')
            error = await client.until("error")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.take()
            assert error["code"] == "protocol" and closed.value.rcvd.code == 1007
        async with websockets.connect(here.ws("/api/chat")) as kyutai:
            await kyutai.recv()
            await kyutai.send("text where bytes belong")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    last = await asyncio.wait_for(kyutai.recv(), 20)
            assert last[0] == 5 and closed.value.rcvd.code == 1007
        async with websockets.connect(here.ws("/v1/realtime")) as openai:
            events = []
            for garbage in (b"\xff\x00", "[1]", '{"type": "no.such.event"}'):
                await openai.send(garbage)
            frame = {"type": "input_audio_buffer.append", "audio": "AAAA" * (FRAME // 2 + 20)}
            while not events or events[-1]["type"] != "response.output_audio.delta":
                await openai.send(json.dumps(frame))  # a frame that comes before the row is not heard
                events.append(json.loads(await asyncio.wait_for(openai.recv(), 20)))
            assert [event["type"] for event in events].count("error") == 3

    asyncio.run(talk())
    wait_for(lambda: here.scheduler.live == 0)


def upgraded(here):
    """A connection whose conversation has begun, of a client that reads and answers nothing more."""
    connection = socket.create_connection(("127.0.0.1", here.port))
    connection.sendall(
        b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1000)
    text = b'{"type":"start"}'
    connection.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    wait_for(lambda: here.scheduler.live == 1)
    return connection


def test_bytes_that_are_no_websocket_frames_free_the_row(here):
    with upgraded(here) as connection:
        connection.sendall(b"\xff" + os.urandom(200))  # reserved bits are set
        wait_for(lambda: here.scheduler.live == 0 and not here.server.server_state.connections)


def test_a_caller_that_vanishes_without_a_packet_is_missed(model, monkeypatch):
    """A cable pulled out sends nothing, not even a reset: pings go unanswered, and the row is free again."""
    monkeypatch.setattr(server_module, "PING_SECONDS", 0.3)
    monkeypatch.setattr(server_module, "PONG_SECONDS", 0.5)
    with house(model) as here, upgraded(here):
        wait_for(lambda: here.scheduler.live == 0 and not here.server.server_state.connections)
        assert len(here.scheduler._parking) == 1  # it may come back


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls(model, tmp_path):
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)

    async def talk(here):
        trusted = ssl.create_default_context(cafile=cert)
        url = f"wss://localhost:{here.port}/v1/stream"
        async with websockets.connect(url, ssl=trusted) as connection:
            client = PlainClient(connection)
            await client.start(settings={"seed": 1})
            await client.send(speech(1)[0])
            await client.until_frames(1)
        with pytest.raises(ssl.SSLCertVerificationError):
            await websockets.connect(url)  # nobody vouches for it
        with pytest.raises((websockets.InvalidMessage, ConnectionError)):
            await websockets.connect(f"ws://localhost:{here.port}/v1/stream")

    with house(model, tls=(cert, key)) as here:
        asyncio.run(talk(here))


@pytest.mark.parametrize(
    ("speed", "minutes"),
    [(10.0, 1), (2.0, 3), (0.5, 3)]
    + [pytest.param(speed, 60, marks=pytest.mark.slow) for speed in (10.0, 2.0, 0.5)],
)
def test_an_hour_at_the_wrong_rate(here, monkeypatch, speed, minutes):
    """Sound that comes too fast is heard at 1.05 times real time and otherwise skipped and counted: neither the
    delay nor anything kept grows. Sound that comes too slowly is all heard. (The clock is one of the test's.)"""
    clock = types.SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    scheduler = here.scheduler
    scheduler.stop()  # the rounds are the test's too
    scheduler._stopping = False
    for module in (scheduler_module, seats_module, caller_module):
        monkeypatch.setattr(module, "time", clock)
    silent = np.zeros(FRAME, np.float32)
    monkeypatch.setattr(
        scheduler_module, "step_rows", lambda engine, wave, active, *_, **__: {0: (silent, 3, True)}
    )
    monkeypatch.setattr(scheduler, "_listener", lambda *_: None)  # which keeps all that was heard
    ticks = round(minutes * 60 / 0.08)
    sound = speech(round(10 * speed), seed=1).reshape(-1)
    piece = round(speed * FRAME)

    async def talk():
        caller = here.service.caller(Sampling(), "plain")
        scheduler._enqueue(caller)
        longest = waiting = 0.0
        for i in range(ticks):
            clock.now += 0.08
            at = i % 10 * piece
            scheduler.push(caller, sound[at : at + piece])
            while turn := scheduler._turn(clock.now)[0]:
                scheduler._step(turn)
            if i % 10 == 0:
                scheduler._keep_house(clock.now)
                await asyncio.sleep(0)
            waiting = max(waiting, len(caller.intake))
            while caller._out:
                event = await caller.next()
                assert not isinstance(event, Ended)
                if isinstance(event, Said):
                    longest = max(longest, event.delay)
        return caller, longest, waiting

    caller, longest, waiting = asyncio.run(talk())
    skipped = caller.intake.skipped_oldest + caller.intake.skipped_silent
    came = int(ticks * speed)
    assert caller.counters.heard + skipped + len(caller.intake) == came == caller.intake.count
    if speed > 1:
        assert caller.counters.heard == pytest.approx(1.05 * ticks, rel=0.01)
        hard = here.service.policy.hard
        assert hard - 2 <= waiting <= hard and longest <= hard * 0.08 + 1e-6
    else:
        assert skipped == 0 and waiting <= 1 and longest < 0.001
    assert caller.counters.unsent == 0


def test_sound_at_another_speed_than_real_time_is_told(here, monkeypatch):
    monkeypatch.setattr(Caller, "since_start", lambda self, now: 12.0)

    async def talk():
        async with plain(here) as client:
            await client.start()
            await client.send(speech(1)[0])
            await client.until_frames(1)
            notice = await client.until("notice")
            while notice["code"] != "speed":
                notice = await client.until("notice")
            assert "real time" in notice["message"]

    asyncio.run(talk())


def test_parked_conversations_are_bounded():
    def parked(size):
        return Parked(None, {"x": torch.zeros(size, dtype=torch.uint8)}, since=float(size))

    parking = Parking(places=2, size=100, seconds=60)
    assert parking.put("a", parked(10)) == [] and parking.put("b", parked(20)) == []
    assert [p.nbytes for p in parking.put("c", parked(30))] == [10]
    assert [p.nbytes for p in parking.put("d", parked(90))] == [20, 30]
    assert [p.nbytes for p in parking.put("e", parked(101))] == [90, 101] and len(parking) == 0
    parking.put("f", parked(5))
    assert parking.expire(now=65.5) != [] and parking.get("f") is None
