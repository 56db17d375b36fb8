"""`aizuchi talk` against a server, with files for microphone and loudspeaker, and with a false sound card."""

import asyncio
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile

from aizuchi.cli import main
from aizuchi.engine import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.serve import terminal
from aizuchi.serve.loading import Served
from aizuchi.serve.words import Babble
from tests.serve.house import FRAME, engine_alone, speech, wait_for


def test_a_file_talks_with_a_server(here, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_TAIL", 0.16)
    wave = speech(4).reshape(-1)
    soundfile.write(tmp_path / "in.wav", wave, 24000, subtype="PCM_16")
    arguments = ["talk", "--url", here.url, "--input", str(tmp_path / "in.wav"), "--seed", "5"]
    assert main([*arguments, "-o", str(tmp_path / "out.flac")]) == 0
    wait_for(lambda: here.scheduler.live == 0)
    said = capsys.readouterr()
    assert "seed 5" in said.err and "random weights" in said.err and len(said.out.strip()) > 5
    data, _ = soundfile.read(tmp_path / "out.flac", dtype="int16")
    heard = here.only_heard()
    assert np.array_equal(heard.reshape(-1)[: len(wave)], wave)
    alone = engine_alone(model, heard, Sampling(seed=5)).reshape(-1)
    assert np.abs(data.astype(int) - np.clip(alone, -32767, 32767)[: len(data)]).max() <= 1


def test_a_model_in_this_process_and_a_sound_card(model, monkeypatch, capsys):
    callbacks, played = {}, []

    class Stream:
        def __init__(self, kind, callback, device, **options):
            assert options == {"samplerate": 24000, "channels": 1, "dtype": "int16", "blocksize": FRAME}
            callbacks[kind] = callback

        def start(self):
            pass

        close = start

    fake = types.ModuleType("sounddevice")
    fake.PortAudioError = OSError
    fake.InputStream = lambda **options: Stream("in", **options)
    fake.OutputStream = lambda **options: Stream("out", **options)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)

    async def run(url):
        card = terminal.SoundCard(None, "3", None)
        task = asyncio.create_task(terminal.talk(url, card, {}))
        for frame in speech(60):
            await asyncio.sleep(0.04)
            callbacks["in"](frame[:, None], FRAME, None, None)
            out = np.zeros((FRAME, 1), np.int16)
            callbacks["out"](out, FRAME, None, None)
            played.append(out)
            if np.abs(out).max() > 0 or task.done():
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        card.close()

    with terminal.local_server(Served(model, Babble(), "tiny", "", random=True), threads=1) as url:
        assert terminal.answers(url)
        asyncio.run(run(url))
    assert np.abs(np.stack(played).astype(int)).max() > 0
    assert not terminal.answers(url)


@pytest.mark.parametrize(
    ("url", "stream"),
    [
        ("localhost:8998", "ws://localhost:8998/v1/stream"),
        ("https://a.example/talk/", "wss://a.example/talk/v1/stream"),
    ],
)
def test_addresses(url, stream):
    assert terminal.stream_url(url) == stream
    with pytest.raises(AizuchiError, match="address"):
        terminal.stream_url("ftp://x")


def test_errors_are_one_line(capsys, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(100), 24000)
    assert main(["talk", "--url", "http://127.0.0.1:9", "--input", str(tmp_path / "in.wav")]) == 2
    assert "can't be reached" in capsys.readouterr().err
    assert main(["talk", "--url", "x", "--model", "y"]) == 2
    assert "don't go together" in capsys.readouterr().err


def test_calling_a_server_elsewhere_needs_no_torch():
    code = "import sys, aizuchi.cli.talk, aizuchi.serve.terminal, aizuchi.serve.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
