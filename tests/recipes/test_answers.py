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
    assert {answers.reply(said, rng, "Seven.") for _ in range(50)} == {"Seven.", "I said: Seven."}
    assert answers.reply(said, rng, None) in answers.NOTHING_TO_REPEAT


def test_nothing_answers_a_story():
    with pytest.raises(ValueError, match="story"):
        answers.reply(Utterance("story", "So."), random.Random(0))
