"""What fewer bits of weights cost a trained model: likelihood of held-out dialogues, and tokens that change.

    python -m benchmarks.weight_precision --tokens runs/mini/tokens/valid --model runs/mini/moshi/model

Every model is teacher-forced on the same pieces. "Words" and "padding" are the inner monologue's targets, "codes"
those of all codebooks that the model writes, each in nats a token; "the same" is the share of targets for which the
likeliest token is the float32 model's. The model is one in float32, as a training leaves it. A recipe's token shards
are what to measure on (`recipes/mini/README.md`).
"""

from __future__ import annotations

import argparse
import copy
import json
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

KINDS = ("float32", "bfloat16", "int8", "int4")


def variant(model: Any, kind: str) -> Any:
    """A copy of a float32 model with weights of that kind; activations stay float32 but for bfloat16."""
    from aizuchi.models.quantized import quantize_model

    made = copy.deepcopy(model)
    if kind == "bfloat16":
        return made.to(torch.bfloat16)
    return made if kind == "float32" else quantize_model(made, kind)


@torch.no_grad()
def measure(model: Any, batches: list[dict[str, Tensor]]) -> tuple[dict[str, float], list[Tensor]]:
    """Losses over all batches, and of each the likeliest text and codes where there are targets."""
    from aizuchi.train.measures import TokenMeasures

    measures = TokenMeasures(model.config)
    likeliest = []
    for inputs in tqdm(batches, leave=False, disable=None):
        outputs = model(**inputs)
        outputs.logits, outputs.audio_logits = outputs.logits.float(), outputs.audio_logits.float()
        measures.add(outputs, inputs["text_labels"], inputs["audio_labels"])
        text = inputs["text_labels"][:, 1:] >= 0
        codes = inputs["audio_labels"][:, :, 1:].transpose(1, 2).flatten(0, 1)
        known = (codes >= 0) & (codes < model.config.audio_vocab_size)
        likeliest.append(outputs.logits[:, :-1].argmax(-1)[text])
        likeliest.append(outputs.audio_logits.argmax(-1)[known])
    values = measures.result()
    return {
        "words": values["words_loss"],
        "padding": values["padding_loss"],
        "codes": values["audio_loss"],
    }, likeliest


def pieces(model: Any, tokens: str, count: int, frames: int, heard: int | None) -> list[dict[str, Tensor]]:
    """Inputs and targets of the first so many pieces, one a batch."""
    import torch.nn.functional as F

    from aizuchi.train.tokens import Pieces, collate, open_sources

    config = model.config
    source = Pieces(open_sources(tokens), frames, seed=0)
    made = []
    for number in range(min(count, len(source))):
        batch = collate([source.piece(number)], config.num_codebooks)
        text, own, user = (
            F.pad(stream, (0, config.max_delay), value=-1) for stream in (batch.text, batch.model, batch.user)
        )
        if heard is not None:
            user[:, heard:] = -1
        made.append(
            model.prepare_training_inputs(
                text_ids=text, moshi_audio_codes=own, user_audio_codes=user, lengths=batch.lengths
            )
        )
    return made


def main() -> None:
    """Print a line a kind, or all as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", required=True, help="folder of token shards that no training saw")
    parser.add_argument("--model", required=True, help="folder of the model, in float32")
    parser.add_argument("--pieces", type=int, default=60, help="default %(default)s")
    parser.add_argument("--frames", type=int, default=250, help="of a piece (default %(default)s)")
    parser.add_argument("--user-codebooks", type=int, help="as the training's data.user_codebooks")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from aizuchi.models.moshi import MoshiForConditionalGeneration

    model = MoshiForConditionalGeneration.from_pretrained(args.model).float().eval()
    batches = pieces(model, args.tokens, args.pieces, args.frames, args.user_codebooks)
    table: dict[str, dict[str, float]] = {}
    exact: list[Tensor] = []
    for kind in KINDS:
        losses, likeliest = measure(variant(model, kind), batches)
        exact = exact or likeliest
        same = {
            f"{name} the same": float(torch.cat(likeliest[i::2]).eq(torch.cat(exact[i::2])).double().mean())
            for i, name in enumerate(("text", "codes"))
        }
        table[kind] = losses | same
        if not args.json:
            print(
                f"{kind:9}",
                ", ".join(f"{name} {value:.4f}" for name, value in table[kind].items()),
                flush=True,
            )
    if args.json:
        print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
