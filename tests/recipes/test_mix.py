"""Mixing with a voice that beeps: one tone a word, so that every time can be checked in the audio."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aizuchi.data.dialogues import check_dialogue, read_dialogues, write_list
from aizuchi.data.frames import MAIN_SPEAKER, USER_SPEAKER
from aizuchi.errors import AizuchiError
from recipes.mini import clips, mix, sources, synthesize
from recipes.mini.clips import ClipLibrary, Shard, make_shard, plan, read_shard, shard_utterances
from recipes.mini.dialogues import FreshSource, fresh_script, write_script
from recipes.mini.script import Event, Script
from recipes.mini.timing import RATE, Spoken
from recipes.mini.voices import ASSISTANT, HELD_OUT, HeldOutVoiceError, is_held_out

WORD, GAP, EDGE = 0.2, 0.06, 0.05


class Beeper:
    """0.05 s of silence, then for each word a 0.2 s tone, 0.06 s between them."""

    def speak(self, text, speed=1.0):
        tone = (0.4 * np.sin(np.arange(round(WORD * RATE)) * 0.3)).astype(np.float32)
        words = text.split()
        audio = [np.zeros(round(EDGE * RATE), np.float32)]
        spans, at = [], EDGE
        for word in words:
            audio += [tone, np.zeros(round(GAP * RATE), np.float32)]
            spans.append((word, round(at, 4), round(at + WORD, 4)))
            at += WORD + GAP
        return Spoken(np.concatenate(audio), tuple(spans), tuple(spans))


@pytest.fixture(autouse=True)
def beeping(monkeypatch):
    mix.speak_assistant.cache_clear()
    monkeypatch.setattr(mix, "get_voice", lambda name: Beeper())
    monkeypatch.setattr(mix, "get_assistant", Beeper)
    monkeypatch.setattr(clips, "get_voice", lambda name: Beeper())
    yield
    mix.speak_assistant.cache_clear()


def loud(channel: np.ndarray, start: float, end: float) -> float:
    """Share of the 5 ms windows between two times that sound."""
    part = channel[max(0, round(start * RATE)) : round(end * RATE)]
    n = RATE // 200
    part = part[: len(part) // n * n].reshape(-1, n)
    return float((np.abs(part).max(1) > 1e-3).mean()) if len(part) else 0.0


def two_turns(**more) -> Script:
    return Script(
        "s",
        "kokoro:af_sky",
        1.0,
        1.0,
        [
            Event(0, "user", "What is two plus two?", "plus", gap=0.5, **more),
            Event(1, "model", "Two plus two is four.", "answer", after=0, gap=0.3),
        ],
    )


def test_words_lie_where_the_sound_is():
    mixed = mix.render(two_turns())
    assert mixed.audio.shape == (2, round(mixed.duration * RATE))
    model, user = mixed.audio
    for word in mixed.words:
        channel, other = (model, user) if word.speaker == MAIN_SPEAKER else (user, model)
        assert loud(channel, word.start + 0.005, word.end - 0.005) == 1
        assert loud(channel, word.end + 0.006, word.end + GAP - 0.006) == 0
        assert loud(other, word.start, word.end) == 0
    assert [w.speaker for w in mixed.words] == [USER_SPEAKER] * 5 + [MAIN_SPEAKER] * 5
    assert mixed.times[0][0] == pytest.approx(0.5)
    assert mixed.times[1][0] - mixed.times[0][1] == pytest.approx(0.3, abs=0.0401)  # on a frame
    assert [p[0] for p in mixed.phones] == "Two plus two is four.".split()


def test_a_pause_grows_the_gap_before_its_word():
    plain, paused = mix.render(two_turns()), mix.render(two_turns(pauses=[(2, 0.7)]))
    before, after = paused.words[1], paused.words[2]
    assert after.start - before.end == pytest.approx(0.7, abs=0.002)
    assert loud(paused.audio[1], before.end + 0.02, after.start - 0.02) == 0
    assert loud(paused.audio[0], 0, paused.times[1][0] - 0.001) == 0  # the model waits
    assert paused.duration - plain.duration == pytest.approx(0.64, abs=0.002)


def test_resampling_moves_the_times_with_the_audio():
    script = two_turns()
    script.factor = 1.25
    mixed = mix.render(script)
    user = [w for w in mixed.words if w.speaker == USER_SPEAKER]
    assert user[0].end - user[0].start == pytest.approx(WORD / 1.25, abs=0.001)
    assert all(loud(mixed.audio[1], w.start + 0.01, w.end - 0.01) == 1 for w in user)


def test_an_interrupted_answer_stops_after_its_lag():
    script = two_turns()
    script.events[1].text = "one two three four five six seven eight"
    script.events += [
        Event(2, "user", "Stop it.", "stop", after=1, fraction=0.4),
        Event(3, "model", "Okay.", "answer", after=2, gap=0.25),
    ]
    script.events[1].cut_by, script.events[1].cut_lag = 2, 0.3
    mixed = mix.render(script)
    (start, stop), (broke, _), (again, _) = mixed.times[1:]
    assert stop - broke == pytest.approx(0.3)
    assert loud(mixed.audio[0], stop + 0.001, again - 0.001) == 0
    assert loud(mixed.audio[0], broke, stop) > 0.3
    model = [w for w in mixed.words if w.speaker == MAIN_SPEAKER]
    assert model[-1].text == "Okay." and 3 <= len(model) < 8
    assert all(w.end <= stop + 1e-6 for w in model[:-1])
    assert again - mixed.times[2][1] == pytest.approx(0.25, abs=0.0401)  # on a frame


def test_overlap_before_the_start_moves_everything():
    script = two_turns()
    script.events[0].gap = 0.0
    mixed = mix.render(script)  # the clip begins EDGE before its first word
    first = mixed.times[0][0]
    assert first == pytest.approx(0.08)  # all move by whole frames
    assert loud(mixed.audio[1], first + 0.005, first + WORD - 0.005) == 1


def test_fresh_dialogues_render_and_pass_the_checker(tmp_path):
    paths = []
    for i in range(6):
        mixed = mix.render(fresh_script(f"m/{i}", voice="kokoro:af_sky"))
        path = tmp_path / f"{i}.flac"
        mixed.write(path)
        paths.append(path)
        extra = json.loads(path.with_suffix(".events.json").read_text())
        assert Script.from_json(json.dumps({"format": 1, **extra["script"]})) == mixed.script
        assert len(extra["events"]) == len(mixed.script.events) and extra["phones"]
    write_list(tmp_path / "list.jsonl", paths)
    dialogues = read_dialogues(tmp_path / "list.jsonl")
    assert len(dialogues) == 6
    assert not [p for d in dialogues for p in check_dialogue(d)]
    assert soundfile.info(paths[0]).samplerate == 24000


def test_silences_are_short_unless_the_model_asks():
    """A silence of speech beyond 6.3 s ends in the model's question or in the end of the dialogue."""
    asked = 0
    for i in range(60):
        mixed = mix.render(fresh_script(f"q/{i}", voice="kokoro:af_sky"))
        spoken = [
            (start, end, e.kind)
            for e, (start, end) in zip(mixed.script.events, mixed.times)
            if e.side != "room"
        ]
        quiet_since = 0.0
        for start, end, kind in sorted(spoken):
            assert (start - quiet_since > 6.3) == (kind == "still_there"), (i, start, quiet_since, kind)
            asked += kind == "still_there"
            quiet_since = max(quiet_since, end)
    assert asked > 3


@pytest.mark.parametrize("voice", sorted(HELD_OUT))
def test_held_out_voices_cannot_be_mixed_or_cached(voice, tmp_path):
    script = two_turns()
    script.voice = voice
    with pytest.raises(HeldOutVoiceError):
        mix.render(script)
    with pytest.raises(HeldOutVoiceError):
        make_shard(Shard(voice, 0), tmp_path, 0)
    assert not list(tmp_path.rglob("*"))


def test_the_assistant_cannot_be_its_own_user():
    script = two_turns()
    script.voice = ASSISTANT
    with pytest.raises(AizuchiError, match="assistant"):
        mix.render(script)


def test_the_plan_holds_no_held_out_voice_and_no_shard_twice():
    shards = [shard for shard, _ in zip(plan(1), range(600))]
    assert len(set(shards)) == len(shards)
    assert not any(is_held_out(s.voice) for s in shards)
    assert sum("+" in s.voice for s in shards) > 100
    assert [s for s, _ in zip(plan(1), range(600))] == shards


def test_a_shard_says_every_frequent_kind_once_a_text():
    rows = shard_utterances(Shard("kokoro:af_sky", 2), 1)
    assert rows == shard_utterances(Shard("kokoro:af_sky", 2), 1)
    assert rows != shard_utterances(Shard("kokoro:af_sky", 3), 1)
    assert 38 <= len(rows) <= 42
    assert {"plus", "minus", "times", "other", "story", "backchannel"} <= {u.kind for u, _ in rows}
    questions = [u.text for u, _ in rows if u.kind not in ("backchannel", "story")]
    assert len(set(questions)) == len(questions)


@pytest.fixture
def library(tmp_path) -> ClipLibrary:
    for number in range(6):
        make_shard(Shard("kokoro:af_sky", number), tmp_path, 3)
    make_shard(Shard("flite:rms", 0), tmp_path, 3)
    return ClipLibrary(tmp_path)


def test_a_shard_is_written_once_and_read_back(tmp_path):
    shard = Shard("kokoro:af_sky", 0)
    made = make_shard(shard, tmp_path, 3)
    assert made["made"] and made["clips"] == len(shard_utterances(shard, 3))
    stamp = shard.path(tmp_path).stat().st_mtime_ns
    assert not make_shard(shard, tmp_path, 3)["made"]
    assert shard.path(tmp_path).stat().st_mtime_ns == stamp
    read = read_shard(shard.path(tmp_path))
    assert [c.utterance for c in read] == [u for u, _ in shard_utterances(shard, 3)]
    for clip in read:
        spoken, fresh = clip.read(), Beeper().speak(clip.utterance.text)
        assert spoken.words == fresh.words
        assert np.allclose(spoken.audio, fresh.audio, atol=1e-4)


def test_damaged_and_unknown_shards_are_refused(tmp_path):
    shard = Shard("kokoro:af_sky", 0)
    make_shard(shard, tmp_path, 3)
    path = shard.path(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"format":1', '"format":7'))
    with pytest.raises(AizuchiError, match="format"):
        read_shard(path)
    path.write_text(text.replace("kokoro:af_sky", "kokoro:af_nova"))
    with pytest.raises(HeldOutVoiceError):
        read_shard(path)
    path.write_text(text)
    path.with_suffix(".flac").unlink()
    with pytest.raises(AizuchiError, match="missing"):
        read_shard(path)
    with pytest.raises(AizuchiError, match="no clips"):
        ClipLibrary(tmp_path / "none")


def test_dialogues_from_clips(library):
    source = sources.ClipSource(random.Random(0), library, "kokoro:af_sky", 0.95)
    script = write_script("c/2", source, seconds=(20, 21))
    spoken = [e for e in script.events if e.side == "user"]
    assert spoken and all(e.clip.startswith("kokoro/af_sky/") for e in spoken)
    assert len({e.clip for e in spoken}) == len(spoken)
    assert all(library.by_name(e.clip).utterance.text == e.text for e in spoken)
    mixed = mix.render(script, library)
    assert sum(w.speaker == USER_SPEAKER for w in mixed.words) == sum(len(e.text.split()) for e in spoken)
    with pytest.raises(AizuchiError, match="not in the library"):
        library.by_name("kokoro/af_sky/00099#0")


def test_the_list_of_dialogues_is_seeded_and_shared_by_workers(library):
    one = mix.mixed_dialogues(4, library)
    first = [next(one).script.to_json() for _ in range(4)]
    even, odd = mix.mixed_dialogues(4, library, step=2), mix.mixed_dialogues(4, library, start=1, step=2)
    assert first == [next(s).script.to_json() for s in (even, odd, even, odd)]
    again = mix.mixed_dialogue(2, 4, library, [])
    assert np.array_equal(again.audio, mix.mixed_dialogue(2, 4, library, []).audio)


def test_recordings_are_answered_by_a_fallback_line(tmp_path, library):
    files = []
    for i in range(12):
        path = tmp_path / f"r{i}.flac"
        wave = np.concatenate([np.zeros(4000), 0.3 * np.sin(np.arange(16000) * 0.2), np.zeros(4000)])
        soundfile.write(path, wave, 16000)
        files.append(path)
    kept, train = sources.recordings(tmp_path, held_out=True), sources.recordings(tmp_path)
    assert sorted(kept + train) == sorted(files) and kept
    with pytest.raises(AizuchiError, match="held out"):
        sources.read_recording(str(kept[0]))
    source = sources.RecordedSource(random.Random(0), train)
    mixed = mix.render(write_script("r/1", source, seconds=(5, 6)))
    assert {w.speaker for w in mixed.words} == {MAIN_SPEAKER}
    assert {e.kind for e in mixed.script.events} <= {"other", "answer", "still_there", "sound"}
    start, end = mixed.times[next(e.id for e in mixed.script.events if e.side == "user")]
    assert end - start == pytest.approx(1.0, abs=0.03)


def test_sources_are_drawn_by_their_shares(library):
    rng = random.Random(0)
    drawn = [sources.draw_source(rng, library, [Path("a.flac")]).voice for _ in range(400)]
    share = {v: drawn.count(v) / 400 for v in set(drawn)}
    assert share["kokoro:af_sky"] == pytest.approx(0.55, abs=0.08)
    assert share["recorded"] == pytest.approx(0.10, abs=0.05)
    alone = sources.draw_source(rng, None, [])
    assert isinstance(alone, FreshSource) and alone.voice == ASSISTANT


def test_clips_command_resumes(tmp_path, capsys):
    command = ["clips", "--out", str(tmp_path), "--engines", "flite", "--size", "4", "--hours", "0.006"]
    assert synthesize.main(command) == 0
    first = sorted(p.name for p in tmp_path.rglob("*.json"))
    assert first
    assert synthesize.main(command) == 0
    assert len(list(tmp_path.rglob("*.json"))) > len(first)
    assert "GB" in capsys.readouterr().out


def test_mix_command_writes_a_list(tmp_path):
    out = tmp_path / "mixed"
    command = ["mix", "--out", str(out), "--clips", str(tmp_path / "none"), "--count", "2", "--commands", ""]
    assert synthesize.main(command) == 0
    assert len(read_dialogues(out)) == 2
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*.flac")}
    assert synthesize.main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.flac")} == stamps
