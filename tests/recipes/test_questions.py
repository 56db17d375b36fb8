from collections import Counter

import pytest

from recipes.mini import facts
from recipes.mini.normalize import normalize
from recipes.mini.questions import HELDOUT, Question, load_questions, rules
from recipes.mini.questions.scoring import is_fallback, is_right, judge, score
from recipes.mini.questions.write import VOICES, write_questions

FALLBACK = "Sorry, I can't help with that."


def ask(rule: dict, kind: str = "plus", **more) -> Question:
    return Question(id="q", kind=kind, text="?", rule=rule, voice="kokoro:af_nova", **more)


def test_the_file_is_what_the_writer_writes():
    assert HELDOUT.read_text(encoding="utf-8") == "".join(q.to_json() + "\n" for q in write_questions())


def test_the_set_is_large_stratified_and_without_doubles():
    questions = load_questions()
    together = [q for q in questions if not q.apart]
    assert len(together) >= 300
    assert {q.kind for q in questions if q.apart} == {"repeat"}
    kinds = Counter(q.kind for q in questions)
    assert min(kinds.values()) >= 6
    assert len({q.id for q in questions}) == len(questions)
    spoken = Counter((normalize(q.text), q.context) for q in questions)
    assert spoken.most_common(1)[0][1] == 1, spoken.most_common(3)
    assert {q.voice for q in questions} == {voice for voice, _ in VOICES}
    assert all(q.split == "heldout" for q in questions)


def test_loading_a_kind_and_a_broken_file(tmp_path):
    assert {q.kind for q in load_questions(kinds=["joke"])} == {"joke"}
    with pytest.raises(ValueError, match="jok"):
        load_questions(kinds=["jok"])
    broken = tmp_path / "q.jsonl"
    broken.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        load_questions(broken)


@pytest.mark.parametrize(
    ("rule", "heard", "right"),
    [
        (rules.value(5, 2, 3), "It's 5.", True),
        (rules.value(5, 2, 3), "2 plus 3 is 5.", True),
        (rules.value(5, 2, 3), "Five is what two plus three makes.", True),
        (rules.value(5, 2, 3), "That's six.", False),
        (rules.value(5, 2, 3), "Two plus three is eight.", False),
        (rules.value(5, 2, 3), "Two plus three.", False),
        (rules.value(5, 2, 3), "That's five! Want another one?", True),
        (rules.value(4, 2, 2), "Two plus two is four", True),
        (rules.value(2, 1, 1), "One and one make two.", True),
        (rules.value(5, 2, 3), "", False),
        (rules.sequence([1, 2, 3]), "1, 2, 3.", True),
        (rules.sequence([1, 2, 3]), "Okay. One, two, three. Done.", True),
        (rules.sequence([1, 2, 3]), "one two four three", False),
        (rules.sequence([1, 2, 3]), "To 3: 1, 2, 3.", True),
        (rules.sequence([5, 4, 3, 2, 1]), "Okay, 543 -2-1.", True),
        (rules.sequence([1, 2, 3]), "1 2 3 4", False),
        (rules.sequence([2, 3, 4]), "1 2 3 4", False),
        (rules.sequence([3, 2, 1]), "1 2 3", False),
        (rules.day("Tuesday"), "After Monday comes Tuesday.", True),
        (rules.day("Tuesday"), "Tuesday, then Monday.", False),
        (rules.month("May"), "That would be May.", True),
        (rules.color("a carrot"), "Carrots are orange.", True),
        (rules.color("clouds"), "Clouds are grey.", True),
        (rules.color("snow"), "Snow is black", False),
        (rules.opposite("hot"), "The opposite of hot is cold.", True),
        (rules.opposite("big"), "little", True),
        (rules.opposite("hot"), "The opposite of hot is hot.", False),
        (rules.sound("cow"), "A cow goes mu!", True),
        (rules.sound("cow"), "A cow says woof.", False),
        (rules.spell("cat"), "C-A-T.", True),
        (rules.spell("cat"), "That's see, A, tea.", True),
        (rules.spell("cat"), "CAT", True),
        (rules.spell("cat"), "Cat.", False),
        (rules.spell("cat"), "C-A-R.", False),
        (rules.spell("cow"), "C, O, double U.", True),
        (rules.JOKE, "Why did the chicken cross the road? To get to the other side.", True),
        (rules.JOKE, "What has four wheels and flies? A garbage truck!", True),
        (rules.JOKE, "The sky is blue.", False),
        (rules.repeat("the green bird sleeps"), "The green bird sleeps.", True),
        (rules.repeat("the green bird sleeps"), "Okay: the green bird sleeps.", True),
        (rules.repeat("the green bird sleeps"), "The red bird sits.", False),
        (rules.FALLBACK, FALLBACK, True),
        (rules.FALLBACK, "It's five.", False),
        (rules.HOW_ARE_YOU, "I'm doing great, thanks.", True),
        (rules.NAME, "My name is Minnie.", True),
        (rules.LOUDER, "I can't speak any louder, sorry.", True),
        (rules.LOUDER, FALLBACK, False),
    ],
)
def test_rules(rule, heard, right):
    kind = "other" if rule["type"] == "fallback" else "plus"
    assert is_right(ask(rule, kind), heard) is right, judge(ask(rule, kind), heard)


def test_a_fallback_line_is_wrong_for_every_question_of_the_domain():
    for question in load_questions():
        right = is_right(question, FALLBACK + " It is five blue Tuesday moo hello bye, welcome.")
        assert right is (question.kind == "other")


def test_silence_is_never_right():
    assert not any(is_right(q, "") or is_right(q, " ...") for q in load_questions())


def test_no_constant_answer_scores():
    questions = [q for q in load_questions() if not q.apart]
    for line in ("Seven.", "Okay.", "Hello!", "It is blue.", FALLBACK, "You're welcome, I'm fine."):
        assert score((q, line) for q in questions)["accuracy"] < 0.12


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="magic"):
        judge(ask({"type": "magic"}), "hello")


def test_score_keeps_repeat_apart():
    questions = [ask(rules.value(2, 1, 1)), ask(rules.repeat("a b"), "repeat", apart=True)]
    result = score([(questions[0], "two"), (questions[1], "no")])
    assert (result["right"], result["asked"], result["accuracy"]) == (1, 1, 1.0)
    assert result["apart"]["right"] == 0 and result["kinds"]["repeat"]["asked"] == 1
    assert result["wrong"][0]["heard"] == "no"


def test_facts_are_consistent():
    assert is_fallback(FALLBACK) and not is_fallback("I can do that.")
    for word, other in facts.OPPOSITES.items():
        assert facts.OPPOSITES.get(other, word) == word or other in ("light", "end", "short", "closed")
    for thing, _, colors in facts.COLORS_OF:
        assert set(colors) <= set(facts.COLOR_WORDS), thing
    assert facts.neighbour("Sunday", 1, facts.DAYS) == "Monday"
    assert facts.neighbour("January", -1, facts.MONTHS) == "December"
