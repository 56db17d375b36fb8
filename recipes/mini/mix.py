"""Scripts to audio: place both sides' clips on the time axis, with the exact times of all words.

The left channel is the model, the right one the user, 24 kHz, clean: no noise but the sounds of the script, no
echo. `aizuchi.data.augment` dirties the user's channel afresh each time the audio is used.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from aizuchi.data.dialogues import write_dialogue
from aizuchi.data.frames import MAIN_SPEAKER, USER_SPEAKER, SpokenWord
from aizuchi.files import write_text
from recipes.mini.clips import ClipLibrary
from recipes.mini.dialogues import NoUtterance, Source, write_script
from recipes.mini.grid import FRAME
from recipes.mini.listening import write_listening
from recipes.mini.script import Event, Script
from recipes.mini.sounds import make_sound
from recipes.mini.sources import RECORDED, SPLICED, draw_source, read_recording
from recipes.mini.splices import spliced, spoken_text
from recipes.mini.timing import (
    RATE,
    USER_LEVEL,
    Span,
    Spoken,
    cut_short,
    insert_pause,
    level,
    resample,
    shift,
)
from recipes.mini.voices import check_user, get_assistant, get_voice

FORMAT = 1
SPLICED_LISTENING = 0.7  # share of listening that is spliced from clips
SOUND_PEAK = 0.5


@dataclass
class Mixed:
    """A spoken dialogue.

    Attributes:
        script: what it was made from.
        audio: (2, samples) float32 at 24 kHz; row 0 the model, row 1 the user.
        words: of both sides, by start; the model's carry SPEAKER_MAIN.
        phones: (phone, start, end) of the model.
        times: (start, end) of each event, in seconds: of its words, or of the sound.
    """

    script: Script
    audio: np.ndarray
    words: list[SpokenWord]
    phones: list[Span]
    times: list[tuple[float, float]] = field(default_factory=list)

    @property
    def duration(self) -> float:
        return self.audio.shape[1] / RATE

    def write(self, path: Path) -> None:
        """Write the stereo file, its alignment beside it, and `<name>.events.json`: phones, events, script."""
        events = [
            {"id": e.id, "side": e.side, "kind": e.kind, "text": e.text, "start": start, "end": end}
            for e, (start, end) in zip(self.script.events, self.times)
        ]
        extra = {"format": FORMAT, "phones": self.phones, "events": events, "script": asdict(self.script)}
        write_text(path.with_suffix(".events.json"), json.dumps(extra, ensure_ascii=False) + "\n")
        write_dialogue(path, self.audio[0], self.audio[1], self.words)


@lru_cache(maxsize=6000)
def speak_assistant(text: str) -> Spoken:
    """The model's voice; common lines are kept."""
    return get_assistant().speak(text)


def speak_user(event: Event, script: Script, library: ClipLibrary | None) -> Spoken:
    """The clip of a user's turn: from the library, a recording, or on the fly; resampled, paused, levelled."""
    if script.voice == RECORDED:
        return level(read_recording(event.clip or ""), USER_LEVEL + event.gain)
    check_user(script.voice, script.factor)
    if event.clip is not None:
        if library is None:
            raise ValueError(f"library: event {event.id} wants clip {event.clip}, but there is none")
        if event.clip.startswith(f"{SPLICED}/"):
            rng = random.Random(f"{event.clip}/{event.text}")
            spoken = spoken_text(rng, library, script.voice, event.text)
        else:
            spoken = library.by_name(event.clip).read()
    else:
        spoken = get_voice(script.voice).speak(event.text, event.speed)
    spoken = resample(spoken, script.factor)
    for word, seconds in event.pauses:
        spoken = insert_pause(spoken, word, seconds)
    return level(spoken, USER_LEVEL + event.gain)


def render(script: Script, library: ClipLibrary | None = None) -> Mixed:
    """Speak a script. The same script and library give the same audio (but for the engine Pico).

    Raises:
        HeldOutVoiceError: the user's voice is held out.
        ValueError: an event refers to what is not there.
    """
    script.check()
    times: list[tuple[float, float]] = []
    clips: list[Spoken] = []
    for event in script.events:
        if event.side == "room":
            digest = hashlib.blake2b(f"{script.seed}/{event.id}".encode(), digest_size=8).digest()
            sound = make_sound(event.text, np.random.default_rng(int.from_bytes(digest, "little")))
            scale = SOUND_PEAK * 10 ** (event.gain / 20)
            clip = Spoken(sound * scale, (("", 0.0, len(sound) / RATE),))
        elif event.side == "model":
            clip = speak_assistant(event.text)
        else:
            clip = speak_user(event, script, library)
        first, last = clip.words[0][1], clip.words[-1][2]
        at = event.gap
        if event.after is not None:
            start, end = times[event.after]
            at += start + (end - start) * event.fraction
        if event.side == "model":
            at = on_grid(at - first) + first
        times.append((at, at + last - first))
        clips.append(clip)
    for event in script.events:
        if event.cut_by is not None:
            start, end = times[event.id]
            stop = times[event.cut_by][0] + event.cut_lag
            if stop < end:
                lead = clips[event.id].words[0][1]
                clips[event.id] = cut_short(clips[event.id], stop - start + lead)
                times[event.id] = (start, stop)
    return _assemble(script, clips, times)


def on_grid(seconds: float, rounded: Callable[[float], int] = round) -> float:
    """A time at which a frame of the codec begins, where the assistant's clips have to."""
    return rounded(round(seconds * RATE / FRAME, 3)) * FRAME / RATE


def _assemble(script: Script, clips: list[Spoken], times: list[tuple[float, float]]) -> Mixed:
    early = min([0.0, *(start - clip.words[0][1] for clip, (start, _) in zip(clips, times) if clip.words)])
    early = -on_grid(-early, math.ceil)
    times = [(round(start - early, 4), round(end - early, 4)) for start, end in times]
    length = max((end for _, end in times), default=0.0) + script.tail
    audio = np.zeros((2, round(length * RATE)), np.float32)
    words: list[SpokenWord] = []
    phones: list[Span] = []
    for event, clip, (start, _) in zip(script.events, clips, times):
        offset = start - (clip.words[0][1] if clip.words else 0.0)
        if event.side == "model":
            offset = on_grid(offset)
        row, at = 0 if event.side == "model" else 1, max(0, round(offset * RATE))
        part = clip.audio[: audio.shape[1] - at]
        audio[row, at : at + len(part)] += part
        speaker = MAIN_SPEAKER if event.side == "model" else USER_SPEAKER
        words += [SpokenWord(w, s, e, speaker) for w, s, e in shift(clip.words, offset) if w]
        if event.side == "model":
            phones += shift(clip.phones, offset)
    words.sort(key=lambda w: w.start)
    return Mixed(script, np.clip(audio, -1, 1), words, sorted(phones, key=lambda p: p[1]), times)


def mixed_dialogue(
    number: int,
    seed: int,
    library: ClipLibrary | None,
    files: list[Path],
    source: Source | None = None,
    late: float = 0.0,
) -> Mixed:
    """Dialogue `number` of the endless list that a seed and a library define; `late` as for `write_script`."""
    name = f"{seed}/{number}"
    source = source or draw_source(random.Random(f"user/{name}"), library, files)
    return render(write_script(name, source, late=late), library)


def mixed_listening(number: int, seed: int, library: ClipLibrary | None) -> Mixed:
    """Number `number` of an endless list of users who speak while the model listens, see `recipes.mini.listening`."""
    name = f"{seed}/{number}"
    for attempt in itertools.count():
        rng = random.Random(f"listening/{name}/{attempt}")
        source = draw_source(rng, library, [], listening=True, splices=0)
        try:
            if rng.random() < SPLICED_LISTENING and library is not None:
                audio, words = spliced(rng, library, source.voice, source.factor)
                script = Script(name, source.voice, source.factor)
                return Mixed(script, np.stack([np.zeros_like(audio), audio]), words, [])
            return render(write_listening(name, source), library)
        except NoUtterance:
            continue
    raise AssertionError


def mixed_dialogues(
    seed: int,
    library: ClipLibrary | None = None,
    files: list[Path] | None = None,
    start: int = 0,
    step: int = 1,
) -> Iterator[Mixed]:
    """Dialogues `start`, `start + step`, ... without end, made as they are asked for.

    Several workers share the list by `start` = their number and `step` = how many they are.
    """
    number = start
    while True:
        yield mixed_dialogue(number, seed, library, files or [])
        number += step
