"""The clip cache: users' utterances spoken once, kept as shards that later stages draw from.

A shard is one voice speaking a few dozen utterances: `<engine>/<voice>/<number>.flac`, the clips end to end at
24 kHz, and `<number>.json`, which says what each of them is and when its words are spoken. The JSON is written
last and whole, so a shard either is there or is not: a run that was stopped goes on where it stood. What a shard
holds follows from the seed, its voice and its number alone.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text
from recipes.mini.timing import RATE, Spoken, check_times
from recipes.mini.utterances import WEIGHTS, Utterance, draw
from recipes.mini.voices import (
    ASSISTANT,
    HeldOutVoiceError,
    draw_mix,
    get_voice,
    is_held_out,
    training_voices,
)

FORMAT = 1
CLIPS_PER_SHARD = 40
LISTENING = 10_000  # from this number on a shard holds words in any order, see `recipes.mini.listening`
MORE = 2  # times as many again, of phrases and of words in any order, in voices of flite, Pico and festival
SPEEDS = (0.85, 1.2)
_PADDING = np.zeros(RATE // 50, np.float32)  # between clips, so that a decoder's edge touches none


@dataclass(frozen=True)
class Shard:
    """One voice and the number of one of its shards."""

    voice: str
    number: int

    def path(self, folder: Path) -> Path:
        """Its JSON file; the audio lies beside it with the suffix .flac."""
        engine, _, speaker = self.voice.partition(":")
        return folder / engine / speaker / f"{self.number:05d}.json"


@dataclass(frozen=True)
class Clip:
    """Where one spoken utterance lies: `start` and `stop` are samples in `audio`."""

    utterance: Utterance
    voice: str
    speed: float
    audio: Path
    start: int
    stop: int
    words: tuple
    phones: tuple
    exact: bool
    name: str = ""  # "kokoro/af_sky/00003#12": its shard and its place there

    def read(self) -> Spoken:
        """The clip's audio and times."""
        audio, rate = soundfile.read(self.audio, start=self.start, stop=self.stop, dtype="float32")
        if rate != RATE or len(audio) != self.stop - self.start:
            raise AizuchiError(
                f"{self.audio} is damaged: samples {self.start} to {self.stop} can't be read at {RATE}"
            )
        return Spoken(audio, self.words, self.phones, self.exact)


# The voices that cost next to nothing, with how many of a round's shards each speaks.
_FAST = {
    ASSISTANT: 60,
    "pico:en-US": 16,
    "flite:rms": 14,
    "flite:slt": 10,
    "flite:kal16": 5,
    "festival:slt": 3,
}


def _fast_voices(first: int = 0) -> Iterator[Shard]:
    """Their shards, from number `first` on, those of every voice spread over the whole."""
    for number in range(max(_FAST.values())):
        for voice, shards in _FAST.items():
            if (number + 1) * shards // 60 > number * shards // 60:
                yield Shard(voice, first + number * shards // 60)


def _more_of_fast(first: int) -> Iterator[Shard]:
    """The same for other words, but for the assistant's voice."""
    return (shard for shard in _fast_voices(first) if shard.voice != ASSISTANT)


def plan(seed: int, rounds: int = 1000) -> Iterator[Shard]:
    """Shards in the order in which they are made: a spread over the cheap voices first, then Kokoro in rounds.

    Each Kokoro round is one shard of every plain voice and of ten new mixes, the next few rounds begin with other
    words of the cheap voices. The end is far away: the caller stops by size or by time.
    """
    yield from _fast_voices()
    rng, mixes = random.Random(f"{seed}/mixes"), defaultdict(int)
    for number in range(rounds):
        if 0 < number <= MORE:
            yield from _more_of_fast(100 * number)
        for voice in training_voices("kokoro"):
            yield Shard(voice, number)
        for _ in range(10):
            mix = draw_mix(rng)
            yield Shard(mix, mixes[mix])
            mixes[mix] += 1


def listening_plan(seed: int, rounds: int = 1000) -> Iterator[Shard]:
    """Shards of words in any order: the fast voices, those of whose engines there are few more of them, then Kokoro in
    rounds of every plain voice and ten new mixes.
    """
    yield from _fast_voices(LISTENING)
    for more in range(1, MORE + 1):
        yield from _more_of_fast(LISTENING + 100 * more)
    rng, mixes = random.Random(f"{seed}/listening"), defaultdict(int)
    for number in range(rounds):
        for voice in training_voices("kokoro"):
            yield Shard(voice, LISTENING + number)
        for _ in range(10):
            mix = draw_mix(rng)
            yield Shard(mix, LISTENING + mixes[mix])
            mixes[mix] += 1


def shard_utterances(shard: Shard, seed: int, size: int = CLIPS_PER_SHARD) -> list[tuple[Utterance, float]]:
    """What a shard says, with the speed of each clip: every kind by its weight, no text twice.

    One in twelve is a sentence of a long turn and one in twenty a backchannel. From number LISTENING on all are words
    in any order.
    """
    rng = random.Random(f"{seed}/{shard.voice}/{shard.number}")
    if shard.number >= LISTENING:
        return [(draw(rng, "mixed"), round(rng.uniform(*SPEEDS), 3)) for _ in range(size)]
    kinds = ["story"] * (size // 12) + ["backchannel"] * (size // 20)
    total, offset = sum(WEIGHTS.values()), rng.random()
    wanted = size - len(kinds)
    # systematic sampling: each kind as often as its weight says, up to one
    names, at = list(WEIGHTS), 0.0
    rng.shuffle(names)
    for name in names:
        before, at = at, at + WEIGHTS[name] / total * wanted
        kinds += [name] * (int(at + offset) - int(before + offset))
    rng.shuffle(kinds)
    said: set[str] = set()
    rows = []
    for kind in kinds:
        for _ in range(20):
            utterance = draw(rng, kind)
            if utterance.text not in said:
                break
        said.add(utterance.text)
        rows.append((utterance, round(rng.uniform(*SPEEDS), 3)))
    return rows


def make_shard(shard: Shard, folder: Path, seed: int, size: int = CLIPS_PER_SHARD) -> dict:
    """Speak and write one shard, unless it is there.

    Returns {"clips", "seconds", "bytes", "made"}: "made" is False when it was there already.

    Raises:
        HeldOutVoiceError: the voice is held out.
        AizuchiError: its engine is not installed.
    """
    if is_held_out(shard.voice):
        raise HeldOutVoiceError(f"voice {shard.voice} is held out: no training clips are made of it")
    path = shard.path(folder)
    if path.exists():
        return {"clips": 0, "seconds": 0.0, "bytes": 0, "made": False}
    voice = get_voice(shard.voice)
    spoken = (
        (utterance, speed, voice.speak(utterance.text, speed))
        for utterance, speed in shard_utterances(shard, seed, size)
    )
    return write_shard(shard, folder, seed, spoken)


def write_shard(
    shard: Shard, folder: Path, seed: int, spoken: Iterable[tuple[Utterance, float, Spoken]]
) -> dict:
    """Write a shard of utterances with their speeds and their sound; returns what `make_shard` does.

    A clip whose words or phones have times that can't be is left out: engines give some phone no time at all, once in
    hundreds of clips.

    Raises:
        AizuchiError: no clip is left.
    """
    parts, rows, at, failed = [], [], 0, ""
    for utterance, speed, clip in spoken:
        try:
            check_times(clip)
        except ValueError as error:
            failed = f"voice {shard.voice}, text {utterance.text!r}: {error}"
            continue
        parts += [clip.audio, _PADDING]
        rows.append(
            {
                **asdict(utterance),
                "speed": speed,
                "start": at,
                "stop": at + len(clip.audio),
                "exact": clip.exact,
                "words": clip.words,
                "phones": clip.phones,
            }
        )
        at += len(clip.audio) + len(_PADDING)
    if not rows:
        raise AizuchiError(failed or f"voice {shard.voice} has nothing to say")
    path = shard.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = path.with_suffix(".flac")
    with atomic_path(audio) as temporary:
        samples = np.clip(np.concatenate(parts), -1, 1)
        soundfile.write(temporary, samples, RATE, format="FLAC", subtype="PCM_16")
    head = {"format": FORMAT, "voice": shard.voice, "number": shard.number, "seed": seed, "rate": RATE}
    write_text(path, json.dumps({**head, "clips": rows}, ensure_ascii=False, separators=(",", ":")) + "\n")
    size_on_disk = audio.stat().st_size + path.stat().st_size
    return {"clips": len(rows), "seconds": at / RATE, "bytes": size_on_disk, "made": True}


def read_shard(path: Path) -> list[Clip]:
    """Clips of one shard by its JSON file.

    Raises:
        AizuchiError: an unknown format, or the audio is missing.
        HeldOutVoiceError: the shard is a held-out voice's; it has no place among training clips.
    """
    head = json.loads(path.read_text(encoding="utf-8"))
    if head.get("format") != FORMAT:
        raise AizuchiError(
            f"{path}: clip format {head.get('format')!r} is not {FORMAT}; make the clips again"
        )
    if is_held_out(head["voice"]):
        raise HeldOutVoiceError(f"{path}: voice {head['voice']} is held out: no training may hear it")
    audio = path.with_suffix(".flac")
    if not audio.exists():
        raise AizuchiError(f"{audio} is missing; remove {path.name} and make the clips again")
    clips = []
    for place, row in enumerate(head["clips"]):
        utterance = Utterance(row["kind"], row["text"], row["meaning"], tuple(row["pause_words"]))
        words = tuple((w, s, e) for w, s, e in row["words"])
        phones = tuple((p, s, e) for p, s, e in row["phones"])
        span = (row["start"], row["stop"])
        name = f"{path.parent.parent.name}/{path.parent.name}/{path.stem}#{place}"
        clip = Clip(utterance, head["voice"], row["speed"], audio, *span, words, phones, row["exact"], name)
        clips.append(clip)
    return clips


class ClipLibrary:
    """The clips of a folder, as it is now, by voice and kind."""

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, Clip] = {}
        self.by_voice: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(Path(folder).rglob("*.json")):
            for clip in read_shard(path):
                self.by_voice[clip.voice][clip.utterance.kind].append(clip)
                self._by_name[clip.name] = clip
        if not self.by_voice:
            raise AizuchiError(f"{folder} holds no clips; python -m recipes.mini.synthesize clips makes them")

    def by_name(self, name: str) -> Clip:
        """The clip that `Clip.name` names; AizuchiError if it is not here."""
        if name not in self._by_name:
            raise AizuchiError(f"clip {name} is not in the library; the script was written with other clips")
        return self._by_name[name]

    @property
    def voices(self) -> list[str]:
        return sorted(self.by_voice)

    def __len__(self) -> int:
        return sum(len(clips) for kinds in self.by_voice.values() for clips in kinds.values())
