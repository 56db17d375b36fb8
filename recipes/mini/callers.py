"""The held-out voices as users of scenarios: `aizuchi eval scenarios DIR --user recipes.mini.callers:nova ...`."""

from __future__ import annotations

from functools import partial

import numpy as np

from aizuchi.evaluate.synthesize import Speech
from aizuchi.transcript import Word
from recipes.mini.voices import get_voice


class Caller:
    """A voice of `recipes.mini.voices`, held out or not, as a `Synthesizer`."""

    def __init__(self, voice: str) -> None:
        self.name = voice
        self._voice = get_voice(voice, held_out=True)

    def __call__(self, text: str, seed: int = 0) -> Speech:
        """Say a text. These voices draw nothing: the seed changes nothing."""
        spoken = self._voice.speak(text)
        return Speech(np.asarray(spoken.audio, np.float32), [Word(*word) for word in spoken.words])


nova, liam = partial(Caller, "kokoro:af_nova"), partial(Caller, "kokoro:am_liam")
emma, george = partial(Caller, "kokoro:bf_emma"), partial(Caller, "kokoro:bm_george")
awb, pico = partial(Caller, "flite:awb"), partial(Caller, "pico:en-GB")
