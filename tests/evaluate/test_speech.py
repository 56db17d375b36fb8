import json
from types import SimpleNamespace

import numpy as np
import pytest

from aizuchi.audio import read_audio, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.clips import Clip
from aizuchi.evaluate.pairs import read_pairs, score_pairs
from aizuchi.evaluate.recognize import Heard, WhisperRecognizer, find_whisper, snap_words
from aizuchi.evaluate.results import Cache, Section
from aizuchi.evaluate.speech import agreement, recognition, synthesis
from aizuchi.evaluate.turn_samples import Sample, write_chunks
from aizuchi.transcript import Word
from tests.evaluate.fakes import RATE, bursts


class Says:
    def __init__(self, *texts):
        self.name, self.texts = "says", list(texts)

    def __call__(self, wave, rate):
        return Heard(self.texts.pop(0), [])


def test_recognition_by_hand(tmp_path):
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", bursts([(0.1, 0.5)], 1.0), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    clips = [
        Clip(tmp_path / "a.wav", "one two three four"),
        Clip(tmp_path / "b.wav", "five six"),
        Clip(tmp_path / "c.wav"),
        Clip(tmp_path / "broken.wav", "lost"),
    ]
    section = Section("speech")
    recognition(clips, Says("1 2 3", "five seven six"), section, progress=False)
    row = section.tables["Word errors"]["Transcription"]
    assert row["WER"].value == pytest.approx(100 * 2 / 6) and row["WER"].n == 2
    assert row["deletions"].value == row["insertions"].value == pytest.approx(100 / 6)
    assert section.skipped == [
        {"what": "Transcription", "reason": "the recording's text is not known", "count": 1}
    ]
    assert [entry["path"] for entry in section.broken] == [str(tmp_path / "broken.wav")]


def test_synthesis_is_spoken_once(tmp_path):
    spoken = []

    def speak(text):
        spoken.append(text)
        return bursts([(0.0, 0.3)], 0.5)

    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        section = Section("speech")
        synthesis(
            ["hello you", "..."],
            speak,
            Says("hello hue"),
            section,
            tmp_path / "out",
            cache=cache,
            progress=False,
        )
        assert section.tables["Word errors"]["speak"]["WER"].value == 50.0
    assert spoken == ["hello you"]
    assert read_audio(tmp_path / "out" / "0000.wav").shape == (1, RATE // 2)


def test_agreement_of_monologue_and_sound(tmp_path):
    write_audio(tmp_path / "output.wav", bursts([(0.1, 0.5)], 1.0), RATE)
    write_chunks(tmp_path / "monologue.json", "", [Word("two", 0.1, 0.2), Word("words", 0.2, 0.4)])
    section = Section("speech")
    samples = [Sample(tmp_path, "turn", tmp_path), Sample(tmp_path, "turn", tmp_path / "none")]
    agreement(samples, Says("two birds"), section, progress=False)
    assert section.tables["Word errors"]["monologue against what is heard"]["WER"].value == 50.0


def test_pairs_by_hand(tmp_path):
    rows = [
        {"id": "1", "kind": "sWUGGY", "good": "bird", "bad": "brid"},
        {"id": "2", "kind": "sWUGGY", "good": "long", "bad": "l"},
        {"id": "3", "kind": "sBLIMP", "good": "tie", "bad": "eit"},
        {"id": "4", "kind": "sBLIMP", "good": "sound.wav", "bad": "worse"},
        {"id": "5", "kind": "sBLIMP", "good": "broken", "bad": "nan"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sound.wav").write_bytes(b"x")
    costs = {
        "bird": 4.0,
        "brid": 8.0,
        "long": 8.0,
        "l": 3.0,
        "tie": 1.0,
        "eit": 1.0,
        "worse": 9.0,
        "broken": 1.0,
    }

    def nll(example):
        if example.endswith("sound.wav"):
            assert example == str(tmp_path / "sound.wav")
            return 1.0, 1
        return costs.get(example, float("nan")), len(example)

    pairs = read_pairs(path)
    section = Section("speech")
    table = score_pairs(pairs, nll, section, progress=False)
    assert table["sWUGGY"]["accuracy"].value == 100.0  # 1.0 < 2.0 and 2.0 < 3.0 nats a token
    assert table["sBLIMP"]["accuracy"].value == 75.0 and table["sBLIMP"]["ties"].value == 50.0
    assert [row["path"] for row in section.broken] == ["5"]
    whole = score_pairs(pairs, nll, Section("speech"), per_token=False, progress=False)
    assert whole["sWUGGY"]["accuracy"].value == 50.0  # the longer one costs more as a whole
    for bad in ("{", '{"id": 1}', ""):
        path.write_text(bad)
        with pytest.raises(AizuchiError):
            read_pairs(path)


def test_words_are_brought_to_voice_activity():
    words = [Word("So", 0.2, 1.1), Word("then", 1.2, 1.5), Word("ghost", 3.0, 3.4), Word("end", 1.9, 2.6)]
    snapped = snap_words(words, [(1.0, 2.0)])
    assert [(w.text, w.start, w.end) for w in snapped] == [
        ("So", 1.0, 1.1),
        ("then", 1.2, 1.5),
        ("end", 1.9, 2.0),
    ]
    assert snap_words(words, []) == []


def test_no_whisper_says_how_to_get_one(tmp_path, monkeypatch):
    from aizuchi.evaluate import recognize

    with pytest.raises(AizuchiError, match=r"model\.bin"):
        find_whisper(tmp_path)
    monkeypatch.setattr(recognize, "_package_folder", lambda name: None)
    monkeypatch.delenv("AIZUCHI_WHISPER", raising=False)
    with pytest.raises(AizuchiError, match="pip install"):
        find_whisper()
    monkeypatch.setenv("AIZUCHI_WHISPER", str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"")
    assert find_whisper() == tmp_path


def test_halves_of_a_model_are_joined(tmp_path, monkeypatch):
    from aizuchi.evaluate import recognize

    parts = {"1": b"first ", "2": b"second"}
    for part, data in parts.items():
        folder = tmp_path / part / "data"
        folder.mkdir(parents=True)
        (folder / f"model.bin.part{part}").write_bytes(data)
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            (folder / name).write_text("{}")
    monkeypatch.setattr(recognize, "_package_folder", lambda name: tmp_path / name[-1])
    monkeypatch.delenv("AIZUCHI_WHISPER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = find_whisper()
    assert (folder / "model.bin").read_bytes() == b"first second"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.json",
    ]


@pytest.mark.slow
def test_whisper_hears_synthetic_speech():
    """The whole chain: text, synthetic speech, Whisper, word errors, and words where they were said."""
    pytest.importorskip("faster_whisper")
    pytest.importorskip("hibari")
    from aizuchi.evaluate.synthesize import open_synthesizer
    from aizuchi.evaluate.text import word_errors

    try:
        recognizer = WhisperRecognizer()
    except AizuchiError as error:
        pytest.skip(str(error))
    speak = open_synthesizer("hibari")
    text = "What is two plus three? The answer should be five."
    speech = speak(text, seed=0)
    wave = np.concatenate([np.zeros(RATE, np.float32), speech.wave, np.zeros(RATE, np.float32)])
    heard = recognizer(wave, RATE)
    assert word_errors(text, heard.text).errors == 0
    assert len(heard.words) == len(speech.words)
    known = [word.start + 1.0 for word in speech.words[1:]]
    offsets = [heard_word.start - start for heard_word, start in zip(heard.words[1:], known)]
    assert np.median(np.abs(offsets)) < 0.15


def test_a_recogniser_that_repeats_itself_hears_once_more(monkeypatch, tmp_path):
    whisper = pytest.importorskip("faster_whisper")
    asked = []

    class Model:
        loops = True

        def __init__(self, *args, **kwargs):
            pass

        def transcribe(self, audio, no_repeat_ngram_size=0, **options):
            asked.append(no_repeat_ngram_size)
            looped = self.loops and not no_repeat_ngram_size
            texts = [" one", *([" two"] * (60 if looped else 1))]
            words = [SimpleNamespace(word=text, start=1.0, end=1.2) for text in texts]
            segment = SimpleNamespace(words=words, compression_ratio=6.0 if looped else 0.8)
            return iter([segment]), None

    monkeypatch.setattr(whisper, "WhisperModel", Model)
    (tmp_path / "model.bin").write_bytes(b"")
    recognizer = WhisperRecognizer(tmp_path)
    wave = bursts([(0.1, 0.5)], 1.0)
    assert recognizer(wave, RATE).text == "one two" and asked == [0, 3]
    Model.loops = False
    assert recognizer(wave, RATE).text == "one two" and asked == [0, 3, 0]
