"""The assistant's sentences spoken once, for places where nothing speaks: a folder laid out as the clip cache.

`recipes.mini.codec_data` draws from it what it would otherwise speak as it goes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from aizuchi.errors import AizuchiError
from recipes.mini.clips import CLIPS_PER_SHARD, Clip, Shard, read_shard, write_shard
from recipes.mini.utterances import Utterance
from recipes.mini.voices import ASSISTANT, get_assistant

KIND = "line"


def speak_lines(texts: Sequence[str], folder: Path) -> None:
    """Speak texts in the assistant's voice into shards, in their order; shards that say the same already are kept.

    Raises:
        AizuchiError: its engine is not installed; or the folder holds more than these texts.
    """
    wanted = [texts[i : i + CLIPS_PER_SHARD] for i in range(0, len(texts), CLIPS_PER_SHARD)]
    known = {Shard(ASSISTANT, number).path(folder) for number in range(len(wanted))}
    others = [path for path in _shards(folder) if path not in known]
    if others:
        raise AizuchiError(
            f"{others[0]} is not of these {len(texts)} lines: remove {folder}, or name another folder"
        )
    for number, said in enumerate(tqdm(wanted, unit="shard", desc="speaking")):
        shard = Shard(ASSISTANT, number)
        if _texts(shard.path(folder)) == list(said):
            continue
        voice = get_assistant()
        write_shard(shard, folder, 0, ((Utterance(KIND, text), 1.0, voice.speak(text)) for text in said))


def read_lines(folder: Path) -> dict[str, Clip]:
    """Spoken lines by their text, in the order in which they were spoken.

    Raises:
        AizuchiError: there are none, or they are in another voice than the assistant's.
    """
    clips = [clip for path in _shards(folder) for clip in read_shard(path)]
    if not clips:
        raise AizuchiError(
            f"{folder} holds no spoken lines; python -m recipes.mini.bundle pack lines makes them"
        )
    if strange := [clip for clip in clips if clip.voice != ASSISTANT]:
        raise AizuchiError(
            f"{folder} holds clips of {strange[0].voice}: lines are the assistant's, {ASSISTANT}"
        )
    return {clip.utterance.text: clip for clip in clips}


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def _texts(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [row["text"] for row in json.loads(path.read_text(encoding="utf-8"))["clips"]]
