"""A tiny codec, and sounds that need no files; as a script, a run that a test may kill."""

from __future__ import annotations

import sys

import numpy as np
import torch

from aizuchi.train.config import build, load_config
from aizuchi.train.mimi import MimiTrainer
from aizuchi.train.mimi_config import MimiTraining
from aizuchi.train.mimi_start import make_codec

MODEL = dict(
    hidden_size=16,
    num_filters=4,
    codebook_size=16,
    codebook_dim=8,
    vector_quantization_hidden_dimension=8,
    num_quantizers=4,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    layer_scale_initial_scale=0.1,
)


class Tones:
    """Harmonic tones that change at random times; the label of a frame is which of 6 pitches it has."""

    def draw(self, position, samples, generator):
        pitches = np.repeat(generator.integers(0, 6, samples // 1920 // 2 + 1), 2 * 1920)[:samples]
        phase = 2 * np.pi * np.cumsum(120 * 1.3**pitches) / 24000
        wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * 0.15
        return (wave + 0.003 * generator.standard_normal(samples)).astype(np.float32), pitches[960::1920]


def config_of(output, **changes):
    values = dict(
        output=str(output),
        model=MODEL,
        data=dict(seconds=0.64),
        loss=dict(windows=[512, 256], bands=32),
        quantizer=dict(init_batches=2, decay=0.9, start=1),
        optimizer=dict(learning_rate=1e-2),
        schedule=dict(warmup=2),
        steps=6,
        batch_size=4,
        log_every=1,
        save_every=2,
        eval_every=0,
        # what a user leaves as it is, too, where it comes to the same
        device="cpu" if torch.accelerator.is_available() else "auto",
        tensorboard=False,
    )
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **value} if both else value
    return build(MimiTraining, values)


def trainer_of(config, source=None, valid=None):
    torch.set_num_threads(1)
    return MimiTrainer(config, make_codec(config), source or Tones(), valid or Tones())


if __name__ == "__main__":
    trainer_of(load_config(MimiTraining, sys.argv[1], sys.argv[2:])).run()
