"""Figures that others have published, to stand beside ours. None of them was measured here.

They come from other data, other recognisers and other voices: they show the order of magnitude, not a rank.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A table of published figures.

    Attributes:
        title: what it shows.
        source: where it was published.
        columns: names, with an arrow for which way is better.
        rows: system -> figures; None where there is none.
        note: what a reader has to know.
        decimals: of the figures.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    note: str = ""
    decimals: int = 1


FULL_DUPLEX_BENCH = Published(
    "Full-Duplex-Bench v1.0",
    "README of the benchmark's repository (DanielLin94144/Full-Duplex-Bench), after arXiv 2503.04721",
    (
        "pause TOR ↓",
        "backchannel TOR ↓",
        "frequency 1/s ↑",
        "JSD ↓",
        "turn TOR ↑",
        "turn latency s ↓",
        "interruption TOR ↑",
        "interruption latency s ↓",
    ),
    {
        "PersonaPlex": (0.584, 0.327, 0.025, 0.649, 0.992, 0.070, 1.000, 0.400),
        "dGSLM": (0.934, 0.691, 0.015, 0.934, 0.975, 0.352, 0.917, 2.531),
        "Moshi": (0.985, 1.000, 0.001, 0.957, 0.941, 0.265, 1.000, 0.257),
        "Freeze-Omni": (0.642, 0.636, 0.001, 0.997, 0.336, 0.953, 0.867, 1.409),
        "Gemini Live 2.0": (0.255, 0.091, 0.012, 0.896, 0.655, 1.301, 0.891, 1.183),
        "GPT-Realtime": (0.010, 0.000, 0.007, 0.980, 1.000, 1.470, 0.970, 1.500),
    },
    "Pauses: the synthetic set. Turns: Candor. Backchannels: ICC. Interruptions: synthetic.",
    3,
)

DIALOGUE = Published(
    "Dialogue statistics",
    "Moshi, arXiv 2410.00037 (Fisher prompts; GT: people)",
    ("IPU s/min", "pause s/min", "gap s/min", "overlap s/min"),
    {
        "people (Fisher)": (51.1, 6.4, 4.2, 3.3),
        "Moshi, temperature 0.8": (35.1, 13.2, 12.5, 1.2),
        "Moshi, temperature 0.9": (44.7, 9.1, 7.5, 2.2),
        "Moshi, temperature 1.0": (50.8, 7.0, 4.5, 4.1),
    },
)

ANSWERS = Published(
    "Spoken questions, % right",
    "Moshi, arXiv 2410.00037",
    ("Web Questions ↑", "Llama Questions ↑", "TriviaQA ↑"),
    {
        "Moshi 7B": (26.6, 62.3, 22.8),
        "Moshi without inner monologue": (9.2, 21.0, 7.3),
        "SpeechGPT": (6.5, 21.6, 14.8),
        "Spectron": (6.1, 22.9, None),
    },
    "Open questions about the world: far harder than a small domain's.",
)

WORDS = Published(
    "Word errors, %",
    "Moshi, arXiv 2410.00037 (LibriSpeech test-clean, delay 2 s)",
    ("speech synthesis WER ↓", "recognition WER ↓"),
    {"Moshi as synthesizer and recogniser": (4.7, 5.7)},
)

LIKELIHOOD = Published(
    "Likelihood pairs, % right",
    "Moshi, arXiv 2410.00037",
    ("sWUGGY ↑", "sBLIMP ↑"),
    {"Moshi, audio only, cold": (74.8, 59.9), "Moshi, multi-stream instruct": (63.0, 55.2)},
)

CODECS = Published(
    "Neural codecs",
    "Moshi, arXiv 2410.00037",
    ("kb/s", "ViSQOL ↑", "MOSNet ↑", "MUSHRA ↑"),
    {
        "recording": (None, None, 3.08, 90.6),
        "Mimi, adversarial losses only": (1.1, 1.84, 3.10, 81.0),
        "Mimi, with reconstruction losses": (1.1, 2.82, 2.89, 58.8),
        "SemantiCodec": (None, 2.43, 3.12, 64.8),
        "SpeechTokenizer": (1.5, 1.53, 2.67, 45.1),
        "SpeechTokenizer, more codebooks": (4.0, 3.07, 3.10, 74.3),
        "RVQGAN": (None, 1.74, 2.74, 31.3),
    },
    "MUSHRA is people's judgement; ViSQOL does not follow it here.",
    2,
)

LATENCY = Published(
    "Latency, ms",
    "Moshi, arXiv 2410.00037",
    ("theoretical ↓", "in practice (L4) ↓"),
    {"Moshi 7B": (160, 200)},
    "From the model's frames; network and sound card are not in it.",
    0,
)
