"""Training speed on random weights and random tokens: tokens a second, memory, and how long it waits for its data.

    python -m benchmarks.train --preset 7b --device cuda            LoRA on Moshiko's size, as moshi-finetune runs it
    python -m benchmarks.train --preset mini --device cpu --full    all weights of the mini size

The run is `aizuchi train moshi`'s own, on token shards that are written for it. moshi-finetune's published figures are
for one H100: batches of 16 rows of 100 seconds, rank 128, gradient checkpointing.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

PUBLISHED = {"tokens_per_second": 12_000, "peak_gigabytes": 39.6, "on": "one H100, moshi-finetune's README"}
FRAME_RATE = 12.5


def write_shards(folder: Path, config: Any, frames: int, dialogues: int, seed: int = 0) -> None:
    """Random dialogues of ``frames``; two thirds of their text is padding."""
    from aizuchi.data.shards import DialogueTokens, write_index, write_shard

    rng = np.random.default_rng(seed)
    k = config.num_codebooks
    folder.mkdir()
    made = []
    for n in range(dialogues):
        text = np.where(rng.random(frames) < 0.65, 3, rng.integers(4, config.vocab_size, frames))
        codes = rng.integers(0, config.audio_vocab_size, (2, frames, k)).astype(np.int16)
        made.append(DialogueTokens(f"{n}.wav", text.astype(np.int32), codes[0], codes[1][:, None]))
    records = [write_shard(folder / "shard-00000.safetensors", made, "random")]
    settings = {"codebooks": k, "variants": 1, "codebook_size": config.audio_vocab_size}
    write_index(folder, settings, records, complete=True)


def make_trainer(args: argparse.Namespace, folder: Path) -> Any:
    """A trainer of the run that the arguments ask for."""
    from aizuchi.models.adapters import add_adapters
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.presets import preset_config
    from aizuchi.train.config import build
    from aizuchi.train.moshi import MoshiTrainer
    from aizuchi.train.moshi_config import MoshiTraining
    from aizuchi.train.tokens import open_sources

    frames = round(args.seconds * FRAME_RATE)
    model_config = preset_config(args.preset)
    write_shards(folder / "tokens", model_config, 3 * frames, max(4, args.batch))
    values = dict(
        output=str(folder / "run"),
        checkpoint="random",  # not loaded: the model is drawn here
        data=dict(train=str(folder / "tokens"), frames=frames, workers=args.workers),
        lora=None if args.full else dict(rank=args.rank),
        steps=args.steps,
        batch_size=args.batch,
        micro_batch_size=args.micro or args.batch,
        precision=args.precision,
        gradient_checkpointing=not args.no_checkpointing,
        device="cpu" if args.device == "cpu" else "auto",
        log_every=1,
        save_every=0,
        eval_every=0,
        tensorboard=False,
    )
    config = build(MoshiTraining, values)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if args.full or args.precision == "fp32" else torch.bfloat16)
    try:
        with torch.device(args.device):
            model = MoshiForConditionalGeneration(model_config)
    finally:
        torch.set_default_dtype(before)
    if not args.full:
        add_adapters(model, args.rank)
    return MoshiTrainer(config, model, open_sources(config.data.train))


def reading_rate(trainer: Any, seconds: float = 2.0) -> float:
    """Frames a second that one process reads from the shards when nothing is trained."""
    frames, step, begin = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        frames += sum(int(batch.lengths.sum()) for batch in trainer.batches[step])
        step += 1
    return frames / elapsed


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run, and return what was measured: medians over all steps but the first two."""
    from aizuchi.train.logs import read_log

    trainer = make_trainer(args, folder)
    columns = 1 + trainer.plain.config.num_generated_codebooks
    reading = reading_rate(trainer) * columns
    cuda = torch.device(args.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.run()
    rows = read_log(folder / "run/log.csv")[2:]

    def middle(name: str) -> float:
        return float(np.median([float(row[name]) for row in rows]))

    parameters = [p for n, p in trainer.plain.named_parameters() if not n.startswith("audio_encoder.")]
    return {
        "machine": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "threads": None if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in parameters),
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "tokens_per_second": middle("tokens_per_second"),
        "matmul_fraction": middle("matmul_fraction"),
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "waiting_for_data": middle("waiting_for_data"),
        "reading_tokens_per_second": reading,
        "reading_over_training": reading / middle("tokens_per_second"),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="7b", help="7b (default), 1b, mini")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--full", action="store_true", help="train all weights instead of adapters")
    parser.add_argument("--rank", type=int, default=128, help="of the adapters (default 128)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step (default 16)")
    parser.add_argument("--micro", type=int, help="rows at once (default: all)")
    parser.add_argument("--seconds", type=float, default=100.0, help="of a row (default 100)")
    parser.add_argument("--steps", type=int, default=12, help="the first two do not count (default 12)")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--workers", type=int, default=0, help="processes that read ahead (default 0)")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args(argv)
    if args.steps < 3:
        parser.error("--steps must be at least 3")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --preset mini shows that it runs")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    result["settings"] = vars(args)
    result["published"] = PUBLISHED
    print(json.dumps(result, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
