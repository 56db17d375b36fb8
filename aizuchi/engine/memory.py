"""What a model and its rows take, from its configuration alone, and a refusal before anything is loaded.

The model and an engine of one row are made on the meta device: every tensor has its shape and dtype and no memory.
So the figures are those of the very tensors that will be there, quantized ones and options of the engine included.
Not counted: activations (some megabytes), the interpreter and torch themselves, a GPU's context, and conversations
that a server keeps for callers who were cut off.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.find import find
from ..checkpoints.load import open_moshi
from ..errors import AizuchiError
from ..models.moshi import MoshiConfig, MoshiForConditionalGeneration
from ..models.moshi.conditions import Conditions
from ..models.presets import preset_config
from ..models.quantized import quantize_model
from ..models.stored import widen_stored
from .duplex import DuplexEngine
from .free_memory import free_memory

_FLOAT32 = ("audio_encoder", "condition_provider")  # parts that stay in it, whatever the model's dtype


@dataclass(frozen=True)
class Need:
    """Bytes.

    ``language_model``: the temporal transformer, the embeddings and all that is no other part. ``depth_decoder``,
    ``codec``. ``copies``: of the codec's weights in the order of the compiled kernels, at most. ``loading``: the
    weights as they are while loading, more than afterwards where they are quantized then. Of one row:
    ``keys_values`` of the language model, ``codec_state``, ``other_state``.
    """

    language_model: int
    depth_decoder: int
    codec: int
    copies: int
    loading: int
    keys_values: int
    codec_state: int
    other_state: int

    @property
    def weights(self) -> int:
        """All weights, once they are loaded."""
        return self.language_model + self.depth_decoder + self.codec + self.copies

    @property
    def row(self) -> int:
        """Everything that one row carries."""
        return self.keys_values + self.codec_state + self.other_state

    def total(self, rows: int) -> int:
        """Weights and ``rows`` rows."""
        return self.weights + rows * self.row

    def rows_in(self, free: int) -> int:
        """How many rows fit beside the weights."""
        return max(0, (free - self.weights) // self.row)

    def sum(self, rows: int) -> str:
        """The arithmetic in words."""
        parts = [("language model", self.language_model), ("depth decoder", self.depth_decoder)]
        parts += [("codec", self.codec), ("its copies for the kernels", self.copies)]
        weights = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts if size)
        state = f"keys and values {gigabytes(self.keys_values)}, codec {gigabytes(self.codec_state)}"
        return (
            f"weights {gigabytes(self.weights)} ({weights}) + {rows} row{'s' if rows > 1 else ''} x "
            f"{gigabytes(self.row)} ({state}) = {gigabytes(self.total(rows))}"
        )


def gigabytes(size: int) -> str:
    """Bytes in GB, small ones in MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def need(
    config: MoshiConfig,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    device: Any = "cpu",
    **engine: Any,
) -> Need:
    """What a model of this configuration needs.

    Args:
        dtype: of the language model, None for float32. quantize: "int8" or "int4", while loading.
        device: where it goes; copies for the kernels are made on a CPU only.
        engine: options of `DuplexEngine` that change what rows hold.
    """
    with torch.device("meta"):
        model = widen_stored(MoshiForConditionalGeneration(copy.deepcopy(config)).eval())
    for name, parameter in model.named_parameters():  # scales, which are buffers, keep their dtype
        if not name.startswith(_FLOAT32):
            parameter.data = parameter.data.to(dtype or torch.float32)
    loading = _size(model)
    if quantize is not None and not getattr(config, "aizuchi_quantization", None):
        quantize_model(model, quantize, fill=False)
    depth, codec = _size(model.depth_decoder), _size(model.audio_encoder)
    state = DuplexEngine(model, 1, conditions=Conditions() if config.conditioners else None, **engine).state
    keys, voice = state.tokens.ring.nbytes(), state.encoder.nbytes() + state.decoder.nbytes()
    return Need(
        language_model=_size(model) - depth - codec,
        depth_decoder=depth,
        codec=codec,
        copies=_copies(model.audio_encoder) if torch.device(device).type == "cpu" else 0,
        loading=loading,
        keys_values=keys,
        codec_state=voice,
        other_state=state.nbytes() - keys - voice,
    )


def _size(module: nn.Module | None) -> int:
    tensors: list[Tensor] = [] if module is None else [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copies(codec: nn.Module) -> int:
    """Bytes of what the kernels copy: convolutions in float32, or in bfloat16 these and the transformers. Dilated
    convolutions are copied with the zeros between their weights.
    """
    kinds = (nn.Conv1d, nn.ConvTranspose1d)
    convolutions = sum(
        m.weight[..., 0].numel() * ((m.kernel_size[0] - 1) * m.dilation[0] + 1)
        for m in codec.modules()
        if isinstance(m, kinds)
    )
    matrices = sum(m.weight.numel() for m in codec.modules() if isinstance(m, nn.Linear))
    return max(4 * convolutions, 2 * (convolutions + matrices))


def check_fits(need: Need, rows: int, device: Any = "cpu", free: int | None = None) -> None:
    """An AizuchiError that shows the arithmetic where ``rows`` rows do not fit into the memory that is free.

    ``free``: bytes that were free before the weights were loaded; None measures it now.
    """
    free = free_memory(device) if free is None else free
    if free is None:
        return
    place = "are free" if str(device) == "cpu" else f"are free on {device}"
    if need.total(rows) > free:
        fitting = need.rows_in(free)
        hint = (
            ("1 row fits" if fitting == 1 else f"{fitting} rows fit")
            if fitting
            else "not one row fits: a narrower dtype (bfloat16) or quantized weights (int8, int4) need less"
        )
        raise AizuchiError(f"too large: {need.sum(rows)}, but {gigabytes(free)} {place}; {hint}")
    if need.loading > free:
        raise AizuchiError(
            f"too large: {need.sum(rows)}, and before they are quantized the weights take "
            f"{gigabytes(need.loading)}, but {gigabytes(free)} {place}: quantize them once where there is room "
            "(aizuchi convert --quantize), and load what that writes"
        )


def check_preset(
    name: str,
    rows: int = 1,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    device: Any = "cpu",
    **engine: Any,
) -> None:
    """`check_fits` for a preset with random weights, which are made in main memory first."""
    needed = need(preset_config(name), dtype, quantize, device, **engine)
    check_fits(needed, rows, device)
    _check_main_memory(needed, device)


def check_checkpoint(
    name: str | os.PathLike[str],
    rows: int = 1,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    device: Any = "cpu",
    engine: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """`check_fits` for what `aizuchi.checkpoints.load` would load: of its weights only the headers are read.

    Args:
        name, dtype, quantize, device, options: as for `load`. engine: as for `need`.
    Raises:
        AizuchiError: it does not fit, or can't be loaded anyway.
    """
    found = find(name, **options)
    if found.holds != "moshi":
        return  # `load` says what is wrong
    if found.layout == "kyutai":
        config, weights = open_moshi(found)
        dtype = dtype or weights.dtype("text_emb.weight")
    else:
        config = MoshiConfig.from_pretrained(found.folder)
        dtype = dtype or config.dtype
    needed = need(config, dtype, quantize, device, **(engine or {}))
    check_fits(needed, rows, device)
    if found.layout == "hf":  # the original's layout is read into its place, a group of tensors at a time
        _check_main_memory(needed, device)


def _check_main_memory(needed: Need, device: Any) -> None:
    """On the way to a GPU the weights lie in main memory."""
    free = None if torch.device(device).type == "cpu" else free_memory("cpu")
    if free is not None and needed.loading > free:
        raise AizuchiError(
            f"the weights take {gigabytes(needed.loading)} of main memory before they go to {device}, but "
            f"{gigabytes(free)} are free there"
        )
