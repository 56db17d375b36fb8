"""Ids for what the user says: the vocabulary, the model that gets them, and dialogues as words alone."""

import random

import numpy as np
import pytest
import sentencepiece
import torch

from aizuchi.cli.reply import _heard
from aizuchi.data.frames import EPAD, PAD, frames_to_words
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.engine import DuplexEngine
from aizuchi.errors import AizuchiError
from aizuchi.train.disturb import mute_codebooks
from aizuchi.train.start import make_model
from recipes.mini.dialogues import fresh_script
from recipes.mini.heard import OTHER, HeardWords, continued, listening_text, merged, plain, write_classes
from recipes.mini.monologue import add_heard, first_heard, renew, rows_of
from recipes.mini.package import drop_unheard
from recipes.mini.word_tokens import dialogue_ids
from tests.train.tiny import config_of

LINES = ["Seven plus two is nine.", "Hello! How can I help you?", "It's Monday.", "A crow says caw."] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`plain.model`, `heard.txt` of four words, and `words.model` with ids for them."""
    folder = tmp_path_factory.mktemp("monologue")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(folder / "plain"), vocab_size=60, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
    )  # fmt: skip
    (folder / "heard.txt").write_text("seven\nplus\nwhat\nis\n")
    add_heard(folder / "plain.model", HeardWords(folder / "heard.txt"), folder / "words.model")
    return folder


def test_no_text_has_these_ids_and_they_are_silent(folder):
    before, after = TextTokenizer(folder / "plain.model"), TextTokenizer(folder / "words.model")
    first = first_heard(folder / "words.model")
    assert first == before.size and after.size == first + 5
    for line in [*LINES, "what is seven plus"]:
        assert after.encode(line) == before.encode(line)
    assert [after.heard_word(first + i) for i in range(5)] == ["?", "seven", "plus", "what", "is"]
    assert all(after.heard_word(i) is None for i in range(first))
    said = after.encode("It's")
    ids = [PAD, first + 3, *said, first + 1, PAD, first]
    assert after.decode(ids[1:]).split() == ["It's"]
    assert [word.text for word in frames_to_words(ids, after)] == ["It's"]
    told = np.array([PAD, first + 3, PAD, first, -1])
    assert _heard(told, folder / "words.model", 12.5) == [("what", 0.08), ("...", 0.24)]
    assert _heard(np.array(said), folder / "words.model", 12.5) == _heard(told, None, 12.5) == []
    with pytest.raises(AizuchiError, match="has no ids for the user's words"):
        first_heard(folder / "plain.model")


def test_ids_are_given_once_and_those_of_another_list_go(folder):
    heard = HeardWords(folder / "heard.txt")
    first = first_heard(folder / "words.model")
    assert add_heard(folder / "words.model", heard, folder / "again.model") == first
    assert (folder / "again.model").read_bytes() == (folder / "words.model").read_bytes()
    (folder / "other.txt").write_text("four plus for\nis\neight what\n")
    other = HeardWords(folder / "other.txt")
    assert add_heard(folder / "words.model", other, folder / "other.model") == first
    after = TextTokenizer(folder / "other.model")
    assert after.size == first + 4
    assert [after.heard_word(first + i) for i in range(4)] == ["?", "four", "is", "eight"]
    assert rows_of(folder / "words.model", other) == [first, first + 2, first + 4, first + 3]
    assert rows_of(folder / "plain.model", other) == [None] * 4
    (folder / "other.txt").write_text("nobody\nseven\n")
    assert rows_of(folder / "words.model", HeardWords(folder / "other.txt")) == [first, first, first + 1]


def test_words_that_sound_the_same_are_one_class(folder):
    (folder / "alike.txt").write_text("to\nfour five\n\nis\n")
    heard = HeardWords(folder / "alike.txt")
    assert [heard.class_of(word) for word in ("to", "Four", "five!", "is", "six")] == [2, 3, 3, 4, OTHER]
    assert heard.words == ["to", "four", "is"] and len(heard) == 5
    groups = [["two", "to", "too"], ["one", "won"]]
    assert merged(["is", "to", "plus", "two", "won"], groups) == [["is"], groups[0], ["plus"], groups[1]]
    known = merged(["too", "hi", "to", "something"])
    assert known == [["to", "two", "too"], ["hi", "high"], ["something"]]


def test_a_list_goes_on_behind_what_it_was(tmp_path):
    known = [["seven"], ["to", "two", "too"]]
    more = continued(known, ["two", "high", "seven", "previous", "hi", "", "previous"])
    assert more == [*known, ["hi", "high"], ["previous"]] and continued(more, ["high", "too"]) == more
    write_classes(tmp_path / "more.txt", more)
    before, after = HeardWords(tmp_path / "more.txt"), [["seven"], ["hi", "high"]]
    assert before.classes == more and before.class_of("too") == 3
    assert continued(after, before.words) == [*after, ["to", "two", "too"], ["previous"]]


def test_a_model_with_ids_for_words_says_what_it_said(tmp_path):
    torch.manual_seed(0)
    model = make_model(config_of(tmp_path)).eval()
    text = torch.randint(4, 40, (1, 9))
    codes = torch.randint(0, 32, (1, 4, 9))

    def run(text):
        inputs = model.prepare_training_inputs(text_ids=text, moshi_audio_codes=codes, user_audio_codes=codes)
        return model(**inputs)

    before = run(text)
    renew(model, 40, [None] * 7)
    after = run(text)
    assert after.logits.shape[-1] == 47 and torch.equal(after.logits[..., :40], before.logits)
    assert torch.equal(after.audio_logits, before.audio_logits)
    heard = text.clone()
    heard[0, 3:6] = torch.tensor([41, 44, 46])
    before = run(heard)
    rows = [40, 44, 40, 46, 41]  # fewer words in another order, one of them new
    renew(model, 40, rows)
    heard[0, 3:6] = torch.tensor([44, 41, 43])
    after = run(heard)
    assert after.logits.shape[-1] == 45
    torch.testing.assert_close(after.logits, before.logits[..., [*range(40), *rows]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.audio_logits, before.audio_logits, atol=1e-5, rtol=1e-5)


def test_codebooks_that_are_never_heard_are_left_out(tmp_path):
    model = make_model(config_of(tmp_path)).eval()
    mute_codebooks(model, 1)
    codes = torch.randint(0, 32, (1, 4, 9), generator=torch.Generator().manual_seed(0))
    text = torch.randint(4, 40, (1, 9))

    def run(user):
        given = model.prepare_training_inputs(text_ids=text, moshi_audio_codes=codes, user_audio_codes=user)
        return model(**given).logits

    before = run(codes)
    assert drop_unheard(model) == 3 and model.config.num_user_codebooks == 1
    torch.testing.assert_close(run(codes[:, :1]), before, atol=1e-5, rtol=1e-5)
    assert drop_unheard(model) == 0
    engine = DuplexEngine(model, rows=1)
    engine.join(0)
    assert engine.step(torch.zeros(1, 1, 1920)).text.shape == (1,)


def test_one_who_only_listens_is_silent_while_a_word_is_said():
    heard = np.zeros(40, np.int32)
    heard[[10, 14, 30]] = 5
    text = listening_text(heard)
    assert (text[4:18] == PAD).all() and (text[24:34] == PAD).all()  # to where the word is written
    assert (text[:4] == -1).all() and (text[18:24] == -1).all() and (text[34:] == -1).all()
    assert (listening_text(np.full(9, -1)) == -1).all()


def test_dialogues_as_words_have_all_that_is_asked_and_answered(folder):
    tokenizer, heard = TextTokenizer(folder / "words.model"), HeardWords(folder / "heard.txt")
    first = first_heard(folder / "words.model")
    for number in range(20):
        script = fresh_script(f"test/{number}")
        ids = dialogue_ids(script, random.Random(number), heard, first, tokenizer)
        asked = [e.text for e in script.events if e.side == "user" and e.kind != "backchannel"]
        classes = [int(heard.class_of(w)) for text in asked for w in text.split() if plain(w)]
        assert [i - first + 1 for i in ids if i >= first] == classes
        answers = [e for e in script.events if e.side == "model" and e.kind == "answer"]
        assert ids.count(EPAD) >= len(answers)
        said = " ".join(word.text for word in frames_to_words(ids, tokenizer))
        for answer in answers:
            if answer.cut_by is None and all(
                tokenizer.decode(tokenizer.encode(w)) == w for w in answer.text.split()
            ):
                assert answer.text in said
