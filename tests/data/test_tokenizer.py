"""The adapter over the tokenizers that people have."""

from __future__ import annotations

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aizuchi.data.frames import PAD, frames_to_words, words_to_frames
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from aizuchi.transcript import Word

SENTENCES = ["the cat sat on the mat", "a dog ran over the hill", "cats and dogs run"] * 4


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("spm") / "toy"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(prefix), vocab_size=28, pad_id=3, minloglevel=2
    )
    return prefix.with_suffix(".model")


def test_sentencepiece_words_round_trip_without_bos(sentencepiece_model):
    tokenizer = TextTokenizer(sentencepiece_model)
    ids = tokenizer.encode(" cat ")
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.starts_word(ids[0]) and not any(tokenizer.starts_word(i) for i in ids[1:])
    words = [Word(w, i * 0.8, i * 0.8 + 0.3) for i, w in enumerate("the cat sat".split())]
    frames = words_to_frames(words, 40, tokenizer)
    assert [w.text for w in frames_to_words(frames, tokenizer)] == ["the", "cat", "sat"]
    assert PAD in frames
    assert len(tokenizer.fingerprint()) == 16


def test_sentencepiece_is_the_same_as_a_file_and_as_an_object(sentencepiece_model):
    file = TextTokenizer(sentencepiece_model)
    given = TextTokenizer(sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model)))
    assert file.encode("cat") == given.encode("cat")
    assert file.decode(given.encode("cat")) == given.decode(file.encode("cat")) == "cat"
    assert file.fingerprint() == given.fingerprint()


def test_a_transformers_tokenizer_adds_no_special_tokens(tmp_path):
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "▁cat": 4, "▁dog": 5}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    assert fast.encode("cat") == [1, 4]  # so the flag below matters
    tokenizer = TextTokenizer(fast)
    assert tokenizer.encode("cat") == [4]
    assert tokenizer.starts_word(4)
    fast.save_pretrained(tmp_path)
    again = TextTokenizer(tmp_path)
    assert again.encode("dog") == [5]
    assert again.fingerprint() == tokenizer.fingerprint()


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(AizuchiError, match="encode"):
        TextTokenizer(object())
    with pytest.raises(AizuchiError, match="does not exist"):
        TextTokenizer(tmp_path / "none.model")
    with pytest.raises(AizuchiError, match="no tokenizer.json"):
        TextTokenizer(tmp_path)
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(AizuchiError, match="not a SentencePiece model"):
        TextTokenizer(tmp_path / "bad.model")
