"""Plain text as shards: every token in order, documents apart, and the way through the commands into a training."""

import json

import numpy as np
import pytest
import sentencepiece

from aizuchi.cli import main
from aizuchi.data import texts
from aizuchi.data.shards import ShardFolder
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from aizuchi.train.tokens import Pieces, open_sources

SENTENCES = ["the cat sat on the mat", "a dog ran over the hill", "cats and dogs run"] * 4


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("spm") / "toy"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(prefix), vocab_size=28, pad_id=3, minloglevel=2
    )
    return prefix.with_suffix(".model")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\non the mat")
    lines = [json.dumps({"text": "a dog ran ☃"}), "", json.dumps("cats run")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    return [tmp_path / "a.txt", tmp_path / "b.jsonl"]


def test_all_tokens_lie_in_order_with_an_end_behind_each_document(spm, files, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "STRETCH", 7)
    monkeypatch.setattr(texts, "SHARD_STRETCHES", 2)
    tokenizer = TextTokenizer(spm)
    shards = texts.tokenize_texts(texts.read_documents(files), tmp_path / "out", tokenizer)
    expected = []
    for document in ("the cat sat on the mat", "a dog ran ☃", "cats run"):
        expected += [i for i in tokenizer.encode(document) if i not in (0, 3)] + [2]
    found = [shards.read(i)[0] for i in range(len(shards.dialogues))]
    assert np.concatenate(found).tolist() == expected and len(shards.records) > 1
    assert {len(stretch) for stretch in found[:-1]} == {7}
    assert shards.codebooks == 0 and not shards.verify()


def test_the_command_writes_what_training_reads(spm, files, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "text", *map(str, files), str(out), "--tokenizer", str(spm)]) == 0
    assert "tokens in 1 shards" in capsys.readouterr().err
    row = Pieces(open_sources(str(out)), 5, seed=0).draw(0)
    assert row.text.shape == (5,) and row.model.shape == row.user.shape == (0, 5)
    assert main(["data", "check", str(out)]) == 0
    assert main(["data", "stats", str(out)]) == 0
    assert main(["data", "text", str(files[0]), str(out), "--tokenizer", str(spm)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["data", "text", str(files[0]), str(out), "--tokenizer", str(spm), "--overwrite"]) == 0
    assert len(ShardFolder(out).dialogues) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "fine"}\n{"tekst": 3}', r"x.jsonl:2: expected"),
        ("x.jsonl", b'{"text": ', r"x.jsonl:1: malformed JSON"),
        ("x.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("x.txt", b"  \n", "no text in these files"),
        ("x.pdf", b"", "as .txt or .jsonl"),
    ],
)
def test_what_is_wrong_is_named(spm, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AizuchiError, match=message):
        texts.tokenize_texts(texts.read_documents([tmp_path / name]), tmp_path / "out", TextTokenizer(spm))
    with pytest.raises(AizuchiError, match="is not finished|holds no token shards|does not exist"):
        ShardFolder(tmp_path / "out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AizuchiError, match="none.txt does not exist"):
        list(texts.read_documents([tmp_path / "none.txt"]))
