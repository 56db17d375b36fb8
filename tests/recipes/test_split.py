"""No held-out question can be said by the training, and no carrier phrase is shared."""

import random
import re

import pytest

from recipes.mini import phrasings
from recipes.mini.normalize import mask_numbers, normalize
from recipes.mini.phrasings import BARE_KINDS, CLOSERS, OPENERS, TRAIN_TEMPLATES
from recipes.mini.questions import load_questions
from recipes.mini.questions.heldout_templates import HELDOUT_TEMPLATES
from recipes.mini.templates import Template
from recipes.mini.utterances import BACKCHANNELS, WEIGHTS, draw, draw_phrase, every_template, slot_patterns


def masked(text: str) -> str:
    return mask_numbers(normalize(text))


@pytest.fixture(scope="module")
def training_language() -> re.Pattern:
    """One expression that matches whatever the training phrasings can produce, normalised."""
    slots = slot_patterns()
    openers = "|".join(re.escape(masked(o)) for o in OPENERS)
    closers = "|".join(re.escape(masked(c)) for c in CLOSERS)
    bare = sorted({t.pattern(slots) for t in every_template() if t.kind in BARE_KINDS})
    cores = sorted({t.pattern(slots) for t in every_template() if t.kind not in BARE_KINDS})
    decorated = rf"(?:(?:{openers}) )?(?:{'|'.join(cores)})(?: (?:{closers}))?"
    return re.compile(f"{'|'.join(bare)}|{decorated}")


def test_the_expression_matches_what_training_draws(training_language):
    rng = random.Random(1)
    for _ in range(400):
        utterance = draw(rng, decorate=0.6)
        assert training_language.fullmatch(masked(utterance.text)), utterance.text
    assert all(training_language.fullmatch(masked(draw(rng, kind).text)) for kind in WEIGHTS)


def test_no_held_out_text_can_be_produced_by_training(training_language):
    questions = load_questions()
    texts = {masked(t) for q in questions for t in (q.text, *q.context)}
    shared = [text for text in texts if training_language.fullmatch(text)]
    assert not shared
    assert not texts & {masked(b) for b in BACKCHANNELS}


def runs_of(templates) -> set[str]:
    return {run for template in templates for run in template.runs()}


HELDOUT_RUNS = {kind: runs_of(Template(kind, t) for t in texts) for kind, texts in HELDOUT_TEMPLATES.items()}


def test_no_run_of_words_is_shared_by_any_kind():
    training = {run for run in runs_of(every_template()) if len(run.split()) >= 2}
    assert len(training) > 400
    shared = {k: sorted(r for r in runs if r in training) for k, runs in HELDOUT_RUNS.items()}
    assert not any(shared.values()), {k: v for k, v in shared.items() if v}


@pytest.mark.parametrize("kind", sorted(HELDOUT_TEMPLATES))
def test_no_carrier_holds_the_other(kind):
    """Neither contains a run of three words or more of the other, within a kind."""
    training = runs_of(t for t in every_template() if t.kind == kind)
    clashes = []
    for held in HELDOUT_RUNS[kind]:
        for run in training:
            for inner, outer in ((run, held), (held, run)):
                if len(inner.split()) >= 3 and f" {inner} " in f" {outer} ":
                    clashes.append((held, run))
    assert not clashes


def test_sections_of_one_name_are_one_and_no_phrase_is_in_two_files(tmp_path):
    (tmp_path / "a.txt").write_text("[thanks]\nThank you.\n")
    (tmp_path / "b.txt").write_text("[thanks]\nThanks.\n[stop]\nStop.\n")
    assert phrasings.read_phrases(tmp_path) == {"thanks": ("Thank you.", "Thanks."), "stop": ("Stop.",)}
    (tmp_path / "c.txt").write_text("[stop]\nStop.\n")
    with pytest.raises(ValueError, match="Stop"):
        phrasings.read_phrases(tmp_path)


def test_kinds_agree():
    assert set(HELDOUT_TEMPLATES) <= set(TRAIN_TEMPLATES) | {"other"}
    assert set(WEIGHTS) == set(TRAIN_TEMPLATES) | {"other"}
    assert BARE_KINDS <= set(TRAIN_TEMPLATES)
    used = {slot for t in phrasings.OTHER_TEMPLATES for slot in Template("other", t).slots}
    assert used == set(phrasings.OTHER_SLOTS)


def test_phrases_to_repeat_are_apart():
    from recipes.mini.questions.heldout_templates import REPEAT_PHRASES

    rng = random.Random(0)
    drawn = {normalize(draw_phrase(rng)) for _ in range(20000)}
    assert len(drawn) > 5000
    assert not drawn & {normalize(p) for p in REPEAT_PHRASES}


def test_drawing_is_seeded_and_varied():
    first = [draw(random.Random(7)) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    rng = random.Random(0)
    assert len({draw(rng).text for _ in range(2000)}) > 1600
    with pytest.raises(ValueError, match="poem"):
        draw(rng, "poem")


def test_a_pause_never_follows_a_finished_question():
    rng = random.Random(3)
    seen = 0
    for _ in range(1500):
        u = draw(rng, rng.choice(["plus", "minus", "times", "day_after", "spell", "opposite", "count_from"]))
        words = u.text.split()
        for at in u.pause_words:
            seen += 1
            assert 1 <= at < len(words), u
            rest = normalize(" ".join(words[at:]))
            last = list(u.meaning.values())
            values = [normalize(str(v)) for v in last]
            assert any(v in rest for v in values), u
    assert seen > 1500


def test_dev_questions_are_training_wordings_in_training_voices(training_language):
    from recipes.mini.questions.dev import dev_questions
    from recipes.mini.voices import is_held_out

    questions = dev_questions(120, seed=3)
    assert questions == dev_questions(120, seed=3) != dev_questions(120, seed=4)
    assert all(training_language.fullmatch(masked(q.text)) for q in questions)
    assert not any(is_held_out(q.voice) for q in questions)
    assert {q.split for q in questions} == {"dev"} and len({q.kind for q in questions}) > 25
