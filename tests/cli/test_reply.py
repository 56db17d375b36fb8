"""`aizuchi reply` as its user runs it, on a recorded human voice."""

import json

import numpy as np
import pytest
import soundfile

from aizuchi.audio import read_audio
from aizuchi.cli import main
from tests.checkpoints.tiny import MOSHI, kyutai_folder

SPEECH = "examples/question.flac"


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    """Two seconds of the recorded question, at its own rate (16 kHz)."""
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    path = tmp_path_factory.mktemp("speech") / "question.wav"
    soundfile.write(path, samples[rate : 3 * rate], rate)
    return path


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same weights in both layouts: as Kyutai's package writes them, and converted."""
    folder = tmp_path_factory.mktemp("layouts")
    kyutai_folder(folder / "kyutai", MOSHI)
    assert main(["convert", str(folder / "kyutai"), str(folder / "hf")]) == 0
    return folder


def run(*args, **options):
    return main(["reply", *map(str, args), *(f"--{k.replace('_', '-')}={v}" for k, v in options.items())])


def test_both_layouts_give_the_same_reply_to_the_same_speech(layouts, question, tmp_path):
    for layout in ("kyutai", "hf"):
        assert (
            run(
                question,
                model=layouts / layout,
                output=tmp_path / f"{layout}.wav",
                json=tmp_path / f"{layout}.json",
            )
            == 0
        )
    first, second = (soundfile.read(tmp_path / f"{layout}.wav")[0] for layout in ("kyutai", "hf"))
    assert np.array_equal(first, second) and np.abs(first).max() > 0
    assert (tmp_path / "kyutai.json").read_text() == (tmp_path / "hf.json").read_text()


def test_the_reply_is_aligned_and_everything_asked_for_is_written(layouts, question, tmp_path, capsys):
    paths = {name: tmp_path / f"out.{name}" for name in ("flac", "json", "srt", "txt")}
    code = run(
        question,
        "--text-temperature=2",
        model=layouts / "hf",
        output=paths["flac"],
        stereo=tmp_path / "both.wav",
        json=paths["json"],
        srt=paths["srt"],
        text=paths["txt"],
        plot=tmp_path / "out.svg",
    )
    assert code == 0
    assert "<svg" in (tmp_path / "out.svg").read_text()
    voice, rate = soundfile.read(paths["flac"])
    both, _ = soundfile.read(tmp_path / "both.wav")
    assert rate == 24000 and voice.shape == (48000,) and both.shape == (48000, 2)
    assert np.allclose(both[:, 0], voice, atol=1e-4)
    assert np.allclose(both[:, 1], read_audio(question)[0], atol=1e-4)
    words = json.loads(paths["json"].read_text())["words"]
    assert words, "a model at this temperature says something"
    assert all(0 <= word["start"] <= word["end"] <= 2.0 + 0.08 for word in words)
    assert "-->" in paths["srt"].read_text() and paths["txt"].read_text().strip()
    said = capsys.readouterr()
    assert "real-time factor" in said.err and paths["txt"].read_text().strip() in said.out


def test_a_seed_repeats_and_greedy_needs_none(layouts, question, tmp_path):
    def voice(*args):
        assert run(question, "--quiet", *args, model=layouts / "hf", output=tmp_path / "x.wav") == 0
        return soundfile.read(tmp_path / "x.wav")[0]

    first = voice("--seed=3")
    assert np.array_equal(first, voice("--seed=3"))
    assert not np.array_equal(first, voice("--seed=4"))
    assert np.array_equal(voice("--greedy"), voice("--greedy", "--seed=9"))


def test_stereo_input_has_a_user_on_either_side(layouts, tmp_path):
    left, right = np.sin(np.arange(24000) / 20), np.sin(np.arange(24000) / 33)
    soundfile.write(tmp_path / "in.wav", np.stack([left, right], 1) * 0.5, 24000)
    heard = {}
    for channel in ("left", "right", "mix"):
        options = dict(model=layouts / "hf", channel=channel, stereo=tmp_path / "both.wav")
        assert run(tmp_path / "in.wav", "--quiet", **options) == 0
        heard[channel] = soundfile.read(tmp_path / "both.wav")[0][:, 1]
    assert np.allclose(heard["left"], left * 0.5, atol=1e-3) and np.allclose(
        heard["right"], right * 0.5, atol=1e-3
    )
    assert np.allclose(heard["mix"], (left + right) / 4, atol=1e-3)


def test_a_tail_lets_the_answer_end(layouts, question, tmp_path):
    assert run(question, "--quiet", model=layouts / "hf", output=tmp_path / "x.wav", tail=0.5) == 0
    assert soundfile.info(tmp_path / "x.wav").frames == 48000 + 12000


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac"])
def test_other_formats_are_heard(layouts, suffix, tmp_path):
    samples = np.sin(np.arange(22050) / 15) * 0.3
    soundfile.write(tmp_path / f"in.{suffix}", samples, 44100)
    assert run(tmp_path / f"in.{suffix}", "--quiet", model=layouts / "hf", output=tmp_path / "x.wav") == 0
    assert abs(soundfile.info(tmp_path / "x.wav").duration - 0.5) < 0.06  # mp3 and ogg pad their frames


def test_without_a_trained_model_it_says_that_it_babbles(question, tmp_path, capsys):
    assert run(question, model="random", output=tmp_path / "x.wav") == 0
    assert "random weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{tmp}/none.wav"], "does not exist"),
        (["{tmp}/text.wav"], "not a sound file"),
        (["{tmp}/empty.wav"], "empty"),
        (["{tmp}/nan.wav"], "finite|NaN"),
        (["{question}", "-o", "{tmp}/nowhere/x.wav"], "no folder"),
        (["{question}", "-o", "{tmp}/x.xyz"], "format"),
        (["{question}", "--plot", "{tmp}/x.xyz"], "must end in one of .*png"),
        (["{question}", "--plot", "{tmp}/nowhere/x.png"], "no folder"),
        (["{question}", "--model", "{tmp}"], "{tmp}"),
        (["{question}", "--channel", "right"], "1 channel"),
        (["{question}", "--temperature", "-1"], "temperature"),
        (["{question}", "--threads", "0"], "--threads"),
        (["{question}", "--tail", "-1"], "--tail"),
    ],
)
def test_bad_input_is_one_line(args, message, question, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 24000, subtype="FLOAT")
    before = sorted(tmp_path.iterdir())
    assert main(["reply", *(arg.format(tmp=tmp_path, question=question) for arg in args)]) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    import re

    assert re.search(message.format(tmp=re.escape(str(tmp_path))), error), error
    assert sorted(tmp_path.iterdir()) == before
