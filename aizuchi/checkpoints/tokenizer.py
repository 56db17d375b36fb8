"""The text tokenizer: SentencePiece as the original has it, and as a fast tokenizer of transformers.

The conversion is that of the published checkpoints: byte fallback, "▁" for a space before a word, control pieces as
special tokens that are never split, no BOS or EOS added. Two things are better here: the padding token is really
set, and the SentencePiece file stays beside tokenizer.json, so that nothing is lost on the way back.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import MoshiConverter

from .tensors import CheckpointError

SPM_FILE = "tokenizer.model"
_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """A tokenizer from a SentencePiece file, or from a folder of transformers' files; padding works either way.

    Raises:
        CheckpointError: nothing there that is a tokenizer.
    """
    path = Path(path)
    if path.is_file():
        return tokenizer_from_sentencepiece(path)
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(f"{path}: no tokenizer.json and no SentencePiece file")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    except Exception as error:  # the Rust library raises bare exceptions
        raise CheckpointError(f"{path / 'tokenizer.json'} can't be read: {error}") from error
    # Published checkpoints leave them unset.
    if tokenizer.pad_token is None and tokenizer.convert_tokens_to_ids("<pad>") is not None:
        tokenizer.pad_token = "<pad>"
    return tokenizer


def read_sentencepiece(path: str | os.PathLike[str]) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model.

    Raises:
        CheckpointError: the file is missing or no SentencePiece model.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"the tokenizer {path} does not exist")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model ({error})") from error


def tokenizer_from_sentencepiece(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The fast tokenizer that gives SentencePiece's ids (its control pieces excepted, which are atomic)."""
    pieces = read_sentencepiece(path)
    count = pieces.get_piece_size()
    pad = pieces.pad_id() if pieces.pad_id() >= 0 else pieces.piece_to_id("<pad>")
    specials: dict[str, Any] = {"unk_token": pieces.id_to_piece(pieces.unk_id())}
    for name, index in (("bos_token", pieces.bos_id()), ("eos_token", pieces.eos_id()), ("pad_token", pad)):
        if 0 <= index < count and (name != "pad_token" or index != pieces.unk_id()):
            specials[name] = pieces.id_to_piece(index)
    specials.setdefault("pad_token", specials["unk_token"])
    return PreTrainedTokenizerFast(
        tokenizer_object=MoshiConverter(str(path)).converted(),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **specials,
    )


def save_tokenizer(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Write a tokenizer (SentencePiece file, or folder of transformers' files) as transformers' files."""
    source, folder = Path(source), Path(folder)
    load_tokenizer(source).save_pretrained(folder)
    # The name that every release of transformers knows for a tokenizer that is all in tokenizer.json.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if source.is_file():
        shutil.copyfile(source, folder / SPM_FILE)
    elif (source / SPM_FILE).is_file():
        shutil.copyfile(source / SPM_FILE, folder / SPM_FILE)


def save_sentencepiece(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a tokenizer as a SentencePiece file: a copy where there is one, else rebuilt from tokenizer.json.

    Raises:
        CheckpointError: tokenizer.json holds something that SentencePiece can't express.
    """
    source = Path(source)
    original = source if source.is_file() else source / SPM_FILE
    if original.is_file():
        shutil.copyfile(original, path)
        return
    Path(path).write_bytes(sentencepiece_from_json(source / "tokenizer.json"))


def sentencepiece_from_json(path: Path) -> bytes:
    """A SentencePiece model with the pieces, scores and rules of a converted tokenizer.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    model = content.get("model") or {}
    if model.get("type") != "Unigram":
        raise CheckpointError(
            f"{path}: a {model.get('type')} tokenizer can't be written as SentencePiece; give its original file by "
            "`tokenizer`"
        )
    special = {token["id"] for token in content.get("added_tokens", []) if token.get("special")}
    out = proto.ModelProto()  # type: ignore[attr-defined]
    for index, (piece, score) in enumerate(model["vocab"]):
        kind = _NORMAL
        if index == model["unk_id"]:
            kind = _UNKNOWN
        elif index in special:
            kind = _CONTROL
        elif len(piece) == 6 and piece.startswith("<0x"):
            kind = _BYTE
        out.pieces.add(piece=piece, score=score, type=kind)
    trainer = out.trainer_spec
    trainer.model_type = _UNIGRAM
    trainer.vocab_size = len(model["vocab"])
    trainer.byte_fallback = any(piece.type == _BYTE for piece in out.pieces)
    names = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    trainer.unk_id = model["unk_id"]
    trainer.unk_piece = model["vocab"][model["unk_id"]][0]
    trainer.bos_id, trainer.eos_id = names.get("<s>", -1), names.get("</s>", -1)
    trainer.pad_id = names.get("<pad>", -1)
    out.normalizer_spec.name = "identity"
    out.normalizer_spec.remove_extra_whitespaces = False  # as the fast tokenizer, which keeps double spaces
    out.normalizer_spec.add_dummy_prefix = _prefixes_a_space(content)
    out.normalizer_spec.precompiled_charsmap = _charsmap(content.get("normalizer"))
    data = out.SerializeToString()
    try:
        sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} can't be written as SentencePiece ({error}); give its original file by `tokenizer`"
        ) from error
    return data


def _prefixes_a_space(content: dict[str, Any]) -> bool:
    steps = content.get("pre_tokenizer") or {}
    for step in [steps, *steps.get("pretokenizers", [])]:
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme") != "never"
    return False


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
    for step in [normalizer or {}, *(normalizer or {}).get("normalizers", [])]:
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""
