import json

import numpy as np
import pytest

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.question_texts import built_in_questions
from aizuchi.evaluate.questions import Question, judge, read_questions
from aizuchi.evaluate.recognize import Heard
from aizuchi.evaluate.results import Cache, Section
from aizuchi.evaluate.spoken_questions import (
    ANSWER_SECONDS,
    CONTEXT_SECONDS,
    INTERRUPT_SECONDS,
    answer_tables,
    ask_questions,
    one_voice,
    speak_question,
)
from tests.evaluate.fakes import BurstSynthesizer, ScriptedSystem, word_times

DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
VALUE = {"type": "value", "value": 12, "operands": [7, 5]}
COUNT = {"type": "sequence", "numbers": [2, 3, 4]}
LAST = {"type": "last", "words": DAYS, "accept": ["tuesday"]}
ANY = {"type": "any", "accept": ["hello", "good morning"]}
REPEAT = {"type": "repeat", "text": "the sun is very bright today"}


@pytest.mark.parametrize(
    ("rule", "heard", "right"),
    [
        (VALUE, "Twelve.", True),
        (VALUE, "7 + 5 is 12.", True),
        (VALUE, "12 is seven plus five", True),  # the only one that is not asked about
        (VALUE, "Seven plus five is thirteen.", False),
        (VALUE, "13, no, 12", True),
        (VALUE, "12, no, 13", False),
        (VALUE, "", False),
        (VALUE, "I do not know, maybe twelve.", False),  # a fallback line is wrong whatever it holds
        (COUNT, "2, 3, 4", True),
        (COUNT, "From two to four: two, three, four.", True),
        (COUNT, "One, two, three, four.", False),
        (COUNT, "two four three", False),
        (LAST, "After Monday comes Tuesday.", True),
        (LAST, "Tuesday comes after Monday.", False),
        (ANY, "Oh, good morning to you", True),
        (ANY, "Good evening this morning", False),
        (ANY, "Othello", False),
        ({"type": "all", "accept": ["red", "blue"]}, "blue and red", True),
        ({"type": "all", "accept": ["red", "blue"]}, "blue", False),
        ({"type": "spell", "word": "cow"}, "C, O, W.", True),
        ({"type": "spell", "word": "cow"}, "COW", True),
        ({"type": "spell", "word": "cow"}, "see oh double you", True),
        ({"type": "spell", "word": "cow"}, "c a w", False),
        ({"type": "spell", "word": "cow"}, "the cow", False),
        (REPEAT, "Sure. The sun is very bright today!", True),
        (REPEAT, "the son is very bright today", True),  # one error in six words
        (REPEAT, "the moon was very dark today", False),
        ({"type": "fallback"}, "Sorry, I can't help with that.", True),
        ({"type": "fallback"}, "Twelve.", False),
        ({"type": "fallback", "accept": ["ask me later"]}, "Ask me later, please", True),
    ],
)
def test_rules_by_hand(rule, heard, right):
    verdict = judge(Question("q", "kind", "text", rule), heard)
    assert verdict.right is right, verdict.reason


def test_the_rules_agree_with_the_recipes_judge():
    """The recipe judges its own set; both have to give the same verdicts on its rules."""
    scoring = pytest.importorskip("recipes.mini.questions.scoring")
    from recipes.mini.questions import HELDOUT

    if not HELDOUT.is_file():
        pytest.skip("no question set")
    questions = [q for q in read_questions(HELDOUT) if q.rule["type"] != "joke"][::3]
    assert len(questions) > 50
    for question in questions:
        rule = question.rule
        answers = [
            "Sorry, I can't help with that.",
            "The answer is " + str(rule.get("value", 3)),
            ", ".join(map(str, rule.get("numbers", [1]))),
            " ".join(rule.get("accept", ["nothing"])[:1]),
            "-".join(rule.get("word", "ox").upper()),
            rule.get("text", "hello there"),
        ]
        for answer in answers:
            mine, theirs = judge(question, answer), scoring.judge(question, answer)
            assert mine.right == theirs.right, (question.id, answer, mine, theirs)


def test_the_built_in_questions_can_be_answered():
    answers = {
        "plus-1": "Six plus three is nine.",
        "minus-1": "7",
        "day-1": "After Thursday comes Friday.",
        "count-2": "6, 7, 8, 9.",
        "spell-2": "S-U-N",
        "repeat-1": "The water is cold.",
    }
    questions = {question.id: question for question in built_in_questions()}
    assert len(questions) == 36
    for name, answer in answers.items():
        assert judge(questions[name], answer).right
    for question in questions.values():
        assert not judge(question, "I do not know").right
        assert not judge(question, question.text).right or question.kind in ("repeat", "greeting")


def test_question_files_are_checked(tmp_path):
    path = tmp_path / "q.jsonl"
    row = {"id": "a", "kind": "k", "text": "t", "rule": ANY, "context": ["before"], "note": 1}
    path.write_text(json.dumps(row) + "\n\n")
    (question,) = read_questions(path)
    assert question.context == ("before",) and question.extra == {"note": 1} and not question.apart
    for bad, said in [
        ("{", "line 1"),
        (json.dumps({"id": "a"}), "line 1"),
        (json.dumps({**row, "rule": "any"}), "rule"),
        (json.dumps(row) + "\n" + json.dumps(row), "twice"),
        ("", "no question"),
    ]:
        path.write_text(bad)
        with pytest.raises(AizuchiError, match=said):
            read_questions(path)
    with pytest.raises(AizuchiError, match="unknown rule"):
        judge(Question("q", "k", "t", {"type": "vibe"}), "yes")
    with pytest.raises(AizuchiError, match="malformed"):
        judge(Question("q", "k", "t", {"type": "any"}), "yes")


def test_a_question_leaves_time_for_its_answer_and_for_what_comes_before():
    plain = Question("q", "k", "one two three", ANY)
    asked = speak_question(plain, one_voice(BurstSynthesizer()))
    assert len(asked.wave) / SAMPLE_RATE == pytest.approx(asked.end + ANSWER_SECONDS, abs=1e-3)
    end = round(asked.end * SAMPLE_RATE)
    assert asked.wave[end - 100 : end].any() and not asked.wave[end:].any()
    for interrupts, pause in ((False, CONTEXT_SECONDS), (True, INTERRUPT_SECONDS)):
        after = Question("q", "k", "one two three", ANY, context=("one two three",), interrupts=interrupts)
        longer = speak_question(after, one_voice(BurstSynthesizer()))
        assert longer.end - asked.end == pytest.approx(pause + word_times(3)[-1][1], abs=1e-3)


def test_who_counts_far_has_the_time_to():
    asked = {}
    for numbers in ([1, 2, 3], list(range(1, 11))):
        question = Question("q", "k", "one two three", {"type": "sequence", "numbers": numbers})
        asked[len(numbers)] = speak_question(question, one_voice(BurstSynthesizer()))
    behind = {n: len(one.wave) / SAMPLE_RATE - one.end for n, one in asked.items()}
    assert behind[3] == pytest.approx(ANSWER_SECONDS, abs=1e-3)
    assert behind[10] == pytest.approx(13, abs=1e-3)


def test_noise_has_the_level_asked_for():
    question = Question("q", "k", "one two three", ANY)
    clean = speak_question(question, one_voice(BurstSynthesizer()))
    noisy = speak_question(question, one_voice(BurstSynthesizer()), noise_snr=15)
    speech = clean.wave[np.abs(clean.wave) > 0]
    ratio = 10 * np.log10(np.mean(speech**2) / np.mean((noisy.wave - clean.wave) ** 2))
    assert ratio == pytest.approx(15, abs=1.5)  # the spaces between words lower the speech's own level


class Parrot:
    """Hears "twelve" where the answer has sound, and counts how often it is asked."""

    name = "parrot"
    asked = 0

    def __call__(self, wave, rate):
        Parrot.asked += 1
        return Heard("twelve" if wave.any() else "", [])


def test_questions_are_asked_once_and_judged_from_the_sound(tmp_path):
    questions = [
        Question("right", "plus", "what is seven plus five", VALUE),
        Question("wrong", "day", "what comes after monday", LAST),
        Question("apart", "repeat", "say twelve", {"type": "repeat", "text": "twelve"}, apart=True),
    ]
    system = ScriptedSystem(lambda user: word_times(3, len(user) / SAMPLE_RATE - ANSWER_SECONDS + 0.4))
    cache = Cache(tmp_path / "cache")

    def run():
        section = Section("speech")
        voices = one_voice(BurstSynthesizer())
        items = ask_questions(
            questions, system, voices, Parrot(), tmp_path / "out", section, cache=cache, progress=False
        )
        assert not section.broken
        return items

    items = run()
    assert [item["right"] for item in items] == [True, False, True]
    assert items[0]["monologue"] == "word word word"
    tables = answer_tables(items, "Answers")
    assert tables["Answers"]["all"]["right"].value == 50.0 and tables["Answers"]["all"]["right"].n == 2
    assert tables["Answers"]["scored apart"]["right"].value == 100.0
    # three words of monologue against one heard: 1 wrong and 2 missing, each time
    assert tables["Monologue against what is heard"]["Answers"]["WER"].value == pytest.approx(100.0)
    before = Parrot.asked, system.asked
    assert run() == items
    assert (Parrot.asked, system.asked) == before


def test_what_was_said_before_the_question_is_not_judged(tmp_path):
    question = Question("q", "plus", "what is seven plus five", VALUE, context=("hello there",))
    system = ScriptedSystem(lambda user: word_times(3, 2.0))  # answers the context only
    items = ask_questions(
        [question],
        system,
        one_voice(BurstSynthesizer()),
        Parrot(),
        tmp_path,
        Section("speech"),
        progress=False,
    )
    assert items[0]["heard"] == "" and not items[0]["right"]
