"""Scenarios and their scoring: latencies planted in a recording are measured within one frame (80 ms)."""

import json
import shutil

import numpy as np
import pytest

from aizuchi.audio import read_audio, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.results import Cache, Section
from aizuchi.evaluate.scenario_set import TRUTH, build, read_truth
from aizuchi.evaluate.scenarios import KINDS, make_scenario, opportunity_histogram
from aizuchi.evaluate.turn_samples import find_samples
from aizuchi.evaluate.turn_taking import Tools, evaluate, record, score_events
from aizuchi.evaluate.vad import EnergyDetector, SileroDetector
from tests.evaluate.fakes import (
    RATE,
    BurstRecognizer,
    BurstSynthesizer,
    ScriptedSystem,
    bursts,
    word_times,
)

FRAME = 0.08
TEXTS = {
    "smooth_turn_taking": ["what is two plus two", "who are you"],
    "pause_handling": ["what is two | plus two"],
    "backchannel": [["one two three four", "five six seven", "eight nine"]],
    "user_interruption": [{"context": "count to ten please", "interrupt": "stop that now"}],
    "silence_and_noise": [None],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    assert build(root, BurstSynthesizer(), texts=TEXTS, seed=3, progress=False, count=2) == 7
    return root


@pytest.fixture
def tools():
    return Tools(BurstRecognizer(), EnergyDetector(), EnergyDetector())


def truth(folder, kind, name="0"):
    return read_truth(folder / kind / name)


@pytest.mark.parametrize("kind", KINDS)
def test_events_are_where_the_sound_is(folder, kind):
    known = truth(folder, kind)
    wave = read_audio(folder / kind / "0" / "input.wav")[0]
    assert len(wave) / RATE == pytest.approx(known.duration, abs=1e-5)
    for start, end, _ in known.speech:  # to the sample
        inside = 120 if kind == "pause_handling" else 0  # cut words fade over 5 ms
        assert np.abs(wave[round(start * RATE) + inside]) > 0.01
        assert np.abs(wave[round(end * RATE) - 1 - inside]) > 0.01
        before, after = round(start * RATE) - 1, round(end * RATE)
        assert before < 0 or wave[before] == 0
        assert after >= len(wave) or wave[after] == 0
    for start, end in known.events.get("pause", []):
        assert not wave[round(start * RATE) : round(end * RATE)].any()
        assert 0.39 < end - start < 1.01
    assert [w.text for w in known.words] == [w for _, _, text in known.speech for w in text.split()]
    assert all(a.end <= b.start + 1e-3 for a, b in zip(known.words, known.words[1:]))


def test_the_same_seed_gives_the_same_samples():
    one, again, other = (
        make_scenario("user_interruption", TEXTS["user_interruption"][0], "0", seed, BurstSynthesizer())
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one.wave, again.wave) and one.events == again.events
    assert one.events != other.events


def test_the_layout_is_the_benchmarks(folder):
    end = truth(folder, "smooth_turn_taking").events["turn_end"][0][0]
    read = lambda *parts: json.loads(folder.joinpath(*parts).read_text())  # noqa: E731
    assert read("smooth_turn_taking", "0", "turn_taking.json")[0]["timestamp"][0] == end
    interruption = read("user_interruption", "0", "interrupt.json")[0]
    assert interruption["context"] == "count to ten please" and interruption["interrupt"] == "stop that now"
    assert tuple(interruption["timestamp"]) == truth(folder, "user_interruption").events["interruption"][0]
    assert len(read("pause_handling", "0", "pause.json")) == 1
    histogram = read("backchannel", TRUTH)["0"]
    assert sum(histogram) == pytest.approx(1, abs=1e-3)
    assert {s.kind for s in find_samples(folder)} == set(KINDS)


def test_opportunities_fill_the_windows_after_sentences():
    scenario = make_scenario("backchannel", TEXTS["backchannel"][0], "0", 0, BurstSynthesizer())
    histogram = opportunity_histogram(scenario)
    (a, b), _ = scenario.events["opportunity"]
    assert histogram[int((a + b) / 2 / 0.2)] > 0
    assert histogram[int((a - 0.3) / 0.2)] == 0


@pytest.mark.parametrize("latency", [0.0, 0.24, 0.56, 1.3])
def test_a_planted_answer_is_measured_within_a_frame(folder, tools, tmp_path, latency):
    end = truth(folder, "smooth_turn_taking").events["turn_end"][0][0]
    system = ScriptedSystem(lambda user: word_times(6, end + latency), f"latency {latency}")
    samples = [s for s in find_samples(folder / "smooth_turn_taking", tmp_path) if s.folder.name == "0"]
    section = Section("turns")
    record(samples, system, section, progress=False)
    item = evaluate(samples, tools, section, progress=False).items[0]
    assert item["rules"]["take_over"]
    assert abs(item["rules"]["latency"] - latency) < FRAME
    assert item["events"]["answered"] and not item["events"]["early"]
    assert abs(item["events"]["offset"] - latency) < FRAME
    assert sum(item["stop"]) <= 0.02  # steps of 10 ms at a latency of nothing
    assert len(item["response"]) == (1 if latency else 0) or abs(item["response"][0] - latency) < FRAME


def test_a_planted_interruption_is_measured_within_a_frame(folder, tools, tmp_path):
    known = truth(folder, "user_interruption")
    question = known.events["turn_end"][0][0]
    start, end = known.events["interruption"][0]
    stop, answer = 0.48, 0.4

    def script(user):
        talk = [(a, min(b, start + stop)) for a, b in word_times(40, question + 0.3) if a < start + stop]
        return talk + word_times(5, end + answer)

    samples = find_samples(folder / "user_interruption", tmp_path)
    section = Section("turns")
    record(samples, ScriptedSystem(script), section, progress=False)
    section = evaluate(samples, tools, section, progress=False)
    found = section.items[0]
    assert found["events"]["speaking"]
    assert abs(found["events"]["stop"] - stop) < FRAME
    assert abs(found["events"]["offset"] - answer) < FRAME
    assert abs(found["rules"]["latency"] - answer) < FRAME  # what was said before the interruption is cut off
    assert len(found["stop"]) == 1 and abs(found["stop"][0] - stop) < FRAME
    row = section.tables["Exact events"]["user_interruption"]
    assert row["stops within 0.6 s"].value == 100.0 and row["stops within 0.6 s"].n == 1


def test_events_by_hand(folder):
    pause = truth(folder, "pause_handling")
    (start, end) = pause.events["pause"][0]
    assert score_events(pause, []) == {"silent": True, "quiet": True}
    assert score_events(pause, [(start + 0.1, start + 0.25)])["silent"]  # 0.15 s: under two frames
    assert not score_events(pause, [(start + 0.1, start + 0.27)])["silent"]
    late = score_events(pause, [(end, end + 0.5)])
    assert late == {"silent": True, "quiet": False}

    turn = truth(folder, "smooth_turn_taking")
    at = turn.events["turn_end"][0][0]
    assert score_events(turn, []) == {"answered": False, "offset": None, "early": False}
    assert score_events(turn, [(at - 0.1, at + 2)]) == {"answered": True, "offset": -0.1, "early": False}
    assert score_events(turn, [(at - 1, at + 2)]) == {"answered": False, "offset": None, "early": True}
    early_then_right = score_events(turn, [(at - 1, at - 0.5), (at + 0.3, at + 2)])
    assert early_then_right == {"answered": True, "offset": 0.3, "early": True}

    noise = truth(folder, "silence_and_noise")
    assert score_events(noise, [(1, 1.1), (4, 5), (5.3, 6), (9, 9.5)]) == {"starts": 2}

    back = truth(folder, "backchannel")
    place = back.events["opportunity"][0][0]
    scored = score_events(back, [(0.6, 0.8), (place + 0.3, place + 0.6)])
    assert scored == {"spoken": 0.5, "hits": 1, "starts": 2}

    stop = truth(folder, "user_interruption")
    start, end = stop.events["interruption"][0]
    ignores = score_events(stop, [(start - 1, end + 3)])
    assert (
        ignores["speaking"] and ignores["stop"] == pytest.approx(end - start + 3) and not ignores["answered"]
    )
    silent = score_events(stop, [(end + 0.5, end + 2)])
    assert not silent["speaking"] and silent["stop"] is None and silent["offset"] == 0.5


def test_a_perfect_and_a_rude_system(folder, tools, tmp_path):
    ends = {}
    for kind in KINDS:
        for sample in find_samples(folder / kind):
            ends[len(read_audio(sample.folder / "input.wav")[0])] = read_truth(sample.folder)

    def polite(user):
        known = ends[len(user)]
        if known.kind == "smooth_turn_taking":
            return word_times(6, known.events["turn_end"][0][0] + 0.3)
        if known.kind == "user_interruption":
            return word_times(6, known.events["interruption"][0][1] + 0.3)
        return []

    def rude(user):
        return word_times(int(len(user) / RATE / 0.3), 0.1)

    tables = {}
    for name, script in (("polite", polite), ("rude", rude)):
        section = Section("turns")
        samples = find_samples(folder, tmp_path / name)
        record(samples, ScriptedSystem(script, name), section, progress=False)
        tables[name] = evaluate(samples, tools, section, progress=False).tables
        assert not section.broken
    rules = {name: t["Full-Duplex-Bench v1.0 rules"] for name, t in tables.items()}
    for kind, wanted in (("smooth_turn_taking", 100), ("user_interruption", 100), ("pause_handling", 0)):
        assert rules["polite"][kind]["take-over rate"].value == wanted
        assert rules["rude"][kind]["take-over rate"].value == 100
    assert rules["polite"]["backchannel"]["JSD"].value == 1.0
    assert rules["rude"]["smooth_turn_taking"]["latency"].value == 0.0
    events = {name: t["Exact events"] for name, t in tables.items()}
    assert events["polite"]["pause_handling"]["silent in pauses"].value == 100
    assert events["rude"]["pause_handling"]["silent in pauses"].value == 0
    assert events["rude"]["smooth_turn_taking"]["talks over the user"].value == 100
    assert events["polite"]["silence_and_noise"]["false starts"].value == 0
    assert events["rude"]["silence_and_noise"]["false starts"].value == pytest.approx(3.0)  # one in 20 s


def test_recordings_and_scores_are_made_once(folder, tools, tmp_path):
    samples = find_samples(folder / "smooth_turn_taking", tmp_path / "out")
    system = ScriptedSystem(lambda user: word_times(6, 3.0))
    cache = Cache(tmp_path / "cache")
    section = Section("turns")
    record(samples, system, section, progress=False)
    first = evaluate(samples, tools, section, cache, progress=False)
    assert system.asked == 2

    class Deaf:
        name = "bursts"

        def __call__(self, wave, rate):
            raise AssertionError("asked again")

    again = Section("turns")
    record(samples, system, again, progress=False)
    assert system.asked == 2
    deaf = Tools(Deaf(), tools.detector, tools.exact_detector)
    assert evaluate(samples, deaf, again, cache, progress=False).items == first.items
    # another recording is scored anew
    write_audio(samples[0].output / "output.wav", bursts([(1.0, 1.2)], 5.0))
    with pytest.raises(AssertionError, match="asked again"):
        evaluate(samples, deaf, Section("turns"), cache, progress=False)
    # and another system is asked anew
    record(samples, ScriptedSystem(lambda user: [], "other"), again, progress=False)
    assert not read_audio(samples[0].output / "output.wav").any()


def test_broken_files_are_reported_skipped_and_counted(folder, tools, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder / "smooth_turn_taking", root / "smooth_turn_taking")
    shutil.copytree(folder / "pause_handling", root / "pause_handling")
    samples = find_samples(root)
    for sample in samples:
        write_audio(sample.output / "output.wav", np.zeros(RATE))
    (root / "smooth_turn_taking" / "0" / "turn_taking.json").write_text("{")
    (root / "smooth_turn_taking" / "1" / "output.wav").write_bytes(b"RIFF nonsense")
    section = evaluate(samples, tools, progress=False)
    assert [row["path"] for row in section.broken] == ["smooth_turn_taking/0", "smooth_turn_taking/1"]
    assert "turn_taking.json" in section.broken[0]["reason"]
    assert [item["id"] for item in section.items] == ["pause_handling/0"]


def test_the_benchmarks_own_folder_is_scored_with_its_transcripts(tmp_path):
    sample = tmp_path / "candor_turn_taking" / "7"
    sample.mkdir(parents=True)
    write_audio(sample / "input.wav", bursts([(0.5, 2.0)], 6.0), RATE)
    write_audio(sample / "output.wav", bursts([(2.5, 4.0)], 6.0), RATE)
    (sample / "turn_taking.json").write_text('[{"text": "[TURN-TAKING]", "timestamp": [2.0, 0.0]}]')
    chunks = [{"text": " hi", "timestamp": [2.35, 2.6]}, {"text": "there", "timestamp": [3.0, None]}]
    (sample / "output.json").write_text(json.dumps({"text": "hi there", "chunks": chunks}))
    section = evaluate(
        find_samples(tmp_path), Tools(None, EnergyDetector(), EnergyDetector()), progress=False
    )
    item = section.items[0]
    assert item["rules"] == {"take_over": False, "latency": None, "offset": None}  # 0.65 s, two words
    assert item["events"] is None
    chunks[1]["timestamp"][1] = 3.9
    (sample / "output.json").write_text(json.dumps({"text": "hi there", "chunks": chunks}))
    item = evaluate(
        find_samples(tmp_path), Tools(None, EnergyDetector(), EnergyDetector()), progress=False
    ).items[0]
    assert item["rules"]["latency"] == pytest.approx(0.35)


def test_several_voices_speak_one_scenario_after_the_other(tmp_path):
    spoken = []

    class Named(BurstSynthesizer):
        def __init__(self, name):
            self.name = name

        def __call__(self, text, seed=0):
            spoken.append((self.name, text))
            return super().__call__(text, seed)

    texts = {"smooth_turn_taking": ["one one", "two two", "three three"], "backchannel": [["a b", "c d"]]}
    build(
        tmp_path,
        [Named("ada"), Named("bob")],
        ["smooth_turn_taking", "backchannel"],
        texts=texts,
        progress=False,
    )
    assert spoken[:3] == [("ada", "one one"), ("bob", "two two"), ("ada", "three three")]
    assert spoken[3:] == [("ada", "a b"), ("ada", "c d")], "who begins a story tells all of it"
    assert json.loads((tmp_path / "scenarios.json").read_text())["synthesizer"] == "ada, bob"


def test_bad_sets_are_refused(tmp_path):
    with pytest.raises(AizuchiError, match="no folder"):
        find_samples(tmp_path / "nowhere")
    with pytest.raises(AizuchiError, match=r"input\.wav"):
        find_samples(tmp_path)
    with pytest.raises(AizuchiError, match="unknown kinds"):
        build(tmp_path, BurstSynthesizer(), kinds=["dance"], progress=False)
    with pytest.raises(AizuchiError, match="no voice"):
        build(tmp_path, [], progress=False)
    for kind, text in (("pause_handling", "no bar"), ("user_interruption", "text"), ("backchannel", "text")):
        with pytest.raises(AizuchiError, match=kind):
            make_scenario(kind, text, "0", 0, BurstSynthesizer())
    (tmp_path / "scenario.json").write_text('{"format": 99}')
    with pytest.raises(AizuchiError, match="format 99"):
        read_truth(tmp_path)


def test_real_speech_is_measured_within_a_frame():
    """silero-vad with refined edges on synthesised speech at known places, with a little noise."""
    pytest.importorskip("silero_vad")
    pytest.importorskip("hibari")
    from aizuchi.evaluate.synthesize import open_synthesizer

    speak = open_synthesizer("hibari")
    speech = speak("What is two plus three, please?", seed=1)
    assert [w.text for w in speech.words] == "What is two plus three, please?".split()
    rng = np.random.default_rng(0)
    wave = rng.normal(size=9 * RATE).astype(np.float32) * 1e-3
    planted = []
    for start in (1.0, 4.25):
        at = round(start * RATE)
        wave[at : at + len(speech.wave)] += speech.wave
        planted.append((start, start + len(speech.wave) / RATE))
    found = SileroDetector()(wave, RATE)
    assert len(found) == 2
    for (start, end), (a, b) in zip(planted, found):
        assert abs(start - a) < FRAME and abs(end - b) < FRAME
    raw = SileroDetector(refine=False)(wave, RATE)
    assert all(b - end > 0.02 for (_, b), (_, end) in zip(raw, planted))  # why edges are refined
