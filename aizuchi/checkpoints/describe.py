"""What a checkpoint holds, from headers and configurations alone: one line for logs, a table for `aizuchi models`."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .find import Checkpoint
from .kyutai_options import codebooks_of_a_stream, lm_options
from .tensors import TensorInfo, open_tensors

_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "int8": "int8"}
_LAYOUTS = {"kyutai": "Kyutai layout", "hf": "Hugging Face layout"}


def describe(found: Checkpoint) -> str:
    """One line: layout, family, sizes and files."""
    facts = inspect(found)
    parts = [f"{_LAYOUTS[found.layout]}: {facts['family']}"]
    for name, label in (("language_model", "LM"), ("mimi", "Mimi")):
        if part := facts.get(name):
            parts.append(f"{label} {_count(part['parameters'])} {part['dtype']} in {part['file']}")
    if found.lora is not None:
        parts.append(f"LoRA {found.lora.name}")
    if found.adapters is not None:
        parts.append(f"LoRA adapters {found.adapters}")
    if found.tokenizer is not None:
        parts.append(f"tokenizer {found.tokenizer.name if found.tokenizer.is_file() else 'tokenizer.json'}")
    return ", ".join(parts)


def inspect(found: Checkpoint) -> dict[str, Any]:
    """Facts about a checkpoint as plain values, for printing or JSON."""
    facts: dict[str, Any] = {"name": found.name, "layout": found.layout, "folder": str(found.folder)}
    infos: dict[str, TensorInfo] = {}
    for path in found.weights:
        infos |= open_tensors(path).infos
    files = found.weights[0].name if len(found.weights) == 1 else f"{len(found.weights)} files"
    if found.holds == "mimi":
        facts["family"] = "Mimi codec"
        facts["mimi"] = _part(infos, files)
    elif found.layout == "kyutai":
        steps = sum(name.endswith(".weight") and ".linears." in f".{name}" for name in infos)
        facts |= _family(_sizes_of_kyutai(found, steps))
        facts["language_model"] = _part(infos, files)
        if found.mimi is not None:
            facts["mimi"] = _part(open_tensors(found.mimi).infos, found.mimi.name)
    elif (found.config or {}).get("model_type") == "moshi_depth":
        facts["family"] = "Moshi's depth decoder alone"
        facts["language_model"] = _part(infos, files)
    else:
        facts |= _family(_sizes_of_hf(found.config or {}))
        codec = {name: info for name, info in infos.items() if name.startswith("audio_encoder.")}
        facts["language_model"] = _part({n: i for n, i in infos.items() if n not in codec}, files)
        if codec:
            facts["mimi"] = _part(codec, files)
    if found.adapters is not None:
        facts["adapters"] = str(found.adapters)
    facts["tokenizer"] = None if found.tokenizer is None else str(found.tokenizer)
    return facts


def _part(infos: dict[str, TensorInfo], file: str) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    for info in infos.values():
        name = str(info.dtype).removeprefix("torch.")
        kinds[_SHORT.get(name, name)] += math.prod(info.shape)
    total = sum(kinds.values())
    return {
        "parameters": total,
        "tensors": len(infos),
        "dtype": "+".join(name for name, count in kinds.most_common() if count * 1000 >= total),
        "bytes": sum(info.bytes for info in infos.values()),
        "file": file,
    }


def _sizes_of_kyutai(found: Checkpoint, depth_steps: int) -> dict[str, Any]:
    raw = found.config or {}
    options = lm_options(found.config, depth_steps)
    return {
        "model_type": raw.get("model_type"),
        "dim": options.get("dim"),
        "layers": options.get("num_layers"),
        "heads": options.get("num_heads"),
        "context": options.get("context"),
        "codebooks": codebooks_of_a_stream(options),
        "input_codebooks": options.get("n_q"),
        "written_codebooks": options.get("dep_q"),
        "text_vocabulary": options.get("text_card"),
        "delays": options.get("delays"),
        "conditions": sorted(options.get("conditioners") or {}),
    }


def _sizes_of_hf(config: dict[str, Any]) -> dict[str, Any]:
    from ..models.moshi.configuration import MoshiConfig

    # The defaults of a published config.json, which leaves out whatever it has the usual value of.
    full = MoshiConfig(**{name: value for name, value in config.items() if name != "model_type"})
    kept = (getattr(full, "kyutai", None) or {}).get("config") or {}
    return {
        "model_type": kept.get("model_type"),
        "dim": full.hidden_size,
        "layers": full.num_hidden_layers,
        "heads": full.num_attention_heads,
        "context": full.sliding_window,
        "codebooks": full.num_codebooks,
        "input_codebooks": full.num_input_codebooks,
        "written_codebooks": full.num_generated_codebooks,
        "text_vocabulary": full.vocab_size,
        "delays": list(full.delays or []),
        "conditions": sorted(full.conditioners or {}),
    }


def _family(sizes: dict[str, Any]) -> dict[str, Any]:
    """The family by its name where one is given, else by which streams it reads and writes."""
    kind, written, read = sizes.pop("model_type"), sizes["written_codebooks"], sizes["input_codebooks"]
    names = {"stt": "speech to text", "tts": "text to speech", "hibiki": "Hibiki (speech translation)"}
    if kind in names:
        family = names[kind]
    elif written == 0:
        family = names["stt"]
    elif written == read:
        family = (
            names["tts"] if sizes["codebooks"] == written else "Moshi that writes both speakers (PersonaPlex)"
        )
    else:
        family = "Moshi"
    return {"family": family, "sizes": sizes}


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def table(facts: dict[str, Any]) -> str:
    """The facts of `inspect` as lines for people."""
    place = facts["folder"] or f"{facts['name']} on the Hugging Face hub"
    rows = [("layout", _LAYOUTS[facts["layout"]]), ("family", facts["family"]), ("folder", place)]
    for key, label in (("language_model", "language model"), ("mimi", "Mimi")):
        if part := facts.get(key):
            size = (
                f"{part['bytes'] / 1e9:.2f} GB" if part["bytes"] >= 1e8 else f"{part['bytes'] / 1e6:.2f} MB"
            )
            rows.append(
                (
                    label,
                    f"{_count(part['parameters'])} parameters, {part['dtype']}, {size}, {part['tensors']} tensors",
                )
            )
            rows.append(("", part["file"]))
    if sizes := facts.get("sizes"):
        rows += [
            ("width", f"{sizes['dim']}, {sizes['layers']} layers, {sizes['heads']} heads"),
            ("window", f"{sizes['context']} frames ({sizes['context'] / 12.5:g} s)"),
            (
                "codebooks",
                f"{sizes['codebooks']} a stream; {sizes['input_codebooks']} read, {sizes['written_codebooks']} written",
            ),
            ("text", f"{sizes['text_vocabulary']} tokens"),
            ("delays", f"text {sizes['delays'][0]}, codebooks {_runs(sizes['delays'][1:])}"),
        ]
        if sizes["conditions"]:
            rows.append(("conditions", ", ".join(sizes["conditions"])))
    if "adapters" in facts:
        rows.append(("LoRA adapters", facts["adapters"]))
    rows.append(("tokenizer", facts["tokenizer"] or "none found"))
    return "\n".join(f"{label:<15} {value}" for label, value in rows)


def _runs(values: list[int]) -> str:
    """[0, 1, 1, 1] -> "0 1x3"."""
    out: list[list[int]] = []
    for value in values:
        if out and out[-1][0] == value:
            out[-1][1] += 1
        else:
            out.append([value, 1])
    return " ".join(str(v) if n == 1 else f"{v}x{n}" for v, n in out)
