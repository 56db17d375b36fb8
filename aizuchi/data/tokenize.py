"""Dialogues to token shards, once: training never encodes audio again.

Shards that are done are kept, one that was interrupted is redone, and what is damaged is redone too; one
process a shard. Nothing is written in place.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.data.alignments import Alignment, DataError, Problem, alignment_path
from aizuchi.data.augment import UserAugment
from aizuchi.data.codec import Codec, encode
from aizuchi.data.dialogues import Dialogue, Side, check_dialogue
from aizuchi.data.frames import MAIN_SPEAKER, MASKED, words_to_frames
from aizuchi.data.shards import (
    DialogueTokens,
    Record,
    ShardError,
    ShardFolder,
    finished,
    read_settings,
    remove_shards,
    write_index,
    write_shard,
)
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.data.workers import in_processes
from aizuchi.errors import AizuchiError

Report = Callable[[float], None]  # receives seconds of audio that are done


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """How dialogues become tokens.

    Attributes:
        keep_and_shift, audio_delay, speaker: as for `words_to_frames`.
        mono: which side a file with one channel is; None refuses it.
        need_words: a missing alignment is an error; otherwise its text is -1 (unknown) throughout.
        augment: of the user's side; None keeps it as recorded.
        copies: how many augmented variants of the user's side, beside the recorded one.
        seed: of the augmentation.
        shard_minutes: audio in a shard.
    """

    keep_and_shift: bool = False
    audio_delay: float = 0.0
    speaker: str = MAIN_SPEAKER
    mono: Side | None = None
    need_words: bool = True
    augment: UserAugment | None = None
    copies: int = 0
    seed: int = 0
    shard_minutes: float = 30.0

    def __post_init__(self) -> None:
        if self.copies < 0 or (self.copies > 0) != (self.augment is not None):
            raise AizuchiError("augment and copies go together: give both (copies at least 1) or none")
        if not self.shard_minutes > 0:
            raise AizuchiError(f"shard_minutes is {self.shard_minutes:g}; it must be above 0")


def tokenize(
    dialogues: Sequence[Dialogue],
    folder: str | os.PathLike[str],
    make_codec: Callable[[], Codec],
    tokenizer: TextTokenizer,
    options: TokenizeOptions | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    report: Report = lambda seconds: None,
) -> ShardFolder:
    """Turn dialogues into token shards, or finish a run that was interrupted.

    Args:
        dialogues: in the order in which they will lie.
        folder: made if it is not there.
        make_codec: gives the codec; called once in every process, so it must pickle if jobs is above 1.
        tokenizer: for the words; must pickle too.
        options: how.
        jobs: processes; 1 works in this one.
        overwrite: throw away what a run with other settings left in the folder.
        report: is told of progress, in seconds of audio.

    Returns:
        The finished folder.

    Raises:
        DataError: dialogues are wrong; all other shards are made before it is raised.
        ShardError: the folder was made with other settings, or another run is writing to it.
        OSError: the disk is full; what was done is kept.
    """
    options = options or TokenizeOptions()
    folder = Path(folder)
    _check_all(dialogues, options)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        codec = make_codec()
        settings = _settings(codec, tokenizer, options)
        _check_settings(folder, settings, overwrite)
        plan = _plan(dialogues, folder, settings, options)
        records: list[Record | None] = []
        for path, part, key in plan:
            records.append(finished(path, key))
            if records[-1]:
                report(_seconds(part))
        todo = [i for i, record in enumerate(records) if record is None]
        if todo:
            write_index(folder, settings, [], complete=False)
            work = [plan[i] for i in todo]
            if jobs > 1 and len(todo) > 1:
                del codec
                means = functools.partial(_means, make_codec, tokenizer, options)
                made = _in_processes(work, means, min(jobs, len(todo)), report)
            else:
                made = _in_turn(work, (codec, tokenizer, options), report)
            problems: list[Problem] = []
            for i, result in made:
                if isinstance(result, DataError):
                    problems += result.problems
                else:
                    records[todo[i]] = result
            if problems:
                raise DataError(problems)
        write_index(folder, settings, [record for record in records if record], complete=True)
        remove_shards(folder, keep={path.name for path, _, _ in plan})
    return ShardFolder(folder)


def tokenize_dialogue(
    dialogue: Dialogue, codec: Codec, tokenizer: TextTokenizer, options: TokenizeOptions
) -> DialogueTokens:
    """Encode one dialogue; raises DataError if its files are missing or wrong."""
    alignment = None
    if options.need_words or alignment_path(dialogue.audio).exists():
        alignment = dialogue.alignment()
    waves = dialogue.waves(options.mono)  # (2, S)
    rows = [waves[0], waves[1]]
    for copy in range(options.copies):
        assert options.augment is not None
        rng = np.random.default_rng([options.seed, copy, *dialogue.name.encode()])
        rows.append(options.augment(waves[1], waves[0], rng))
    codes = encode(codec, np.stack(rows))  # (2 + copies, K, F)
    frames = codes.shape[-1]
    return DialogueTokens(
        name=dialogue.name,
        text=_text(alignment, frames, tokenizer, options),
        model=np.ascontiguousarray(codes[0].T),
        user=np.ascontiguousarray(codes[1:].transpose(2, 0, 1)),
        text_conditions=alignment.text_conditions if alignment else {},
    )


def _text(
    alignment: Alignment | None, frames: int, tokenizer: TextTokenizer, options: TokenizeOptions
) -> np.ndarray:
    if alignment is None:
        return np.full(frames, MASKED, np.int32)
    return words_to_frames(
        alignment.words,
        frames,
        tokenizer,
        keep_and_shift=options.keep_and_shift,
        audio_delay=options.audio_delay,
        speaker=options.speaker,
    )


def _check_all(dialogues: Sequence[Dialogue], options: TokenizeOptions) -> None:
    """Fail in the first seconds and not after hours."""
    if not dialogues:
        raise AizuchiError("there are no dialogues to tokenize")
    problems = [
        problem
        for dialogue in dialogues
        for problem in check_dialogue(dialogue, options.mono, options.need_words)
        if problem.fatal
    ]
    if problems:
        raise DataError(problems)


def _settings(codec: Codec, tokenizer: TextTokenizer, options: TokenizeOptions) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    del values["shard_minutes"]
    settings = {
        "codec": codec.fingerprint(),
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
        "tokenizer": tokenizer.fingerprint(),
        "variants": 1 + options.copies,
        **values,
    }
    return json.loads(json.dumps(settings))  # as it will be read back: tuples become lists


def _check_settings(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Refuse a folder whose shards were made with other settings, or clear it."""
    before = read_settings(folder)
    if before is None or before == settings:
        return
    if overwrite:
        remove_shards(folder)
        return
    changed = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
    shown = ", ".join(f"{name} {before.get(name)!r}, now {settings.get(name)!r}" for name in changed[:3])
    raise ShardError(
        f"{folder} was made with other settings ({shown}): name another folder, or overwrite this one"
    )


def _plan(
    dialogues: Sequence[Dialogue], folder: Path, settings: dict[str, Any], options: TokenizeOptions
) -> list[tuple[Path, list[Dialogue], str]]:
    """Which dialogues go to which shard, in order, and a hash of all that the shard depends on."""
    groups: list[list[Dialogue]] = []
    for dialogue in dialogues:
        if not groups or _seconds(groups[-1]) + dialogue.duration > 60 * options.shard_minutes:
            groups.append([])
        groups[-1].append(dialogue)
    plan = []
    for number, group in enumerate(groups):
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for dialogue in group:
            stat, words = dialogue.audio.stat(), alignment_path(dialogue.audio)
            digest.update(json.dumps([dialogue.name, stat.st_size, stat.st_mtime_ns]).encode())
            digest.update(words.read_bytes() if words.exists() else b"-")
        plan.append((folder / f"shard-{number:05}.safetensors", group, digest.hexdigest()[:32]))
    return plan


def _seconds(part: Sequence[Dialogue]) -> float:
    return sum(dialogue.duration for dialogue in part)


Work = tuple[Path, list[Dialogue], str]
Means = tuple[Codec, TextTokenizer, TokenizeOptions]
Made = Iterator[tuple[int, Record | DataError]]


def _make(work: Work, means: Means, report: Report = lambda seconds: None) -> Record | DataError:
    """One shard, or what is wrong with its dialogues (all of it, and other shards go on)."""
    path, part, key = work
    tokens, problems = [], []
    for dialogue in part:
        try:
            tokens.append(tokenize_dialogue(dialogue, *means))
        except DataError as error:
            problems += error.problems
        report(dialogue.duration)
    return DataError(problems) if problems else write_shard(path, tokens, key)


def _in_turn(work: list[Work], means: Means, report: Report) -> Made:
    for i, one in enumerate(work):
        yield i, _make(one, means, report)


def _in_processes(work: list[Work], make_means: Callable[[], Means], jobs: int, report: Report) -> Made:
    for i, result in in_processes(_make, work, make_means, jobs):
        yield i, result
        report(_seconds(work[i][1]))


def _means(make_codec: Callable[[], Codec], tokenizer: TextTokenizer, options: TokenizeOptions) -> Means:
    return make_codec(), tokenizer, options


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this run alone; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are then the user's to avoid
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"another run is writing to {folder}") from error
        _remove_leftovers(folder)  # of a run that was killed
        try:
            yield
        finally:  # workers that were ended leave theirs
            _remove_leftovers(folder)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink(missing_ok=True)
