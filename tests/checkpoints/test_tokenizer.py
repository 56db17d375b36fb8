"""The text tokenizer: SentencePiece's ids, atomic specials, padding that works, and the way back."""

from __future__ import annotations

import pytest
import sentencepiece
import torch

from aizuchi.checkpoints import CheckpointError
from aizuchi.checkpoints.tokenizer import (
    load_tokenizer,
    save_sentencepiece,
    save_tokenizer,
    sentencepiece_from_json,
    tokenizer_from_sentencepiece,
)

from . import tiny

TEXTS = [
    "hello moshi",
    "how are you today",
    "I think that sounds good",
    "a  double  space",
    "yes, no!",
    "été 日本 🙂",
]


@pytest.fixture(scope="module", params=[60, 340], ids=["no byte pieces", "byte pieces"])
def pieces(request, tmp_path_factory):
    return tiny.train_tokenizer(tmp_path_factory.mktemp("spm") / "tokenizer_tiny.model", request.param)


def test_ids_are_those_of_sentencepiece(pieces):
    original = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    tokenizer = tokenizer_from_sentencepiece(pieces)
    known = TEXTS if any(original.is_byte(i) for i in range(original.get_piece_size())) else TEXTS[:4]
    for text in known:
        ids = original.encode(text)
        assert tokenizer.encode(text) == ids, text
        if 0 not in ids:  # SentencePiece writes unknown pieces as a question mark
            assert tokenizer.decode(ids) == original.decode(ids)


def test_specials_are_atomic_and_have_the_ids_of_the_text_stream(pieces):
    tokenizer = tokenizer_from_sentencepiece(pieces)
    assert [tokenizer.encode(token) for token in ("<unk>", "<s>", "</s>", "<pad>")] == [[0], [1], [2], [3]]
    ids = tokenizer.encode("hello<pad><unk>how")
    assert ids[-1] != 0 and 3 in ids and ids[ids.index(3) + 1] == 0
    assert "<pad>" not in tokenizer.decode(ids, skip_special_tokens=True)


def test_padding_works(pieces):
    batch = tokenizer_from_sentencepiece(pieces)(["hello", "how are you"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert torch.equal(batch["input_ids"] == 3, batch["attention_mask"] == 0)
    assert set(batch) == {"input_ids", "attention_mask"}


def test_saved_and_loaded_it_is_the_same(pieces, tmp_path):
    import transformers

    save_tokenizer(pieces, tmp_path)
    first = tokenizer_from_sentencepiece(pieces)
    for again in (load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert again.pad_token_id == 3 and again.unk_token_id == 0
        for text in TEXTS:
            assert again.encode(text) == first.encode(text)


def test_the_sentencepiece_file_comes_back_byte_for_byte(pieces, tmp_path):
    save_tokenizer(pieces, tmp_path)
    save_sentencepiece(tmp_path, tmp_path / "back.model")
    assert (tmp_path / "back.model").read_bytes() == pieces.read_bytes()


def test_without_it_a_sentencepiece_file_with_the_same_ids_is_made(pieces, tmp_path):
    save_tokenizer(pieces, tmp_path)
    rebuilt = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_from_json(tmp_path / "tokenizer.json")
    )
    original = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    assert rebuilt.get_piece_size() == original.get_piece_size()
    assert (rebuilt.unk_id(), rebuilt.bos_id(), rebuilt.eos_id(), rebuilt.pad_id()) == (0, 1, 2, 3)
    for text in TEXTS:
        assert rebuilt.encode(text) == original.encode(text), text
        assert rebuilt.decode(original.encode(text)) == original.decode(original.encode(text))


def test_a_published_tokenizer_whose_pad_token_is_unset_pads_all_the_same(pieces, tmp_path):
    import transformers
    from transformers.convert_slow_tokenizer import MoshiConverter

    published = transformers.PreTrainedTokenizerFast(
        tokenizer_object=MoshiConverter(str(pieces)).converted(), unk_token="<unk>"
    )
    assert published.pad_token is None
    published.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(["hello", "how are you"], padding=True)["attention_mask"][0][-1] == 0


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken.model"):
        load_tokenizer(path)
    with pytest.raises(CheckpointError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)


def test_another_kind_of_tokenizer_can_not_become_sentencepiece(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    with pytest.raises(CheckpointError, match="BPE"):
        save_sentencepiece(tmp_path, tmp_path / "out.model")
    assert not (tmp_path / "out.model").exists()
