"""Tiny models and dialogues that the training tests share; also a script that trains one (see `main`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from aizuchi.train.config import build, load_config, to_dict
from aizuchi.train.moshi import MoshiTrainer
from aizuchi.train.moshi_config import MoshiTraining
from aizuchi.train.start import make_model
from aizuchi.train.tokens import TokenDialogue, TokenList

MIMI = dict(
    hidden_size=16,
    num_filters=4,
    upsampling_ratios=[8, 6, 5, 4],
    codebook_size=32,
    codebook_dim=8,
    vector_quantization_hidden_dimension=8,
    num_quantizers=4,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=32,
    upsample_groups=16,
)
MODEL = dict(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=96,
    num_codebooks=4,
    sliding_window=64,
    audio_encoder_config=MIMI,
    depth_decoder_config=dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, ffn_dim=48),
)


def dialogues(count=8, frames=24, seed=0, codebooks=4, codes=32, vocab=40):
    """Random dialogues, no two of one length; half of the text is padding."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        length = frames + n % 5
        text = np.where(rng.random(length) < 0.5, 3, rng.integers(4, vocab, length))
        made.append(
            TokenDialogue(
                text.astype(np.int32),
                rng.integers(0, codes, (codebooks, length)).astype(np.int16),
                rng.integers(0, codes, (codebooks, length)).astype(np.int16),
            )
        )
    return made


def texts(count=3, tokens=60, seed=5, vocab=40):
    """Text alone."""
    rng = np.random.default_rng(seed)
    none = np.zeros((0, tokens), np.int16)
    return [TokenDialogue(rng.integers(4, vocab, tokens).astype(np.int32), none, none) for _ in range(count)]


def config_of(output, **changes):
    """A run's configuration; sections are merged key by key."""
    values = dict(
        output=str(output),
        model=MODEL,
        data=dict(frames=20),
        optimizer=dict(learning_rate=1e-2, depth_learning_rate=2e-2),
        schedule=dict(warmup=2),
        steps=6,
        batch_size=4,
        micro_batch_size=2,
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
    return build(MoshiTraining, values)


def trainer_of(config, train=None, valid=None):
    """A trainer on dialogues in memory."""
    torch.set_num_threads(1)
    train = dialogues() if train is None else train
    return MoshiTrainer(
        config,
        make_model(config),
        [(TokenList(train), 1.0)],
        [(TokenList(valid), 1.0)] if valid else [],
        texts=[(TokenList(texts()), 1.0)] if config.text_only is not None else [],
    )


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d")


def start(config, folder, launcher=(), **environment):
    """Begin a run in a process of its own; its configuration is written to ``folder``."""
    path = Path(folder) / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    environment = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        **environment,
    }
    command = [sys.executable, *launcher, __file__, str(path)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def launch(config, folder, **environment):
    """Run on two processes; returns what they printed."""
    process = start(config, folder, (*TORCHRUN, "--rdzv-endpoint=localhost:0"), **environment)
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        process.terminate()  # torchrun ends its workers
    assert process.returncode == 0, output
    return output


def main() -> None:
    """``python tiny.py CONFIG.yaml [key=value ...]``: train on `dialogues()`, as a process that a test may kill."""
    trainer = trainer_of(load_config(MoshiTraining, sys.argv[1], sys.argv[2:]), valid=dialogues(3, seed=9))
    own = [p for n, p in trainer.plain.named_parameters() if not n.startswith("audio_encoder.")]
    held = sum((p.to_local() if trainer.sharded else p).numel() for p in own) / sum(p.numel() for p in own)
    print(f"holds {held:.2f} of the weights")
    trainer.run()


if __name__ == "__main__":
    main()
