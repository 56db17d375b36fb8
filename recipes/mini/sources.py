"""What users of training dialogues say, from audio that exists: the clip cache, and recorded commands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import soundfile

from aizuchi.audio import read_audio
from aizuchi.errors import AizuchiError
from recipes.mini import phrasings
from recipes.mini.clips import Clip, ClipLibrary
from recipes.mini.dialogues import FreshSource, NoUtterance, Said
from recipes.mini.heard import plain
from recipes.mini.splices import spliceable, spoken_words
from recipes.mini.timing import RATE, Spoken, sound_edges, trim
from recipes.mini.utterances import WEIGHTS, Utterance, draw, draw_kind, draw_story
from recipes.mini.voices import ASSISTANT, draw_factor

RECORDED = "recorded"  # the voice of real recordings: a different person at each turn
# By time: Kokoro, resampled hibari, the older engines, recorded commands.
SPLICED = "spliced"  # what the clips of such utterances are called
SPLICED_SHARE = 0.6  # of the users whose words can be cut
SHARES = {"kokoro": 55, "hibari": 20, "classic": 15, RECORDED: 10}


class ClipSource:
    """Utterances of one voice of the library, none twice in a dialogue."""

    def __init__(self, rng: random.Random, library: ClipLibrary, voice: str, factor: float) -> None:
        self.rng, self.voice, self.factor = rng, voice, factor
        self.kinds = library.by_voice[voice]
        self._used: set[str] = set()

    def say(self, kind: str | None = None, openers: Sequence[str] = ()) -> Said:
        """See `recipes.mini.dialogues.Source`; raises NoUtterance if the voice never said anything of the kind."""
        if kind is None:
            kinds = [k for k in WEIGHTS if self.kinds.get(k)]
            if not kinds:
                raise NoUtterance("phrase")
            kind = self.rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
        clips = self.kinds.get(kind, [])
        if openers:
            clips = [clip for clip in clips if clip.utterance.text.startswith(tuple(openers))]
        return self._take(clips, kind)

    def story(self) -> list[Said]:
        """See `recipes.mini.dialogues.Source`."""
        clips = self.kinds.get("story", [])

        def part(lines: tuple[str, ...]) -> list[Clip]:
            return [clip for clip in clips if clip.utterance.text in lines]

        told = [self._take(part(phrasings.STORY_STARTS + phrasings.STORY_MIDDLES), "story")]
        for _ in range(self.rng.randint(1, 2)):
            told.append(self._take(part(phrasings.STORY_MIDDLES), "story"))
        return told

    def _take(self, clips: list[Clip], kind: str) -> Said:
        fresh = [clip for clip in clips if clip.utterance.text not in self._used]
        if not fresh:
            raise NoUtterance(kind)
        clip = self.rng.choice(fresh)
        said = clip.utterance
        self._used.add(said.text)
        if not clip.exact and said.pause_words:  # a pause needs to know where the words end
            said = Utterance(said.kind, said.text, said.meaning)
        return Said(said, clip.speed, clip.name)


class SplicedSource:
    """Fresh utterances, put together from words that a voice said in others; see `recipes.mini.splices`."""

    def __init__(self, rng: random.Random, library: ClipLibrary, voice: str, factor: float) -> None:
        self.rng, self.voice, self.factor = rng, voice, factor
        self.words = spoken_words(library, voice.split(":")[0])

    def say(self, kind: str | None = None, openers: Sequence[str] = ()) -> Said:
        """See `recipes.mini.dialogues.Source`; raises NoUtterance if the words are nobody's."""
        for _ in range(10):
            utterance = draw(self.rng, kind or draw_kind(self.rng), openers=openers)
            if self._known(utterance):
                return self._said(utterance)
        raise NoUtterance(kind or "phrase")

    def story(self) -> list[Said]:
        """See `recipes.mini.dialogues.Source`."""
        told = [sentence for sentence in draw_story(self.rng) if self._known(sentence)]
        if not told:
            raise NoUtterance("story")
        return [self._said(sentence) for sentence in told]

    def _known(self, utterance: Utterance) -> bool:
        return all(plain(word) in self.words for word in utterance.text.split())

    def _said(self, utterance: Utterance) -> Said:
        return Said(utterance, 1.0, f"{SPLICED}/{self.rng.randrange(1 << 30)}")


class RecordedSource:
    """Recorded requests without transcripts; every one gets a fallback line."""

    voice, factor = RECORDED, 1.0

    def __init__(self, rng: random.Random, files: list[Path]) -> None:
        self.rng, self.files = rng, rng.sample(files, len(files))

    def say(self, kind: str | None = None, openers: Sequence[str] = ()) -> Said:
        if kind not in (None, "other") or openers or not self.files:
            raise NoUtterance(kind or "other")
        return Said(Utterance("other", ""), 1.0, str(self.files.pop()))

    def story(self) -> list[Said]:
        raise NoUtterance("story")


def recordings(folder: Path, held_out: bool = False) -> list[Path]:
    """Recorded commands for training, or, with `held_out`, the fifth that is kept for evaluation.

    The split goes by a hash of the file's name. An empty list if the folder is not there.
    """
    files = sorted(folder.glob("*.flac")) if folder.exists() else []
    return [f for f in files if is_held_out_recording(f) is held_out]


def is_held_out_recording(path: Path) -> bool:
    """Whether no training may hear this recording."""
    return hashlib.blake2b(path.name.encode(), digest_size=4).digest()[0] % 5 == 0


@lru_cache(maxsize=512)
def read_recording(path: str) -> Spoken:
    """A recording as a clip with one nameless word over its sound; at most 12 s of it.

    Raises AizuchiError if it is held out.
    """
    if is_held_out_recording(Path(path)):
        raise AizuchiError(f"{path} is held out: no training may hear it")
    audio = read_audio(path)[0][: 12 * RATE]
    start, end = sound_edges(audio, threshold=0.05)
    return trim(Spoken(audio, (("", start, end),), (), exact=False))


def draw_source(
    rng: random.Random,
    library: ClipLibrary | None,
    files: list[Path],
    fresh_hibari: bool = True,
    listening: bool = False,
    splices: float = SPLICED_SHARE,
):
    """A user for a dialogue, by SHARES; what is not there gives its share to the rest.

    Args:
        rng: draws voice and factor.
        library: the clip cache; None leaves hibari, spoken on the fly.
        files: recorded commands for training.
        listening: voices that only ever said words in any order will do.
        splices: share of the users of the clip cache who say fresh utterances, put together from their words.
        fresh_hibari: speak hibari users on the fly, all words fresh, even if the library has clips of it.
    """
    groups: dict[str, list[str]] = {"kokoro": [], "hibari": [ASSISTANT], "classic": [], RECORDED: [RECORDED]}
    if not files:
        del groups[RECORDED]
    for voice in library.voices if library else []:
        engine = voice.split(":")[0]
        if engine != "hibari" and (listening or not library or WEIGHTS.keys() & library.by_voice[voice]):
            groups["kokoro" if engine == "kokoro" else "classic"].append(voice)
    groups = {name: voices for name, voices in groups.items() if voices}
    group = rng.choices(list(groups), [SHARES[name] for name in groups])[0]
    if group == RECORDED:
        return RecordedSource(rng, files)
    voices = groups[group]
    # by the number of clips, so that a voice with few of them is not heard over and over
    weights = [_count(library, v, listening) ** 0.5 if library else 1 for v in voices]
    voice = rng.choices(voices, weights)[0] if group != "hibari" else ASSISTANT
    factor = draw_factor(rng, voice)
    if group == "hibari" and (fresh_hibari or library is None or ASSISTANT not in library.by_voice):
        return FreshSource(rng, voice, factor)
    if voice in spliceable(library, voice.split(":")[0]) and rng.random() < splices:
        return SplicedSource(rng, library, voice, factor)
    return ClipSource(rng, library, voice, factor)


def _count(library: ClipLibrary, voice: str, listening: bool) -> int:
    """Clips of a voice; those of words in any order count where one only listens."""
    return sum(len(clips) for kind, clips in library.by_voice[voice].items() if listening or kind != "mixed")


def seconds_of(files: list[Path]) -> float:
    """Length of the recordings together."""
    return sum(soundfile.info(f).duration for f in files)
