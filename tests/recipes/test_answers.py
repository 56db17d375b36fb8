import random

import pytest

from recipes.mini import answers
from recipes.mini.questions import Question, rules
from recipes.mini.questions.scoring import is_fallback, judge
from recipes.mini.questions.write import all_meanings, rule_of
from recipes.mini.utterances import WEIGHTS, Utterance, draw

DOMAIN = (
    "plus minus times count count_from count_down number_after number_before day_after day_before"
).split() + ("month_after month_before opposite color sound spell repeat joke".split())


def question(kind: str, meaning: dict) -> Question:
    return Question(id=kind, kind=kind, text="?", rule=rule_of(kind, meaning), voice="kokoro:af_nova")


@pytest.mark.parametrize("kind", DOMAIN)
def test_every_wording_of_every_answer_is_right(kind):
    for meaning in all_meanings(kind):
        for line in answers.domain_answers(kind, meaning):
            verdict = judge(question(kind, meaning), line)
            assert verdict.right, (line, verdict)


@pytest.mark.parametrize("kind", DOMAIN)
def test_an_answer_to_another_question_is_wrong(kind):
    meanings = all_meanings(kind)
    if kind in ("joke", "repeat"):
        pytest.skip("any joke will do; phrases to repeat are their own answer")
    rng, wrong, tried = random.Random(0), 0, 0
    for _ in range(200):
        asked, other = rng.choice(meanings), rng.choice(meanings)
        line = rng.choice(answers.domain_answers(kind, other))
        if answers.domain_answers(kind, asked)[0] != answers.domain_answers(kind, other)[0]:
            tried += 1
            wrong += not judge(question(kind, asked), line).right
    assert tried > 50
    assert wrong > 0.93 * tried  # a few opposites share a synonym


@pytest.mark.parametrize("kind", sorted(set(WEIGHTS) - set(DOMAIN) - {"again", "praise", "hear_me", "stop"}))
def test_small_talk_is_right(kind):
    rng = random.Random(0)
    for _ in range(60):
        line = answers.reply(draw(rng, kind), rng)
        assert judge(question(kind, {}), line).right, line


def test_stop_and_fallback_lines():
    stop = Question(id="s", kind="stop", text="Stop.", rule=rules.STOP, voice="kokoro:af_nova")
    rng = random.Random(0)
    assert all(judge(stop, answers.reply(Utterance("stop", "Stop."), rng)).right for _ in range(30))
    assert all(is_fallback(line) for line in answers.FALLBACKS)
    assert len(answers.FALLBACKS) >= 8
    others = [*answers.STILL_THERE, *answers.BACKCHANNEL, *answers.NOTHING_TO_REPEAT]
    assert not any(is_fallback(line) for line in others)


def test_again_gives_the_last_line():
    rng = random.Random(0)
    said = Utterance("again", "What?")
    assert {answers.reply(said, rng, "Seven.") for _ in range(50)} == {"Seven."}
    assert answers.reply(said, rng, None) in answers.NOTHING_TO_REPEAT


def test_nothing_answers_a_story():
    with pytest.raises(ValueError, match="story"):
        answers.reply(Utterance("story", "So."), random.Random(0))


def test_the_library_judges_alike():
    """`aizuchi eval` reads the same file; its judge has to agree on right, wrong and fallback lines."""
    evaluate = pytest.importorskip("aizuchi.evaluate.questions")
    from recipes.mini.questions import HELDOUT, load_questions

    theirs = {q.id: q for q in evaluate.read_questions(HELDOUT)}
    rng, differ, judged = random.Random(0), [], 0
    questions = load_questions()
    lines = [
        rng.choice(answers.domain_answers(k, rng.choice(all_meanings(k)))) for k in DOMAIN for _ in range(8)
    ]
    lines += [answers.reply(draw(rng, k), rng) for k in sorted(set(WEIGHTS) - set(DOMAIN) - {"again"})]
    for q in questions:
        found = [m for m in all_meanings(q.kind) if q.kind in DOMAIN and rule_of(q.kind, m) == q.rule]
        own = [rng.choice(answers.domain_answers(q.kind, m)) for m in found[:2]]
        for line in (*own, answers.FALLBACKS[0], *rng.sample(lines, 6)):
            judged += 1
            ours, their = judge(q, line), evaluate.judge(theirs[q.id], line)
            if ours.right != their.right:
                differ.append((q.id, line, ours, their))
        if q.kind == "other":
            assert all(evaluate.judge(theirs[q.id], line).right for line in answers.FALLBACKS)
    assert len(differ) <= 0.005 * judged, differ[:5]
    for line in ("It's for.", "My name is Minnie.", "Minny.", "That's to."):  # four, Mini, two
        ours = [q.id for q in questions if judge(q, line).right]
        assert ours == [q.id for q in questions if evaluate.judge(theirs[q.id], line).right] != [], line
