"""Stand-ins: a synthesizer whose words are noise bursts, a recogniser that hears them, scripted systems."""

import numpy as np

from aizuchi.evaluate.recognize import Heard
from aizuchi.evaluate.synthesize import Speech
from aizuchi.evaluate.systems import Reply
from aizuchi.evaluate.vad import EnergyDetector
from aizuchi.transcript import Word

RATE = 24_000
WORD, SPACE = 0.25, 0.05


def bursts(times, seconds, seed=0):
    """A wave of noise at each (start, end)."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(round(seconds * RATE), np.float32)
    for start, end in times:
        piece = slice(round(start * RATE), round(end * RATE))
        wave[piece] = rng.uniform(0.2, 0.4) * np.sign(rng.normal(size=len(wave[piece])))
    return wave


def word_times(count, start=0.0):
    return [(start + i * (WORD + SPACE), start + i * (WORD + SPACE) + WORD) for i in range(count)]


class BurstSynthesizer:
    name = "bursts"

    def __call__(self, text, seed=0):
        times = word_times(len(text.split()))
        words = [Word(word, start, end) for word, (start, end) in zip(text.split(), times)]
        return Speech(bursts(times, times[-1][1], seed), words)


class BurstRecognizer:
    """Each burst is a word."""

    name = "bursts"

    def __call__(self, wave, rate):
        words = [Word("word", a, b) for a, b in EnergyDetector(bridge=0.02)(wave, rate)] if wave.any() else []
        return Heard(" ".join(w.text for w in words), words)


class ScriptedSystem:
    """Says what `script(user)` lists as (start, end) of bursts."""

    def __init__(self, script, name="scripted"):
        self.name, self.script = name, script
        self.asked = 0

    def reply(self, user):
        self.asked += 1
        times = self.script(user)
        return Reply(bursts(times, len(user) / RATE, seed=1), [Word("word", a, b) for a, b in times])
