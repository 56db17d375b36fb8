"""Alignments from plain sound, with a recogniser whose hearing is known."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import soundfile

from aizuchi.cli import main
from aizuchi.data.align import AlignOptions, WhisperTranscriber, align_audio, align_files, find_sounds, tidy
from aizuchi.data.alignments import DataError, check_alignment, read_alignment, write_alignment
from aizuchi.data.dialogues import check_dialogue, read_dialogues, write_list
from aizuchi.data.frames import MAIN_SPEAKER, USER_SPEAKER, SpokenWord
from aizuchi.errors import AizuchiError, MissingDependencyError
from aizuchi.transcript import Word

RATE = 24000


def bursts(seconds, *spans):
    wave = 1e-5 * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    for start, end in spans:
        wave[round(start * RATE) : round(end * RATE)] = 0.3
    return wave


class Ears:
    """Hears a word in every burst, and lets it begin too early, as recognisers do."""

    heard = 0

    def __init__(self, early: float = 0.3):
        self.early = early

    def __call__(self, wave):
        Ears.heard += 1
        edges = np.flatnonzero(np.diff((np.abs(wave) > 0.1).astype(int))) / RATE
        return [
            Word(f"w{i}", max(0, a - self.early), b) for i, (a, b) in enumerate(zip(edges[::2], edges[1::2]))
        ]


@pytest.fixture
def stereo(tmp_path):
    sides = [bursts(3, (0.5, 0.8), (1.2, 1.5)), bursts(3, (2.0, 2.6))]
    soundfile.write(tmp_path / "a.wav", np.stack(sides, 1), RATE)
    return tmp_path / "a.wav"


def test_each_channel_is_heard_and_words_begin_with_the_sound(stereo):
    words = align_audio(stereo, Ears())
    assert [(w.text, w.speaker) for w in words] == [
        ("w0", "SPEAKER_MAIN"),
        ("w1", "SPEAKER_MAIN"),
        ("w0", "SPEAKER_USER"),
    ]
    assert [w.start for w in words] == pytest.approx([0.5, 1.2, 2.0], abs=0.011)
    assert [w.end for w in words] == pytest.approx([0.8, 1.5, 2.6], abs=0.011)


@pytest.mark.parametrize("sides, count", [("model", 2), ("user", 1), ("both", 3)])
def test_sides(stereo, sides, count):
    assert len(align_audio(stereo, Ears(), AlignOptions(sides=sides))) == count


def test_a_single_channel_is_who_it_is_said_to_be(tmp_path):
    soundfile.write(tmp_path / "a.wav", bursts(1, (0.2, 0.5)), RATE)
    assert align_audio(tmp_path / "a.wav", Ears())[0].speaker == "SPEAKER_MAIN"
    assert align_audio(tmp_path / "a.wav", Ears(), AlignOptions(mono="user"))[0].speaker == "SPEAKER_USER"
    soundfile.write(tmp_path / "b.wav", np.zeros((RATE, 3)), RATE)
    with pytest.raises(AizuchiError, match="3 channels"):
        align_audio(tmp_path / "b.wav", Ears())


def test_tidy_orders_cuts_and_clamps():
    wave = bursts(2, (0.4, 1.9))
    words = [Word("b", 0.9, 1.4), Word("a", 0.1, 1.0), Word("c", 1.3, 2.5), Word("d", 2.2, 2.4)]
    out = tidy(words, wave)
    assert [w.text for w in out] == ["a", "b", "c", "d"]
    assert [(w.start, w.end) for w in out[:2]] == [(pytest.approx(0.4, abs=0.011), 0.9), (0.9, 1.3)]
    assert all(0 <= w.start <= w.end <= 2 for w in out)
    assert all(x.end <= y.start for x, y in zip(out, out[1:]))
    assert tidy([], wave) == []


def test_tidy_leaves_a_word_in_silence_where_it_is():
    assert tidy([Word("hm", 0.1, 0.3)], bursts(2, (1, 1.5))) == [Word("hm", 0.1, 0.3)]


def test_alignments_are_written_once_and_are_good_data(stereo, tmp_path):
    Ears.heard = 0
    seen: list = []
    assert align_files([stereo], Ears, report=seen.append) == 1
    assert Ears.heard == 2 and seen == [stereo]
    write_list(tmp_path / "a.jsonl", [stereo])
    [dialogue] = read_dialogues(tmp_path / "a.jsonl")
    assert check_dialogue(dialogue) == []
    assert align_files([stereo], Ears) == 0 and Ears.heard == 2


def test_overwriting_keeps_the_text_conditions(stereo):
    path = stereo.with_suffix(".json")
    write_alignment(path, [SpokenWord("old", 0, 1)], {"style": "calm"})
    assert align_files([stereo], Ears) == 0
    assert align_files([stereo], Ears, AlignOptions(overwrite=True)) == 1
    alignment = read_alignment(path)
    assert alignment.text_conditions == {"style": "calm"} and len(alignment.words) == 3
    path.write_text("{")  # cut: done again without being asked
    assert align_files([stereo], Ears) == 1 and check_alignment(path)[1] == []


def test_a_bad_file_is_named_and_the_others_are_aligned(stereo, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="bad.wav"):
        align_files([tmp_path / "bad.wav", stereo], Ears)
    assert stereo.with_suffix(".json").exists() and not (tmp_path / "bad.json").exists()


def test_two_processes_write_what_one_writes(stereo, tmp_path):
    other = tmp_path / "b.wav"
    other.write_bytes(stereo.read_bytes())
    assert align_files([stereo, other], functools.partial(Ears, 0.2), jobs=2) == 2
    assert stereo.with_suffix(".json").read_text() == other.with_suffix(".json").read_text()
    assert len(read_alignment(other.with_suffix(".json")).words) == 3


def test_find_sounds(stereo, tmp_path):
    write_list(tmp_path / "a.jsonl", [stereo])
    assert find_sounds([stereo, tmp_path, tmp_path / "a.jsonl"]) == [stereo]
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "no sound files"), (tmp_path / "none", "does not exist")):
        with pytest.raises(AizuchiError, match=message):
            find_sounds([path])
    with pytest.raises(AizuchiError, match="share the alignment"):
        align_files([stereo, stereo.with_suffix(".flac")], Ears)


def test_a_missing_model_or_extra_is_said(stereo, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faster_whisper")
    with pytest.raises(AizuchiError, match="model.bin is missing"):
        WhisperTranscriber(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(AizuchiError, match="can't be loaded"):
        WhisperTranscriber(tmp_path)
    assert main(["data", "align", str(stereo), "--whisper", str(tmp_path / "none")]) == 2
    assert "none holds no Whisper model" in capsys.readouterr().err

    import sys

    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingDependencyError, match=r"aizuchi\[data\]"):
        WhisperTranscriber(tmp_path)
    assert main(["data", "align", str(stereo), "--whisper", str(tmp_path)]) == 2
    assert "aizuchi[data]" in capsys.readouterr().err


def test_the_command_writes_alignments_and_a_list(stereo, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faster_whisper")
    from aizuchi.data import align

    monkeypatch.setattr(align, "WhisperTranscriber", lambda *_: Ears())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").touch()
    command = ["data", "align", str(stereo), "--whisper", str(tmp_path / "model")]
    command += ["--list", str(tmp_path / "l.jsonl")]
    assert main(command) == 0
    assert "1 file aligned" in capsys.readouterr().err
    assert main(command) == 0
    assert "0 files aligned, 1 had an alignment" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "l.jsonl")]) == 0
    assert len(json.loads(stereo.with_suffix(".json").read_text())["alignments"]) == 3


@pytest.mark.slow
def test_whisper_aligns_two_voices(tmp_path, capsys):
    """Both channels of synthetic speech with known word times, through the command and a real Whisper."""
    pytest.importorskip("faster_whisper")
    pytest.importorskip("hibari")
    from aizuchi.evaluate.recognize import find_whisper
    from aizuchi.evaluate.synthesize import open_synthesizer

    try:
        find_whisper()
    except AizuchiError as error:
        pytest.skip(str(error))
    lines = {
        MAIN_SPEAKER: ("My name is Mini, and I can count for you.", 8.0),
        USER_SPEAKER: ("Could you tell me what the opposite of the word happy is?", 1.5),
    }
    sound, known = np.zeros((2, 15 * RATE), np.float32), {}
    for row, (speaker, (text, at)) in enumerate(lines.items()):
        speech = open_synthesizer("hibari" if row == 0 else "hibari:0.9")(text, seed=0)
        sound[row, round(at * RATE) :][: len(speech.wave)] = speech.wave
        known[speaker] = [(word.text, at + word.start, at + word.end) for word in speech.words]
    path = tmp_path / "talk.wav"
    soundfile.write(path, sound.T, RATE)
    assert main(["data", "align", str(path), "--language", "en", "--list", str(tmp_path / "l.jsonl")]) == 0
    assert main(["data", "check", str(tmp_path / "l.jsonl")]) == 0
    found = read_alignment(path.with_suffix(".json")).words
    errors = []
    for speaker, words in known.items():
        heard = [word for word in found if word.speaker == speaker]
        plain = [word.text.lower().strip(".,?") for word in heard]
        assert plain == [text.lower().strip(".,?") for text, _, _ in words]
        errors += [
            abs(a - b)
            for word, (_, start, end) in zip(heard, words)
            for a, b in ((word.start, start), (word.end, end))
        ]
    # a frame of the model is 80 ms
    assert np.median(errors) < 0.08 and np.quantile(errors, 0.9) < 0.25
    print(f"median {np.median(errors):.3f} s, 90 % {np.quantile(errors, 0.9):.3f} s")
