"""Models that speak a text or write down speech, measured by word errors."""

import json
import zlib

import numpy as np
import pytest
import torch

from aizuchi.audio import read_audio, write_audio
from aizuchi.cli import main
from aizuchi.engine import Sampling, speak, transcribe
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import commands, words_models
from aizuchi.train.start import make_model
from tests.engine.test_speech import Letters
from tests.engine.test_transcription import TOKENIZER
from tests.evaluate.fakes import RATE, BurstRecognizer, bursts, word_times
from tests.train.tiny import config_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    tts = config_of(tmp_path_factory.mktemp("tts"), task="tts", delays=dict(audio=5))
    stt = config_of(tmp_path_factory.mktemp("stt"), task="stt", delays=dict(text=4, acoustic=1))
    return {"tts": (make_model(tts).eval(), Letters()), "stt": (make_model(stt).eval(), TOKENIZER)}


def test_a_recogniser_hears_what_the_engine_writes_down(models):
    ears = words_models.ModelRecognizer(*models["stt"], "tiny")
    wave = bursts(word_times(3), 1.0)
    heard = ears(wave, RATE)
    words = transcribe(*models["stt"], torch.from_numpy(wave)[None])
    assert heard.words == words and words and ears.name.startswith("tiny, weights ")
    assert ears(wave[::2], RATE // 2).words and ears(np.zeros(0, np.float32), RATE).text == ""
    with pytest.raises(AizuchiError, match="task: stt"):
        words_models.ModelRecognizer(*models["tts"], "tiny")


def test_a_speaker_says_what_the_engine_says(models):
    say = words_models.model_speaker(*models["tts"], seed=1)
    wave = say("abc")
    assert wave.ndim == 1 and np.array_equal(wave, say("abc")) and np.abs(wave).max() > 0
    other = words_models.model_speaker(*models["tts"], seed=2)("abc")
    assert len(other) != len(wave) or not np.array_equal(other, wave)
    seed = (1_000_003 + zlib.crc32(b"abc")) % (1 << 62)
    assert np.array_equal(wave, speak(*models["tts"], "abc", Sampling(seed=seed)).waveform[0].numpy())
    with pytest.raises(AizuchiError, match="nothing to say"):
        say("  ")
    with pytest.raises(AizuchiError, match="task: tts"):
        words_models.model_speaker(*models["stt"])


def test_word_errors_both_ways_by_the_command(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(words_models, "load_words_model", lambda spec: (*models[spec], spec))
    monkeypatch.setattr(commands, "_recognizer", lambda args: BurstRecognizer())
    (tmp_path / "texts.txt").write_text("abc ab\n\nba\n")
    write_audio(tmp_path / "clip.wav", bursts(word_times(3), 1.0), RATE)
    (tmp_path / "clip.txt").write_text("one two three")
    run = lambda *more: main(["eval", "speech", "--out", str(tmp_path / "out"), "-q", *map(str, more)])  # noqa: E731
    assert run("--model", "tts", "--speak", tmp_path / "texts.txt") == 0
    data = json.loads((tmp_path / "out/speech.json").read_text())
    (title,) = data["tables"]["Word errors"]
    assert title == "spoken by tts, as Whisper hears it" and [i["wanted"] for i in data["items"]] == [
        "abc ab",
        "ba",
    ]
    assert read_audio(tmp_path / "out/spoken/0000.wav").size > 1920
    assert run("--model", "stt", "--transcribe", tmp_path / "clip.wav") == 0
    data = json.loads((tmp_path / "out/speech.json").read_text())
    (title,) = data["tables"]["Word errors"]
    assert title.startswith("transcribed by stt, weights") and data["items"][0]["wanted"] == "one two three"
    assert run("--speak", tmp_path / "texts.txt") == 2 and "--model" in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text(" \n")
    assert (
        run("--model", "tts", "--speak", tmp_path / "empty.txt") == 2 and "no text" in capsys.readouterr().err
    )
