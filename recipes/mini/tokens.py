"""Dialogues to token shards: `python -m recipes.mini.tokens vocabulary|sound|encode --help`.

Mixing and augmenting need no codec and can run while it is trained; encoding needs only their result.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from aizuchi.data.augment import UserAugment
from aizuchi.data.codec import MimiCodec, encode, load_codec
from aizuchi.data.frames import MAIN_SPEAKER, SpokenWord, words_to_frames
from aizuchi.data.shards import DialogueTokens, finished, write_index, write_shard
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text
from recipes.mini.command import RUNS, add_inputs, run_command, run_shards
from recipes.mini.heard import HeardWords, frequent_words, listening_text, merged, write_classes
from recipes.mini.listening import phrase_words
from recipes.mini.monologue import add_heard
from recipes.mini.sources import RECORDED

SEED = 11
DIALOGUES = 40  # in a shard, some 25 minutes
VALIDATION = 10_000_000  # numbers from here on are of dialogues that training never sees
LISTENING = 20_000_000  # and from here on of users who speak while the model only listens
LISTEN = "listen"  # their folder
FORMAT = 2
HEARD = "heard.txt"
# The user's channel: what a laptop or a phone in a room picks up.
AUGMENT = UserAugment(
    gain_p=0.6,
    gain_db=(-18.0, 9.0),
    noise_p=0.45,
    noise_db=(-30.0, -8.0),
    echo_p=0.4,
    echo_scale=(0.01, 0.1),
    room_p=0.35,
    room_rt60=(0.15, 0.5),
    clip_p=0.05,
    band_p=0.25,
    gate_p=0.1,
    opus_p=0.15,
)


def train_vocabulary(args: argparse.Namespace) -> int:
    """A SentencePiece model of what the assistant says: id 0 marks the end of padding, 3 is padding. Beside it
    `heard.txt`, the words of the users.

    Every word that it often says is one id, mark and all ("seven."); what it does not know is spelled in pieces. The
    last ids are the users' words.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    from recipes.mini.dialogues import fresh_script

    words: Counter[str] = Counter()
    asked: list[str] = []
    for number in tqdm(range(args.dialogues), unit="dialogue"):
        script = fresh_script(f"vocabulary/{number}")
        words.update(word for e in script.events if e.side == "model" for word in e.text.split())
        asked += [e.text for e in script.events if e.side == "user"]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words.elements()),
        model_writer=trained,
        vocab_size=args.size // 4,
        model_type="bpe",
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        required_chars="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'.,?!-",
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    model.trainer_spec.model_type = (
        model.trainer_spec.UNIGRAM
    )  # the most likely pieces, not merges in their order
    known = {piece.piece: piece for piece in model.pieces}
    total = sum(words.values())
    for word, count in words.most_common(args.size - len(known)):
        piece = known.get(f"\u2581{word}") or model.pieces.add(piece=f"\u2581{word}")
        piece.score = math.log(count / total)
    for piece in known.values():
        if piece.score < 0 and piece.piece[1:] not in words:  # two of them never beat a word
            piece.score = -20.0 if len(piece.piece) > 1 else -30.0
    model.trainer_spec.vocab_size = len(model.pieces)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as temporary:
        temporary.write_bytes(model.SerializeToString())
    tokenizer = TextTokenizer(args.out)
    ids = sum(len(tokenizer.encode(word)) * count for word, count in words.items()) / total
    frequent = frequent_words(asked)
    heard = merged([*frequent, *(word for word in phrase_words() if word not in frequent)])
    write_classes(args.out.parent / HEARD, heard)
    print(f"{len(model.pieces)} ids, {len(words)} different words, {ids:.2f} ids a word; {args.out}")
    first = add_heard(args.out, HeardWords(args.out.parent / HEARD), args.out)
    print(f"{len(heard)} different words of users, ids from {first} on; {args.out.parent / HEARD}")
    return 0


def make_sound(work: tuple[int, Path], means: tuple[Any, list[Path], int]) -> float:
    """Mix and augment the dialogues of one shard; returns the seconds it holds."""
    from recipes.mini.mix import mixed_dialogue, mixed_listening

    shard, path = work
    library, files, seed = means
    waves, about = [], []
    for number in range(shard, shard + DIALOGUES):
        if number >= LISTENING:
            mixed = mixed_listening(number, seed, library)
        else:
            mixed = mixed_dialogue(number, seed, library, files)
        rng = np.random.default_rng([seed, number])
        user = AUGMENT(mixed.audio[1], mixed.audio[0], rng)
        # a silence in front, so that conversations don't all begin at once
        lead = round(random.Random(f"lead/{seed}/{number}").uniform(0, 1.5) * 12.5) * 1920
        wave = np.pad(np.stack([mixed.audio[0], user]), ((0, 0), (lead, 0)))
        words = [
            (w.text, w.start + lead / 24000, w.end + lead / 24000)
            for w in mixed.words
            if w.speaker == MAIN_SPEAKER
        ]
        heard = [
            (w.text, w.start + lead / 24000, w.end + lead / 24000)
            for w in mixed.words
            if w.speaker != MAIN_SPEAKER
        ]
        waves.append((wave * 32767).round().astype(np.int16))
        entry = {"name": f"{seed}/{number}", "samples": wave.shape[1], "words": words, "heard": heard}
        if mixed.script.voice == RECORDED:
            del entry["heard"]  # nobody knows what they say
        about.append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path.with_suffix(".npy")) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(waves, axis=1))
    write_text(path, json.dumps({"format": FORMAT, "dialogues": about}) + "\n")  # last: the shard is there
    return sum(entry["samples"] for entry in about) / 24000


def _sound_means(clips: Path, commands: str | None, seed: int) -> tuple[Any, list[Path], int]:
    from recipes.mini.clips import ClipLibrary
    from recipes.mini.sources import recordings

    library = ClipLibrary(clips) if clips.exists() else None
    return library, recordings(Path(commands)) if commands else [], seed


def make_sounds(args: argparse.Namespace) -> int:
    """Mix shards of dialogues, `DIALOGUES` each; those that are there are kept."""
    work = []
    parts = (("train", args.shards, 0), ("valid", args.valid, VALIDATION), (LISTEN, args.listen, LISTENING))
    for part, count, first in parts:
        for i in range(count):
            path = args.out / part / f"{i:05d}.json"
            if not path.exists():
                work.append((first + i * DIALOGUES, path))
    work.sort(key=lambda w: (w[0] % VALIDATION, w[0]))  # some of every part early
    means = functools.partial(_sound_means, args.clips, args.commands, args.seed)
    return run_shards(make_sound, work, means, args.jobs)


def encode_shard(work: tuple[Path, Path, str], means: tuple[MimiCodec, TextTokenizer, HeardWords]) -> float:
    """Tokens of one shard of sound; returns its seconds."""
    source, target, key = work
    codec, tokenizer, heard = means
    about = json.loads(source.read_text())
    if about.get("format") != FORMAT:
        raise AizuchiError(f"{source} has format {about.get('format')}, not {FORMAT}: mix it again")
    sound = np.load(source.with_suffix(".npy"), mmap_mode="r")
    made, at = [], 0
    for entry in about["dialogues"]:
        wave = sound[:, at : at + entry["samples"]].astype(np.float32) / 32767
        at += entry["samples"]
        codes = encode(codec, wave)  # (2, K, F)
        words = [SpokenWord(text, start, end) for text, start, end in entry["words"]]
        text = words_to_frames(words, codes.shape[-1], tokenizer)
        marks = heard.on_frames(entry.get("heard"), codes.shape[-1])
        if source.parent.name == LISTEN:
            text = listening_text(marks)
        made.append(
            DialogueTokens(
                name=entry["name"],
                text=text,
                model=np.ascontiguousarray(codes[0].T),
                user=np.ascontiguousarray(codes[1].T[:, None]),
                heard=marks,
            )
        )
    write_shard(target, made, key)
    return at / 24000


def _encode_means(codec: Path, vocabulary: Path) -> tuple[MimiCodec, TextTokenizer, HeardWords]:
    from aizuchi.train.memory import keep_freed_memory

    keep_freed_memory()
    heard = HeardWords(vocabulary.parent / HEARD)
    return load_codec(codec, threads=1), TextTokenizer(vocabulary), heard


def token_settings(codec: MimiCodec, tokenizer: TextTokenizer, heard: HeardWords) -> dict[str, Any]:
    """What shards of tokens say that they were made with."""
    return {
        "codec": codec.fingerprint(),
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
        "tokenizer": tokenizer.fingerprint(),
        "variants": 1,
        "heard_classes": len(heard),
        "heard_words": hashlib.sha256(" ".join(map("=".join, heard.classes)).encode()).hexdigest()[:16],
    }


def encode_sounds(args: argparse.Namespace) -> int:
    """Encode all shards of sound that there are; those that were made with the same codec are kept."""
    codec, tokenizer, heard = _encode_means(args.codec, args.vocabulary)
    settings = token_settings(codec, tokenizer, heard)
    status = 0
    for part in ("train", "valid", LISTEN):
        if part == LISTEN and not (args.sound / part).exists():
            continue
        folder = args.out / part
        folder.mkdir(parents=True, exist_ok=True)
        plan = []
        for source in sorted((args.sound / part).glob("*.json")):
            material = json.dumps([settings, part, hashlib.sha256(source.read_bytes()).hexdigest()])
            key = hashlib.sha256(material.encode()).hexdigest()[:32]
            plan.append((source, folder / f"shard-{source.stem}.safetensors", key))
        todo = [work for work in plan if finished(work[1], work[2]) is None]
        status |= run_shards(
            encode_shard, todo, functools.partial(_encode_means, args.codec, args.vocabulary), args.jobs
        )
        records = [record for _, path, key in plan if (record := finished(path, key))]
        write_index(folder, settings, records, complete=True)
        seconds = sum(record.frames for record in records) * 0.08
        print(f"{part}: {len(records)} shards, {seconds / 3600:.2f} h in {folder}")
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.tokens",
        description="Dialogues to token shards, for `aizuchi train moshi`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    vocabulary = commands.add_parser("vocabulary", help="train the text tokenizer on what the assistant says")
    vocabulary.add_argument("--out", type=Path, default=RUNS / "tokenizer.model", help="default %(default)s")
    vocabulary.add_argument(
        "--dialogues", type=int, default=20000, help="to learn from (default %(default)s)"
    )
    vocabulary.add_argument("--size", type=int, default=1500, help="ids, at most (default %(default)s)")
    vocabulary.set_defaults(run=train_vocabulary)
    sound = commands.add_parser("sound", help="mix and augment dialogues, as sound (resumable)")
    sound.add_argument("--out", type=Path, default=RUNS / "sound", help="folder (default %(default)s)")
    add_inputs(sound, "clips", "commands")
    sound.add_argument("--shards", type=int, default=60, help="of some 25 minutes (default %(default)s)")
    sound.add_argument("--valid", type=int, default=2, help="shards for validation (default %(default)s)")
    sound.add_argument(
        "--listen",
        type=int,
        default=0,
        help="shards of users to whom one only listens (default %(default)s)",
    )
    sound.add_argument("--seed", type=int, default=SEED, help="default %(default)s")
    sound.set_defaults(run=make_sounds)
    coded = commands.add_parser("encode", help="sound to token shards (resumable)")
    add_inputs(coded, "sound", "codec", "vocabulary")
    coded.add_argument("--out", type=Path, default=RUNS / "tokens", help="folder (default %(default)s)")
    coded.set_defaults(run=encode_sounds)
    for one in (sound, coded):
        one.add_argument(
            "--jobs", type=int, default=1, help="processes, one thread each (default %(default)s)"
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
