"""Callers and models that misbehave, each with a stated outcome, on a real server."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
import websockets

from aizuchi.engine import Sampling, reply
from aizuchi.serve.limits import Limits
from aizuchi.serve.stepping import to_int16
from tests.serve.house import FRAME, engine_alone, house, plain, speech, wait_for


async def converse(client, frames):
    """Send frames one by one, waiting for each answer."""
    for frame in frames:
        await client.send(frame)
        await client.until_frames(len(client.audio) + 1)


def test_others_hear_nothing_of_bad_callers(model):
    """Beside garbage, a flood, ten times real time and a vanishing caller, a conversation stays exact."""
    with house(model, limits=Limits(messages_per_second=40)) as here:
        sent = speech(10, seed=5)

        async def bad(kind):
            async with plain(here) as client:
                if kind == "garbage":
                    await client.connection.send("{not json")
                    assert (await client.until("error"))["code"] == "protocol"
                    return "refused"
                await client.start()
                if kind == "flood":
                    with pytest.raises(websockets.ConnectionClosed) as closed:
                        for _ in range(2000):
                            await client.connection.send('{"type":"ping","t":1}')
                        while True:
                            await client.take()
                    return closed.value.rcvd.code
                if kind == "fast":
                    for _ in range(4):
                        await client.connection.send(speech(20).tobytes())  # 6.4 s at once
                    await client.until_frames(6)
                    # figures come with a frame, at most once a second: go on until they tell of all the skips
                    skipped = 0
                    for _ in range(200):
                        if skipped > 30:  # of 80 frames 12 may wait, and a few are heard at once
                            return "skipped"
                        await converse(client, speech(1))
                        await asyncio.sleep(0.05)
                        skipped = max(
                            (m["skipped_oldest"] for m in client.messages if m["type"] == "stats"), default=0
                        )
                    return f"{skipped} skipped"
                client.connection.transport.abort()
                return "vanished"

        async def talk():
            async with plain(here) as client:
                await client.start(settings={"seed": 9})
                outcomes = []
                for kind, part in zip(("garbage", "flood", "fast", "vanish"), np.split(sent, [3, 5, 8])):
                    task = asyncio.create_task(bad(kind))
                    await converse(client, part)
                    outcomes.append(await task)
                    wait_for(lambda: here.scheduler.live == 1)
                assert (
                    outcomes[0] == "refused"
                    and outcomes[1] == 1008
                    and outcomes[2:] == ["skipped", "vanished"]
                )
                return np.stack(client.audio)

        audio = asyncio.run(talk())
        assert np.array_equal(audio, engine_alone(model, sent, Sampling(seed=9)))


def test_a_caller_that_stops_reading_is_let_go_and_nothing_grows(model):
    with house(model, limits=Limits(stall_seconds=1.0, resume_seconds=0)) as here:

        async def talk():
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.connect(("127.0.0.1", here.port))
            async with plain(here, max_queue=1, sock=small) as client:
                await client.start()
                client.connection.transport.pause_reading()
                frames = speech(2)
                while not here.ends:
                    await client.send(frames[0])
                    await asyncio.sleep(0.005)
            assert here.ends[0][1] == "stalled"

        asyncio.run(talk())
        wait_for(lambda: not here.server.server_state.connections)


def test_strange_beginnings_are_refused_or_forgotten(here, caplog):
    async def dial():
        async with websockets.connect(here.ws()):
            pass  # goes away without a word
        for first in (b"sound", "[]", '{"type": "end"}', '{"type": "start", "settings": {"top_k": -1}}'):
            async with plain(here) as client:
                await client.connection.send(first)
                assert (await client.until("error"))["code"] == "protocol"

    asyncio.run(dial())
    wait_for(lambda: not here.server.server_state.tasks)
    assert here.scheduler.live == 0 and not [r for r in caplog.records if r.levelname == "ERROR"]


def test_a_half_closed_connection_frees_its_row(here):
    with socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1000)
        text = json.dumps({"type": "start"}).encode()
        connection.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        wait_for(lambda: here.scheduler.live == 1)
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: here.scheduler.live == 0)


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_row_that_fails_is_stopped_and_the_others_go_on(here, model, fault, monkeypatch):
    engine = here.scheduler.engine
    real = engine.step
    poison = {"row": None}

    def step(wave, active, **options):
        if poison["row"] is not None and active[poison["row"]]:
            if fault == "raises":
                raise RuntimeError("on purpose")
            out = real(wave, active, **options)
            out.waveform[poison["row"]] = float("nan")
            return out
        return real(wave, active, **options)

    monkeypatch.setattr(engine, "step", step)
    sent = speech(8, seed=6)

    async def talk():
        async with plain(here) as good, plain(here) as doomed:
            await good.start(settings={"seed": 4})
            await doomed.start()
            await converse(good, sent[:3])
            await converse(doomed, sent[:2])
            poison["row"] = 1
            await doomed.send(sent[0])
            error = await doomed.until("error")
            assert error["code"] == "failed"
            await converse(good, sent[3:])
            poison["row"] = None
            async with plain(here) as later:  # the row is as good as new
                await later.start(settings={"seed": 8})
                await converse(later, sent[:4])
                return np.stack(good.audio), np.stack(later.audio)

    good, later = asyncio.run(talk())
    assert np.array_equal(good, engine_alone(model, sent, Sampling(seed=4)))
    assert np.array_equal(later, engine_alone(model, sent[:4], Sampling(seed=8)))


def test_the_queue_is_seen_and_moves(model):
    with house(model, rows=1, limits=Limits(queue=1)) as here:

        async def talk():
            async with plain(here) as first, plain(here) as second, plain(here) as third:
                await first.start()
                await second.connection.send('{"type": "start"}')
                queued = await second.until("queue")
                assert queued["position"] == 1 and queued["why"] == "full" and queued["expected_wait"] > 0
                await third.connection.send('{"type": "start"}')
                assert (await third.until("error"))["code"] == "busy"
                await first.say(type="end")
                assert (await second.until("started"))["type"] == "started"
                await converse(second, speech(1))

        asyncio.run(talk())


def test_idle_and_long_conversations_end(model):
    with house(model, limits=Limits(idle_seconds=0.5, session_seconds=1.5)) as here:

        async def talk():
            async with plain(here) as idle, plain(here) as long:
                await idle.start()
                await long.start()

                async def chat():
                    while True:
                        await long.send(speech(1)[0])
                        await asyncio.sleep(0.1)

                chatting = asyncio.create_task(chat())
                await asyncio.gather(idle.until("end"), long.until("end"))
                chatting.cancel()
                await asyncio.gather(chatting, return_exceptions=True)
                return [[m["code"] for m in c.messages if m["type"] == "end"] for c in (idle, long)]

        assert asyncio.run(talk()) == [["idle"], ["length"]]


def test_a_file_is_answered_as_the_engine_alone_would(here, model):
    wave = speech(5, seed=7).reshape(-1)[: 5 * FRAME - 300]
    body = io.BytesIO()
    soundfile.write(body, wave, 24000, format="FLAC", subtype="PCM_16")
    url = f"{here.url}/v1/reply?format=wav&stereo=1&seed=6"
    with urllib.request.urlopen(urllib.request.Request(url, body.getvalue(), method="POST")) as answer:
        data, rate = soundfile.read(io.BytesIO(answer.read()), dtype="int16")
        assert rate == 24000 and json.loads(answer.headers["x-aizuchi-text"])
    assert np.array_equal(data[:, 1], wave)
    frames = np.pad(wave, (0, 300)).reshape(-1, FRAME)
    alone = engine_alone(model, frames, Sampling(seed=6)).reshape(-1)
    assert np.array_equal(data[:, 0], alone[: len(wave)])
    assert np.array_equal(here.only_heard(), frames)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", b"no sound", 422),
        ("", b"", 422),
        ("?format=mp3", b"", 400),
        ("?top_k=x", b"", 400),
        ("", bytes(70 << 10), 413),
    ],
)
def test_bad_files_are_refused(model_house, path, body, status):
    request = urllib.request.Request(f"{model_house.url}/v1/reply{path}", body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == status and json.loads(error.value.read())["error"]["message"]


@pytest.fixture(scope="module")
def model_house(model):
    with house(
        model, limits=Limits(reply_bytes=64 << 10), keys=["k" * 20], origins=["https://ok.example"]
    ) as it:
        it.service.doors.keys = type(it.service.doors.keys)()  # the tests of files need no key
        it.keys = type(it.service.doors.keys)(["k" * 20])
        yield it


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_keys_origins_and_names(model_house, monkeypatch):
    monkeypatch.setattr(model_house.service.doors, "keys", model_house.keys)
    url = model_house.url
    assert get(f"{url}/healthz")[0] == get(f"{url}/readyz")[0] == get(f"{url}/v1/info")[0] == 200
    assert get(f"{url}/metrics")[0] == 401
    assert get(f"{url}/metrics", Authorization="Bearer " + "k" * 19)[0] == 401
    status, text, _ = get(f"{url}/metrics", Authorization="Bearer " + "k" * 20)
    assert status == 200 and "aizuchi_rows 2.0" in text
    assert get(f"{url}/v1/info", Host="evil.example")[0] == 421
    page = get(f"{url}/")
    assert "aizuchi" in page[1] and "default-src 'self'" in page[2]["content-security-policy"]

    async def dial(**options):
        try:
            async with websockets.connect(model_house.ws(), **options):
                return 101
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    key = {"additional_headers": {"x-api-key": "k" * 20}}
    assert asyncio.run(dial()) == 401
    assert asyncio.run(dial(**key)) == 101
    assert asyncio.run(dial(subprotocols=["aizuchi", "openai-insecure-api-key." + "k" * 20])) == 101
    assert asyncio.run(dial(origin="https://evil.example", **key)) == 403
    assert asyncio.run(dial(origin="https://ok.example", **key)) == 101
    assert asyncio.run(dial(origin=url, **key)) == 101


def test_sigterm_lets_conversations_end(tmp_path, model):
    """The command itself, with a recording: warned, drained, ended, all files whole, exit status 0."""
    model.save_pretrained(tmp_path / "tiny")
    command = [
        sys.executable,
        "-m",
        "aizuchi",
        "serve",
        "--model",
        str(tmp_path / "tiny"),
        "--port",
        "0",
        "--rows",
        "1",
    ]
    command += ["--drain-seconds", "1", "--record", str(tmp_path / "rec"), "--log-format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("serving on"))
        port = int(line.split(":")[2].split()[0])
        wait_for(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, 120)

        async def talk():
            async with websockets.connect(f"ws://127.0.0.1:{port}/v1/stream") as connection:
                kinds = []
                await connection.send('{"type": "start"}')
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    while True:
                        message = await asyncio.wait_for(connection.recv(), 60)
                        if isinstance(message, str):
                            kinds.append(json.loads(message))
                            if kinds[-1]["type"] == "started":
                                await connection.send(speech(1).tobytes())
                        elif "notice" not in [k["type"] for k in kinds if k.get("code") == "stopping"]:
                            os.kill(process.pid, signal.SIGTERM)
                assert closed.value.rcvd.code == 1012
                assert [k["type"] for k in kinds if k.get("code") == "stopping"] == ["notice", "end"]

        asyncio.run(talk())
        assert process.wait(timeout=60) == 0
        logs = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
        assert {"warm", "conversation begins", "stopping", "conversation ends"} <= {
            log["event"] for log in logs
        }
        (folder,) = (tmp_path / "rec").iterdir()
        sound, rate = soundfile.read(folder / "sound.flac", dtype="int16")
        info = json.loads((folder / "conversation.json").read_text())
        assert rate == 24000 and info["ended"] == "stopping"
        assert np.array_equal(sound[:FRAME, 1], speech(1)[0])

        user = torch.from_numpy(sound[:, 1].astype(np.float32) / 32768)[None]
        alone = reply(model, user, Sampling(**info["settings"]))
        assert np.array_equal(to_int16(alone.waveform[0].numpy()), sound[:, 0])
    finally:
        process.kill()
        process.wait()


def test_a_fault_of_the_scheduler_ends_conversations_and_not_the_server(here, monkeypatch):
    def fail(*_):
        raise RuntimeError("on purpose")

    async def talk():
        async with plain(here) as client:
            await client.start()
            monkeypatch.setattr(here.scheduler, "_answer", fail)
            await client.send(speech(1)[0])
            assert (await client.until("error"))["code"] == "failed"
        monkeypatch.undo()
        async with plain(here) as client:
            await client.start()
            await converse(client, speech(2))

    asyncio.run(talk())


def test_joins_and_leaves_leave_nothing_behind(here):
    import threading

    async def call():
        async with plain(here) as client:
            await client.start()
            await client.send(speech(1)[0])
            await client.until_frames(1)
            await client.say(type="end")
            await client.until("end")

    async def many():
        for _ in range(10):
            await asyncio.gather(call(), call(), call())

    asyncio.run(call())
    wait_for(lambda: here.scheduler.live == 0 and not here.server.server_state.tasks)
    threads = threading.active_count()
    asyncio.run(many())
    wait_for(lambda: here.scheduler.live == 0 and not here.server.server_state.tasks)
    time.sleep(0.05)
    assert here.scheduler.waiting == 0 and not here.server.server_state.connections
    assert threading.active_count() <= threads + 1 and len(here.scheduler._parking) == 0
