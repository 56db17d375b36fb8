"""Lines of the assistant that answer nobody."""

import random
from collections import Counter

from recipes.mini.listening import common_words
from recipes.mini.normalize import normalize
from recipes.mini.speaking import GAP, answer_words, draw_line, write_speaking
from recipes.mini.voices import ASSISTANT


def test_answers_and_words_in_any_order_are_said():
    rng = random.Random(0)
    lines = [draw_line(rng) for _ in range(3000)]
    words = Counter(word for line in lines for word in normalize(line).split())
    assert all(words[word] for word in ("wednesday", "january", "november", "seventeen", "moo"))
    others = [line for line in lines if set(normalize(line).split()) & set(common_words())]
    # the fewer frequent words the phrases leave, the fewer lines have one
    assert 0.05 < len(others) / len(lines) < 0.2 and len(set(lines)) > 1200
    assert words["friday"] > 0.3 * words["seven"]
    assert {"moo", "november", "purple", "heavy"} <= set(answer_words())
    alone = [normalize(word) for word in answer_words()]
    assert sum(all(words[part] for part in word.split()) for word in alone) > 0.95 * len(alone) > 300
    assert all(line[0].isupper() and line[-1] in ".!?" for line in lines)


def test_nobody_else_speaks_and_pauses_are_short():
    script = write_speaking("0", seconds=20)
    assert {event.side for event in script.events} == {"model"} and script.voice == ASSISTANT
    assert all(GAP[0] <= event.gap <= GAP[1] and event.cut_by is None for event in script.events)
    assert script.events[0].after is None and [e.after for e in script.events[1:]] == [
        e.id for e in script.events[:-1]
    ]
    assert write_speaking("0") == write_speaking("0") and write_speaking("1") != write_speaking("0")
