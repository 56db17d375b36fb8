"""Reading and checking dialogues: every kind of damage is named by file and line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import soundfile

from aizuchi.audio import read_audio
from aizuchi.data.alignments import DataError, check_alignment, read_alignment, write_alignment
from aizuchi.data.dialogues import (
    Segment,
    check_dialogue,
    check_lists,
    cut,
    read_dialogues,
    write_dialogue,
    write_list,
)
from aizuchi.data.frames import SpokenWord
from aizuchi.data.sources import parse_sources
from aizuchi.errors import AizuchiError
from tests.data.helpers import make_dialogues

WORDS = [
    SpokenWord("hello", 0.2, 0.5),
    SpokenWord("you", 0.3, 0.6, "SPEAKER_USER"),
    SpokenWord("there", 0.5, 0.9),
]


@pytest.fixture
def one(tmp_path):
    """A list of one good dialogue of 2 s."""
    rng = np.random.default_rng(0)
    write_dialogue(tmp_path / "a.wav", rng.normal(0, 0.1, 48000), rng.normal(0, 0.1, 47000), WORDS)
    write_list(tmp_path / "train.jsonl", [tmp_path / "a.wav"])
    return tmp_path / "train.jsonl"


def problems_of(path, **options):
    dialogues, problems = check_lists(path)
    return [str(p) for p in [*problems, *(q for d in dialogues for q in check_dialogue(d, **options))]]


def test_what_is_written_is_read_back(one):
    assert problems_of(one, decode=True) == []
    [dialogue] = read_dialogues(one)
    assert dialogue.duration == 2.0
    assert dialogue.where == f"{one}:1"
    waves = dialogue.waves()
    assert waves.shape == (2, 48000) and waves.dtype == np.float32
    assert np.array_equal(waves[1, 47000:], np.zeros(1000))
    expected = np.random.default_rng(0).normal(0, 0.1, 48000)
    assert np.abs(waves[0] - np.clip(expected, -1, 1)).max() < 1e-4  # 16 bits
    assert dialogue.alignment().words == WORDS


def test_a_folder_stands_for_its_lists(one):
    write_list(one.parent / "more.jsonl", [one.parent / "a.wav"] * 2)
    assert [d.where.rpartition("/")[2] for d in read_dialogues(one.parent)] == [
        "more.jsonl:1",
        "more.jsonl:2",
        "train.jsonl:1",
    ]


def test_text_conditions_round_trip(tmp_path):
    write_alignment(tmp_path / "a.json", WORDS, {"style": "calm", "accent": None})
    assert read_alignment(tmp_path / "a.json").text_conditions == {"style": "calm", "accent": None}
    (tmp_path / "a.json").write_text('{"alignments": [], "text_conditions": {"style": 3}}')
    with pytest.raises(DataError, match="'style' should be a string or null"):
        read_alignment(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"alignments": [], "text_conditions": []}')
    with pytest.raises(DataError, match="object of strings"):
        read_alignment(tmp_path / "a.json")


def test_the_speaker_may_be_left_out(tmp_path):
    (tmp_path / "a.json").write_text('{"alignments": [["a", [0, 1]], [" ", [1, 1]], ["b", [1, 2], null]]}')
    words = read_alignment(tmp_path / "a.json").words
    assert words == [SpokenWord("a", 0, 1, "SPEAKER_MAIN"), SpokenWord("b", 1, 2, "SPEAKER_MAIN")]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{not json", "malformed JSON"),
        ("[1]", "expected"),
        ('{"duration": 2}', "expected"),
        ('{"path": "none.wav", "duration": 2}', "none.wav does not exist"),
        ('{"path": "a.wav", "duration": "2"}', "duration should be a number"),
        ('{"path": "a.wav", "duration": true}', "duration should be a number"),
        ('{"path": "a.wav", "duration": -1}', "above 0"),
        ('{"path": "a.wav", "duration": NaN}', "above 0"),
    ],
)
def test_a_wrong_line_is_named(one, line, message):
    one.write_text(one.read_text() + "\n" + line + "\n")
    [problem] = problems_of(one)
    assert problem.startswith(f"{one}:3: ") and message in problem
    with pytest.raises(DataError, match=f"{one}:3: "):
        read_dialogues(one)


def test_the_duration_may_be_left_out(one):
    one.write_text('{"path": "a.wav"}\n')
    assert read_dialogues(one)[0].duration == 2.0


def test_a_duration_that_is_off_is_named(one):
    one.write_text('{"path": "a.wav", "duration": 2.5}\n')
    [problem] = problems_of(one)
    assert problem == f"{one}:1: duration is 2.5 s, but {one.parent / 'a.wav'} lasts 2.000 s"


def test_wrong_channel_counts_are_named(one):
    soundfile.write(one.parent / "a.wav", np.zeros((48000, 3)), 24000)
    assert problems_of(one) == [
        f"{one}:1: {one.parent / 'a.wav'} has 3 channels; expected 2, left the model and right the user"
    ]
    soundfile.write(one.parent / "a.wav", np.full(48000, 0.5), 24000)
    assert "has 1 channel;" in problems_of(one)[0]
    assert problems_of(one, mono="user") == []
    [dialogue] = read_dialogues(one)
    with pytest.raises(DataError, match="has 1 channel;"):
        dialogue.waves()
    assert dialogue.waves("user").max(axis=1).tolist() == [0, 0.5]
    assert dialogue.waves("model").max(axis=1).tolist() == [0.5, 0]


def test_damaged_audio_is_named(one):
    audio = one.parent / "a.wav"
    audio.write_bytes(b"RIFF")
    assert any(p.startswith(f"{one}:1: ") and "not a sound file" in p for p in problems_of(one))
    audio.unlink()
    assert "does not exist" in problems_of(one)[0]


def test_cut_audio_is_found_by_decoding(tmp_path):
    rng = np.random.default_rng(0)
    write_dialogue(tmp_path / "a.flac", rng.normal(0, 0.1, 48000), rng.normal(0, 0.1, 48000), WORDS)
    write_list(tmp_path / "train.jsonl", [tmp_path / "a.flac"])
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    assert problems_of(tmp_path / "train.jsonl") == []  # the header is fine
    [problem] = problems_of(tmp_path / "train.jsonl", decode=True)
    assert problem.startswith(f"{tmp_path / 'train.jsonl'}:1: ")


def test_a_missing_alignment_is_named_unless_it_is_not_needed(one):
    (one.parent / "a.json").unlink()
    [problem] = problems_of(one)
    assert problem.startswith(f"{one.parent / 'a.json'}: the alignment is missing")
    assert problem.endswith(f"(from {one}:1)")
    assert problems_of(one, need_words=False) == []
    with pytest.raises(DataError, match="missing"):
        read_dialogues(one)[0].alignment()


@pytest.mark.parametrize(
    "item, message",
    [
        (["x", [-0.1, 0.2], "SPEAKER_MAIN"], "negative"),
        (["x", [0.5, 0.4], "SPEAKER_MAIN"], "ends at 0.4 s, before its start at 0.5 s"),
        (["x", [0.1, 0.2], "SPEAKER_MAIN"], "starts at 0.1 s, before 'there' at 0.5 s"),
        (["x", [0.7, 1.2], "SPEAKER_MAIN"], "while 'there' lasts until 0.9 s"),
        (["x", [2.5, 2.6], "SPEAKER_MAIN"], "after the end of the audio at 2 s"),
        (["x", [1], "SPEAKER_MAIN"], "should be"),
        (["x", [1, "2"], "SPEAKER_MAIN"], "should be"),
        (["x", [1, float("nan")], "SPEAKER_MAIN"], "should be"),
        ([1, [1, 2], "SPEAKER_MAIN"], "should be"),
        ("x", "should be"),
    ],
)
def test_wrong_words_are_named_by_line(one, item, message):
    path = one.parent / "a.json"
    rows = json.loads(path.read_text())["alignments"] + [item, ["ok", [1.5, 1.6], "SPEAKER_MAIN"]]
    path.write_text('{"alignments": [\n' + ",\n".join(json.dumps(r) for r in rows) + "]}")
    [problem] = problems_of(one)
    assert problem.startswith(f"{path}:5: alignments[3] ") and message in problem
    fatal = "while" not in message  # a frame stream can be made of overlapping words
    assert [p.fatal for p in check_alignment(path, 2.0)[1]] == [fatal]
    if fatal:
        with pytest.raises(DataError, match="a.json:5"):
            read_dialogues(one)[0].alignment()
    else:
        assert len(read_dialogues(one)[0].alignment().words) == 5


def test_different_speakers_may_overlap_and_a_frame_is_forgiven(tmp_path):
    words = [SpokenWord("a", 0, 1), SpokenWord("b", 0.5, 1.5, "SPEAKER_USER"), SpokenWord("c", 0.95, 2)]
    write_alignment(tmp_path / "a.json", words)
    assert check_alignment(tmp_path / "a.json", 2.0)[1] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"alignments": 3}', "{}"])
def test_a_malformed_alignment_is_named(one, text):
    (one.parent / "a.json").write_text(text)
    [problem] = problems_of(one)
    assert problem.startswith(f"{one.parent / 'a.json'}:1: ")


def test_an_empty_or_missing_list(tmp_path):
    assert "does not exist" in problems_of(tmp_path / "none.jsonl")[0]
    assert "no .jsonl" in problems_of(tmp_path)[0]
    (tmp_path / "a.jsonl").write_text("\n\n")
    assert problems_of(tmp_path) == [f"{tmp_path / 'a.jsonl'}: the list is empty"]
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\xff")
    assert "can't be read" in problems_of(tmp_path)[0]


def test_errors_are_listed_but_not_endlessly(one):
    one.write_text("{\n" * 30)
    with pytest.raises(DataError, match="and 25 more") as caught:
        read_dialogues(one)
    assert len(caught.value.problems) == 30
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker process
    assert again.problems == caught.value.problems and str(again) == str(caught.value)


def test_sources(tmp_path):
    for name in ("a.jsonl", "b", "c:2"):
        (tmp_path / name).mkdir()
    a, b, c = (str(tmp_path / name) for name in ("a.jsonl", "b", "c:2"))
    sources = parse_sources(f"{a}:2, {b},{c},{c}:0.5")
    assert [(str(s.path), s.weight) for s in sources] == [(a, 2), (b, 1), (c, 1), (c, 0.5)]
    for text, message in [
        ("", "empty"),
        (f"{a}:x", "weight"),
        (f"{a}:0", "weight"),
        (f"{a}:nan", "weight"),
        (f"{a}x:1", "does not exist"),
    ]:
        with pytest.raises(AizuchiError, match=message):
            parse_sources(text)


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 44100])
def test_a_segment_equals_that_part_of_the_whole(tmp_path, rate):
    rng = np.random.default_rng(1)
    path = tmp_path / "a.wav"
    write_dialogue(path, rng.normal(0, 0.1, 3 * rate), rng.normal(0, 0.1, 3 * rate), WORDS, rate=rate)
    write_list(tmp_path / "a.jsonl", [path])
    [dialogue] = read_dialogues(tmp_path / "a.jsonl")
    whole = read_audio(path, mono=False)
    segments = cut([dialogue], 0.7)
    assert [round(s.start, 6) for s in segments] == [0, 0.7, 1.4, 2.1, 2.8]
    joined = np.concatenate([s.waves() for s in segments], axis=1)
    assert joined.shape == (2, 5 * 16800)
    # The resampler sees 0.1 s around a part; what lies farther off weighs less than the 16th bit.
    error = np.abs(joined[:, : whole.shape[1]] - whole).max()
    assert error == 0 if rate == 24000 else error < 2**-16, error
    assert not joined[:, whole.shape[1] :].any()


def test_the_words_of_a_segment_have_its_times(one):
    [dialogue] = read_dialogues(one)
    [word] = Segment(dialogue, 0.4, 0.5).words()
    assert (word.text, round(word.start, 6), round(word.end, 6)) == ("there", 0.1, 0.5)
    assert sum(len(s.words()) for s in cut([dialogue], 0.25)) == len(WORDS)


def test_a_segment_needs_a_length(one):
    with pytest.raises(AizuchiError, match="above 0"):
        cut(read_dialogues(one), 0)


def test_the_helper_makes_good_dialogues(tmp_path):
    assert problems_of(make_dialogues(tmp_path, 3), decode=True) == []
