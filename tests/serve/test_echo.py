"""Mouth to ear through a whole server: the delay that is planted at the ear is found, and the server's is added up."""

import asyncio

import numpy as np
import pytest

from aizuchi.audio import SAMPLE_RATE, read_audio
from aizuchi.cli import main
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import latency, mouth_to_ear
from tests.serve.house import FRAME, house


@pytest.fixture
def echo(model):
    with house(model, echo=True) as here:
        yield here


def test_what_is_spoken_comes_back_and_its_delay_is_found(echo):
    wave = mouth_to_ear.sample_speech(2.4)
    tracks = asyncio.run(mouth_to_ear.call(echo.url, wave, hold=0.7))
    found = latency.measure(tracks.mouth, tracks.ear, SAMPLE_RATE, 3.0)
    assert found.method == "wave" and tracks.skipped == 0
    assert found.agreement > 0.95 and len(tracks.starts) == 1
    assert found.seconds == pytest.approx(tracks.starts[0] / SAMPLE_RATE, abs=0.001)
    assert 0.78 <= found.seconds < 1.3  # a frame fills, the loudspeaker holds, and the server takes its time
    sent = np.rint(wave * 32768).reshape(-1, FRAME)
    assert np.array_equal(echo.only_heard(), sent)
    played = tracks.ear[tracks.starts[0] :][: len(wave)]
    assert np.array_equal(np.rint(played * 32768), sent.reshape(-1))


def test_the_command(echo, tmp_path, capsys):
    arguments = ["eval", "latency", "--server", echo.url, "--seconds", "3", "--out", str(tmp_path), "-q"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Mouth to ear" in said and "in the server" in said and "times run dry" in said
    mouth, ear = read_audio(tmp_path / "latency/server.wav", mono=False)
    assert len(mouth) == len(ear) == 8 * SAMPLE_RATE and 0.16 <= np.argmax(ear != 0) / SAMPLE_RATE < 1.5
    assert main(["eval", "report", "--out", str(tmp_path)]) == 0
    assert "whole server" in (tmp_path / "report.html").read_text()


def test_a_server_that_is_no_echo_is_refused(here, capsys, tmp_path):
    wave = np.zeros(4800, np.float32)
    with pytest.raises(AizuchiError, match="serve --echo"):
        asyncio.run(mouth_to_ear.call(here.url, wave))
    with pytest.raises(AizuchiError, match="can't be reached"):
        asyncio.run(mouth_to_ear.call("http://127.0.0.1:9", wave))
    with pytest.raises(AizuchiError, match="no address"):
        asyncio.run(mouth_to_ear.call("ftp://x", wave))
    assert main(["eval", "latency", "--server", here.url, "a", "b"]) == 2
    assert main(["eval", "latency"]) == 2 and "--server" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_of_its_own(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "tiny")
    arguments = [
        "--server",
        "--model",
        str(tmp_path / "tiny"),
        "--seconds",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["eval", "latency", *arguments]) == 0
    assert "agreement 1" in capsys.readouterr().out or (tmp_path / "out/latency/server.wav").exists()
