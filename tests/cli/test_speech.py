"""`aizuchi speak` and `aizuchi transcribe`: every way in, every way out, and what is refused."""

import json
import re
import sys

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch

from aizuchi.audio import read_audio, stream_pcm
from aizuchi.cli import main
from aizuchi.cli.options import task_of
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.engine import Sampling, speak, transcribe
from aizuchi.errors import AizuchiError
from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.train.start import make_model
from aizuchi.transcript import Word, from_json, to_json
from tests.train.tiny import config_of

SENTENCES = ["the cat sat on the mat", "a dog ran over the hill", "cats and dogs run"] * 4
TEXT = "the cat ran over\nthe hill"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a synthesiser, a recogniser and a dialogue model with random weights and one tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "spm"),
        vocab_size=28,
        pad_id=3,
        minloglevel=2,
    )
    for task, delays in (("tts", dict(audio=5)), ("stt", dict(text=4)), ("dialogue", None)):
        make_model(config_of(folder / "run", task=task, delays=delays)).save_pretrained(folder / task)
        (folder / task / "tokenizer.model").write_bytes((folder / "spm.model").read_bytes())
    return folder


@pytest.fixture(scope="module")
def loaded(models):
    def load(task):
        return MoshiForConditionalGeneration.from_pretrained(models / task).eval()

    return load, TextTokenizer(models / "spm.model")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "talk.wav"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.3 * rng.standard_normal((32000, 2)), 16000)
    return path


def run(command, *args):
    return main([command, *map(str, args)])


@pytest.fixture
def piped(monkeypatch, tmp_path):
    """Let standard input hold these bytes."""

    def pipe(content):
        (tmp_path / "stdin").write_bytes(content)
        monkeypatch.setattr(sys, "stdin", open(tmp_path / "stdin", encoding="utf-8"))

    yield pipe
    sys.stdin.close()


# -- speak ---------------------------------------------------------------------------------------------------
def test_a_text_is_spoken_and_its_words_are_timed(models, loaded, tmp_path, capsys):
    load, tokenizer = loaded
    out = {name: tmp_path / f"out.{name}" for name in ("wav", "json", "srt", "txt")}
    options = [
        "-o",
        out["wav"],
        "--json",
        out["json"],
        "--srt",
        out["srt"],
        "--text",
        out["txt"],
        "--seed",
        3,
    ]
    assert run("speak", TEXT, "-m", models / "tts", *options) == 0
    said = speak(load("tts"), tokenizer, TEXT, Sampling(seed=3))
    wave, rate = soundfile.read(out["wav"])
    assert rate == 24000 and len(wave) == said.waveform.shape[1]
    np.testing.assert_allclose(wave, said.waveform[0].clamp(-1, 1), atol=1e-4)
    words = from_json(out["json"].read_text())
    assert [w.text for w in words] == TEXT.split() and words == said.words
    assert out["txt"].read_text() == "the cat ran over the hill\n" and "-->" in out["srt"].read_text()
    assert re.search(
        r"real-time factor \d+\.\d\d \(\d+\.\d s of speech.*first sound", capsys.readouterr().err
    )


def test_text_comes_from_an_argument_a_file_or_a_pipe_and_goes_to_one(models, tmp_path, piped, capsysbinary):
    (tmp_path / "text.txt").write_text(TEXT)
    assert run("speak", TEXT, "-q", "-m", models / "tts", "-o", tmp_path / "a.wav") == 0
    assert (
        run("speak", "--file", tmp_path / "text.txt", "-q", "-m", models / "tts", "-o", tmp_path / "b.wav")
        == 0
    )
    piped(TEXT.encode())
    assert run("speak", "-q", "-m", models / "tts", "-o", "-") == 0
    out, err = capsysbinary.readouterr()
    assert err == b""
    a, b = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("a.wav", "b.wav"))
    assert np.array_equal(a, b)
    raw = np.frombuffer(out, "<i2")
    assert len(raw) == len(a) and np.abs(raw.astype(int) - a).max() <= 1


def test_words_with_times_are_said_at_those(models, tmp_path):
    words = [Word("the", 0.4, 0.5), Word("cat", 1.2, 1.5)]
    (tmp_path / "words.json").write_text(to_json(words))
    options = ["-q", "-m", models / "tts", "-o", tmp_path / "x.flac", "--json", tmp_path / "said.json"]
    assert run("speak", "--file", tmp_path / "words.json", *options) == 0
    assert [(w.text, w.start) for w in from_json((tmp_path / "said.json").read_text())] == [
        ("the", 0.4),
        ("cat", 1.2),
    ]


def test_pace(models, tmp_path):
    seconds = []
    for bonus in (-50, 50):
        out = tmp_path / f"{bonus}.wav"
        options = ["--padding-bonus", bonus, "--longest-pause", 0.8]
        assert run("speak", TEXT, "-q", "-m", models / "tts", "-o", out, *options) == 0
        seconds.append(soundfile.info(out).duration)
    assert seconds[1] > seconds[0] + 5 * 0.5


# -- transcribe ----------------------------------------------------------------------------------------------
def test_words_are_printed_and_written_with_their_times(models, loaded, talk, tmp_path, capsys):
    load, tokenizer = loaded
    out = {name: tmp_path / f"out.{name}" for name in ("json", "srt", "txt")}
    options = ["--json", out["json"], "--srt", out["srt"], "--text", out["txt"]]
    assert run("transcribe", talk, "-m", models / "stt", *options) == 0
    said = capsys.readouterr()
    wave = torch.from_numpy(read_audio(talk))
    expected = transcribe(load("stt"), tokenizer, wave)
    assert len(expected) > 2
    text = " ".join(word.text for word in expected)
    assert said.out == text + "\n" and out["txt"].read_text() == text + "\n"
    assert from_json(out["json"].read_text()) == expected and "-->" in out["srt"].read_text()
    assert re.search(r"real-time factor \d+\.\d\d \(2.0 s in", said.err)
    assert run("transcribe", talk, "-m", models / "stt", "--times") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(float(a), float(b), word) for a, b, word in lines] == [
        (w.start, w.end, w.text) for w in expected
    ]
    assert run("transcribe", talk, "-q", "-m", models / "stt", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["text"] == text


def test_standard_input_holds_a_sound_file_or_raw_samples(models, talk, tmp_path, piped, capsys):
    def written(*args):
        assert run("transcribe", *args, "-m", models / "stt") == 0
        return capsys.readouterr().out

    expected = written(talk)
    piped(talk.read_bytes())
    assert written("-") == expected
    mono = np.round(32768 * soundfile.read(talk)[0].mean(1)).astype("<i2")
    soundfile.write(tmp_path / "mono.wav", mono, 16000)
    piped(mono.tobytes())
    assert written("-", "--rate", 16000) == written(tmp_path / "mono.wav") != "\n"
    piped(b"")
    assert run("transcribe", "-", "-m", models / "stt") == 2
    assert "standard input held no sound" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [24000, 16000])
def test_raw_samples_come_out_as_the_file_does_however_they_are_cut(rate, tmp_path):
    samples = (8000 * np.random.default_rng(0).standard_normal(rate)).clip(-32768, 32767).astype("<i2")
    soundfile.write(tmp_path / "x.wav", samples, rate)

    class Pipe:
        """Gives pieces of odd lengths, as a pipe may."""

        def __init__(self):
            self.data, self.at = samples.tobytes(), 0

        def read(self, size):
            piece = self.data[self.at : self.at + 1777]
            self.at += len(piece)
            return piece

    pieces = list(stream_pcm(Pipe(), rate))
    assert len(pieces) > 10
    np.testing.assert_allclose(np.concatenate(pieces, 1), read_audio(tmp_path / "x.wav"), atol=2e-6)


def test_a_channel_of_a_call_is_heard(models, loaded, talk, capsys):
    load, tokenizer = loaded
    assert run("transcribe", talk, "-m", models / "stt", "--channel", "right") == 0
    right = torch.from_numpy(read_audio(talk, mono=False)[1:].copy())
    words = transcribe(load("stt"), tokenizer, right)
    assert capsys.readouterr().out.split() == [piece for w in words for piece in w.text.split()]


# -- what is refused -----------------------------------------------------------------------------------------
def test_tasks_are_told_by_their_streams(loaded):
    load, _ = loaded
    assert [task_of(load(task).config) for task in ("tts", "stt", "dialogue")] == ["tts", "stt", "dialogue"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["speak", "hello", "-o", "{tmp}/x.wav"],
            "--model: .*`aizuchi train moshi` with `task: tts` makes one",
        ),
        (["transcribe", "{talk}"], "--model: .*`aizuchi train moshi` with `task: stt` makes one"),
        (
            ["speak", "hi", "-m", "{m}/dialogue", "-o", "{tmp}/x.wav"],
            "holds conversations .*train moshi.*task: tts",
        ),
        (
            ["speak", "hi", "-m", "{m}/stt", "-o", "{tmp}/x.wav"],
            "writes down speech; a model is needed that speaks",
        ),
        (["transcribe", "{talk}", "-m", "{m}/tts"], "speaks a text; .*writes down speech: .*task: stt"),
        (["transcribe", "{talk}", "-m", "{m}/dialogue"], "holds conversations .*task: stt"),
        (["speak", "hi", "-m", "{tmp}/bare", "-o", "{tmp}/x.wav"], "no text tokenizer.*give --tokenizer"),
        (["speak", "hi", "-m", "{m}/tts"], "say where the speech goes"),
        (["speak", " ", "-m", "{m}/tts", "-o", "{tmp}/x.wav"], "the text is empty"),
        (["speak", "--file", "{tmp}/none", "-m", "{m}/tts", "-o", "{tmp}/x.wav"], "No such file"),
        (["speak", "--file", "{talk}", "-m", "{m}/tts", "-o", "{tmp}/x.wav"], "not UTF-8"),
        (["speak", "hi", "--file", "{talk}", "-o", "{tmp}/x.wav"], "not allowed with"),
        (["speak", "hi", "-m", "{m}/tts", "-o", "{tmp}/no/x.wav"], "no folder"),
        (["speak", "hi", "-m", "{m}/tts", "-o", "{tmp}/x.mp3"], "format"),
        (["speak", "hi", "-m", "{m}/tts", "-o", "-", "--json", "-"], "only one of"),
        (["speak", "hi", "-m", "{m}/tts", "-o", "-", "--longest-pause", "0"], "--longest-pause"),
        (["transcribe", "{tmp}/none.wav", "-m", "{m}/stt"], "does not exist"),
        (["transcribe", "{talk}", "-m", "{m}/stt", "--json", "-", "--srt", "-"], "only one of"),
        (["transcribe", "{talk}", "-m", "{m}/stt", "--temperature", "-1"], "temperature"),
    ],
)
def test_bad_input_is_one_line(args, message, models, talk, tmp_path, capsys):
    if "bare" in str(args):
        (tmp_path / "bare").mkdir()
        for file in (models / "tts").glob("*.[js]*"):
            (tmp_path / "bare" / file.name).symlink_to(file)
    assert main([arg.format(tmp=tmp_path, m=models, talk=talk) for arg in args]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and "\n" not in error, error
    assert not (tmp_path / "x.wav").exists()


def test_raw_samples_of_no_rate_are_refused():
    with pytest.raises(AizuchiError, match="rate of the raw samples"):
        list(stream_pcm(None, 10))
