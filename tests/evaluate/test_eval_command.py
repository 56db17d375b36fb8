"""The command line, run as its user would, on stand-ins that need no model and no package."""

import json

import numpy as np
import pytest

from aizuchi.audio import write_audio
from aizuchi.cli import main
from aizuchi.evaluate import commands
from tests.evaluate.fakes import RATE, BurstRecognizer, BurstSynthesizer, ScriptedSystem, bursts, word_times

HERE = "tests.evaluate.test_eval_command"


def make_user():
    return BurstSynthesizer()


def make_system():
    return ScriptedSystem(lambda user: word_times(5, max(0.2, len(user) / RATE - 5.6)))


def make_nll():
    return lambda text: (float(len(text)), 1)


def make_recognizer():
    return BurstRecognizer()


@pytest.fixture(autouse=True)
def no_whisper(monkeypatch):
    monkeypatch.setattr(commands, "_recognizer", lambda args: BurstRecognizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    kinds = ["smooth_turn_taking", "user_interruption", "silence_and_noise"]
    arguments = ["scenarios", str(root / "set"), "--user", f"{HERE}:make_user", "--count", "1", "-q"]
    assert main(["eval", *arguments, "--kinds", *kinds]) == 0
    return root


def run(*arguments):
    return main(["eval", *map(str, arguments), "-q"])


def test_from_scenarios_to_a_report_and_a_comparison(folder, tmp_path, capsys):
    turns = [
        "turns",
        folder / "set",
        "--detector",
        "energy",
        "--out",
        tmp_path,
        "--model",
        f"{HERE}:make_system",
    ]
    assert run(*turns) == 0
    said = capsys.readouterr().out
    assert "smooth turn-taking: answers 100.0 %" in said
    assert (tmp_path / "turns" / "smooth_turn_taking" / "0" / "output.wav").is_file()
    assert not (folder / "set" / "smooth_turn_taking" / "0" / "output.wav").exists()

    clip = tmp_path / "clip.wav"
    write_audio(clip, np.stack([bursts([(0.5, 2.0)], 5.0), bursts([(0.75, 2.25)], 5.0)]), RATE)
    assert run("dialogue", clip, "--detector", "energy", "--out", tmp_path) == 0
    codec = [
        "codec",
        clip,
        "--codec",
        "original",
        "--no-model",
        "--metrics",
        "mel",
        "si-sdr",
        "--out",
        tmp_path,
    ]
    assert run(*codec) == 0
    assert run("latency", clip, "--stereo", "--out", tmp_path) == 0
    assert "latency 0.25 s" in capsys.readouterr().out

    assert run("report", "--out", tmp_path) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["sections"]) == ["turns", "dialogue", "codec", "latency"]
    assert report["system"] == "scripted"
    assert "<h1>scripted</h1>" in (tmp_path / "report.html").read_text()
    page = tmp_path / "compared.html"
    assert run("compare", tmp_path, tmp_path / "report.json", "--page", page) == 0
    assert "0 moved beyond noise" in capsys.readouterr().out
    assert page.is_file() and page.with_suffix(".json").is_file()


def test_speech(folder, tmp_path, capsys):
    questions = tmp_path / "q.jsonl"
    rule = {"type": "any", "accept": ["word"]}
    rows = [{"id": f"q{i}", "kind": "k", "text": "who are you", "rule": rule} for i in range(4)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    pairs = tmp_path / "p.jsonl"
    pairs.write_text(json.dumps({"id": 1, "kind": "words", "good": "a", "bad": "bbb"}))
    write_audio(tmp_path / "said.wav", bursts(word_times(2), 1.0), RATE)
    (tmp_path / "said.txt").write_text("word word word")
    speech = [
        "speech",
        "--questions",
        questions,
        "--limit",
        "2",
        "--noise",
        "20",
        "--user",
        f"{HERE}:make_user",
    ]
    speech += ["--model", f"{HERE}:make_system", "--pairs", pairs, "--nll", f"{HERE}:make_nll"]
    speech += ["--spoken", tmp_path / "said.wav", "--transcribe", tmp_path / "said.wav"]
    assert run(*speech, "--recognizer", f"{HERE}:make_recognizer", "--out", tmp_path / "out") == 0
    data = json.loads((tmp_path / "out" / "speech.json").read_text())
    assert data["tables"]["Answers"]["all"]["right"]["n"] == 2
    assert data["tables"]["Answers in noise"]["all"]["right"]["n"] == 2
    assert data["tables"]["Likelihood pairs"]["words"]["accuracy"]["value"] == 100
    rates = [row["WER"]["value"] for row in data["tables"]["Word errors"].values()]
    assert rates == [pytest.approx(100 / 3), pytest.approx(100 / 3)]


def test_the_benchmarks_recordings_are_scored_in_place(tmp_path, capsys):
    sample = tmp_path / "data" / "candor_pause_handling" / "3"
    write = lambda name, times: write_audio(sample / name, bursts(times, 4.0), RATE)  # noqa: E731
    sample.mkdir(parents=True)
    write("input.wav", [(0.5, 2.0)])
    write("output.wav", word_times(5, 1.0))
    (sample / "pause.json").write_text('[{"text": "[PAUSE]", "timestamp": [1.0, 1.5]}]')
    arguments = ["turns", tmp_path / "data", "--recorded", "--detector", "energy", "--out", tmp_path / "out"]
    assert run(*arguments) == 0
    assert "pause handling: take-over rate 100.0 %" in capsys.readouterr().out


def test_a_codec_that_stands_alone(tmp_path, capsys):
    """What `aizuchi train mimi` leaves needs no language model around it to be measured."""
    from aizuchi.train.mimi_start import make_codec
    from tests.train.tiny_codec import config_of

    make_codec(config_of(tmp_path / "run")).save_pretrained(tmp_path / "codec")
    write_audio(tmp_path / "speech.wav", bursts([(0.2, 0.9)], 1.0), RATE)
    arguments = [
        "codec",
        tmp_path / "speech.wav",
        "-m",
        tmp_path / "codec",
        "--codec",
        "original",
        "--no-wer",
    ]
    assert run(*arguments, "--codebooks", "1", "4", "--metrics", "si-sdr", "--out", tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out" / "codec.json").read_text())
    assert "Mimi" in json.dumps(rows) and capsys.readouterr().out


def test_all_on_a_stand_in(tmp_path, capsys, monkeypatch):
    """Everything in one go; the metrics that need packages are left out by taking the packages away."""
    from aizuchi.errors import MissingDependencyError
    from aizuchi.evaluate.codec import codecs, metrics
    from aizuchi.evaluate.vad import EnergyDetector

    def missing(module, extra):
        raise MissingDependencyError(f"{module} is not installed: pip install 'aizuchi[{extra}]'")

    monkeypatch.setattr(metrics, "require", missing)
    monkeypatch.setattr(codecs, "OpusCodec", lambda kbps: codecs.Original())
    monkeypatch.setattr("aizuchi.evaluate.vad.SileroDetector", lambda refine=True: EnergyDetector())
    quick = "aizuchi.evaluate.report.samples.encode_audio"  # MP3 of noise takes its time; test_report has it
    monkeypatch.setattr(quick, lambda wave: ("audio/mpeg", b""))
    monkeypatch.setattr("aizuchi.evaluate.everything.SCENARIOS_AT_ONCE", 7)
    arguments = ["all", "--quick", "--model", f"{HERE}:make_system", "--user", f"{HERE}:make_user"]
    arguments += ["--out", tmp_path]
    assert run(*arguments, "--minutes", "0") == 2 and "--minutes" in capsys.readouterr().err
    assert run(*arguments, "--minutes", "0.001") == 0  # one piece of each, and the rest is counted
    turns = json.loads((tmp_path / "turns.json").read_text())
    assert len(turns["items"]) == 7 and len({item["kind"] for item in turns["items"]}) == 5
    assert [(row["what"], row["count"]) for row in turns["skipped"] if "scenarios" in row["what"]] == [
        ("scenarios: 3 of 10", 3)
    ]
    assert run(*arguments) == 0  # goes on with what was left
    turns = json.loads((tmp_path / "turns.json").read_text())
    assert len(turns["items"]) == 10 and not [r for r in turns["skipped"] if "scenarios" in r["what"]]
    page = (tmp_path / "report.html").read_text()
    assert "pip install" in page and "Left out:" in page
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["sections"]) == {"turns", "dialogue", "speech", "codec"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["turns", "nowhere", "--recorded"], "no folder"),
        (["speech"], "nothing to measure"),
        (["speech", "--pairs", "p.jsonl"], "--nll"),
        (["codec", "nowhere.wav", "--no-model"], "does not exist"),
        (["report", "--out", "nowhere"], "no results"),
        (["compare", "a.json", "b.json"], "does not exist"),
        (["latency", "one.wav"], "pairs"),
        (["latency", "a.wav", "b.wav", "--max", "0"], "--max"),
        (["scenarios", "x", "--kinds", "dance", "--user", f"{HERE}:make_user"], "unknown kinds"),
        (["scenarios", "x", "--user", "nobody"], "unknown synthesizer"),
        (["turns", "x", "--threads", "0"], "--threads"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("sub", "all scenarios turns codec speech dialogue latency report compare".split())
def test_help_of_each(sub, capsys):
    assert main(["eval", sub, "--help"]) == 0
    assert "usage: aizuchi eval" in capsys.readouterr().out
