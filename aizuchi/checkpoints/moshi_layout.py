"""Which tensors of the original's layout are which of ours: names, shapes, packing, both ways, bit for bit.

A configuration gives a list of groups. A group is the smallest set of tensors that have to be seen together (a
packed query, key and value; the steps of one stacked weight), so whoever loads or converts holds one group at a
time. Facts: Kyutai's moshi package 0.2.13, and the published Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .mimi_layout import halves_from_pairs, pairs_from_halves
from .tensors import CheckpointError, Shape

# Kept in float32 whatever the rest is cast to: the original does the same with its conditions and with Mimi.
FLOAT32_PARTS = ("condition_provider.", "audio_encoder.")


@dataclass(frozen=True)
class Group:
    """Tensors that hold the same numbers in both layouts; this one is a rename, perhaps with another shape."""

    theirs: dict[str, Shape]
    ours: dict[str, Shape]

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        """Values of ``theirs``, in order -> values of ``ours``, in order."""
        return [t.reshape(shape) for t, shape in zip(tensors, self.ours.values(), strict=True)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        """The inverse of `to_ours`."""
        return [t.reshape(shape) for t, shape in zip(tensors, self.theirs.values(), strict=True)]


class Stacked(Group):
    """One tensor for each step in theirs, one with all steps (steps, ...) in ours."""

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.stack(tensors)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [step.clone() for step in tensors[0]]


@dataclass(frozen=True)
class Packed(Group):
    """Query, key and value in one matrix (steps * (q + 2 kv) rows, in); with ``rotary``, as interleaved pairs."""

    heads: int
    kv_heads: int
    head_dim: int
    steps: int | None = None
    rotary: bool = False

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        rows = [n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)]
        packed = tensors[0] if self.steps is None else tensors[0].unflatten(0, (self.steps, sum(rows)))
        query, key, value = packed.split(rows, dim=packed.dim() - 2)
        if self.rotary:
            query, key = halves_from_pairs(query, self.heads), halves_from_pairs(key, self.kv_heads)
        return [query.clone(), key.clone(), value.clone()]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        query, key, value = tensors
        if self.rotary:
            query, key = pairs_from_halves(query, self.heads), pairs_from_halves(key, self.kv_heads)
        packed = torch.cat([query, key, value], dim=query.dim() - 2)
        return [packed if self.steps is None else packed.flatten(0, 1)]


class Tied(Group):
    """Ours has one table where theirs has it twice: the text embedding, and without its last row the text head."""

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        table, head = tensors
        if not torch.equal(table[: head.shape[0]], head):
            name = list(self.theirs)[1]
            raise CheckpointError(f"`tie_word_embeddings` is set, but {name!r} differs from the embedding")
        return [table]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        head_rows = list(self.theirs.values())[1][0]
        return [tensors[0], tensors[0][:head_rows].clone()]


def moshi_groups(config: Any) -> list[Group]:
    """All groups of a model's language model part (Mimi has a file and a mapping of its own).

    Args:
        config: a `MoshiConfig`.
    """
    return [*_temporal(config), *_depth(config), *_extras(config)]


def _rename(theirs: str, ours: str, shape: Shape) -> Group:
    return Group({theirs: shape}, {ours: shape})


def _norm(kind: str, theirs: str, ours: str, dim: int) -> Iterator[Group]:
    if kind.startswith("rms_norm"):
        yield Group({f"{theirs}.alpha": (1, 1, dim)}, {f"{ours}.weight": (dim,)})
    else:
        yield _rename(f"{theirs}.weight", f"{ours}.weight", (dim,))
        yield _rename(f"{theirs}.bias", f"{ours}.bias", (dim,))


def _packed(
    theirs: str, ours: str, config: Any, *, kv_heads: int, rotary: bool, steps: int | None = None
) -> Packed:
    width, dim, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    rows = (heads + 2 * kv_heads) * dim * (steps or 1)
    stack = () if steps is None else (steps,)
    shapes = {n: (*stack, k * dim, width) for n, k in (("q", heads), ("k", kv_heads), ("v", kv_heads))}
    return Packed(
        {f"{theirs}.in_proj_weight": (rows, width)},
        {f"{ours}.{n}_proj.linear.weight": shape for n, shape in shapes.items()},
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        steps=steps,
        rotary=rotary,
    )


def _out_proj(theirs: str, ours: str, config: Any, steps: int | None = None) -> Group:
    width, inside = config.hidden_size, config.num_attention_heads * config.head_dim
    shape = (width, inside) if steps is None else (steps, width, inside)
    return Group(
        {f"{theirs}.out_proj.weight": ((steps or 1) * width, inside)}, {f"{ours}.o_proj.linear.weight": shape}
    )


def _temporal(config: Any) -> Iterator[Group]:
    width, kv_heads = config.hidden_size, config.num_key_value_heads
    table = (config.vocab_size + 1, width)
    head = (config.text_output_size, width)
    if config.tie_word_embeddings:
        theirs: dict[str, Shape] = {"text_emb.weight": table, "text_linear.weight": head}
        yield Tied(theirs, {"decoder.model.embed_tokens.weight": table})
    else:
        yield _rename("text_emb.weight", "decoder.model.embed_tokens.weight", table)
        yield _rename("text_linear.weight", "decoder.lm_head.weight", head)
    if config.demux_second_text_stream:
        for out in ("out1", "out2"):
            yield _rename(
                f"text_emb.{out}.weight", f"decoder.model.embed_tokens.{out}.weight", (width, width)
            )
    for k in range(config.num_input_codebooks):
        yield _rename(f"emb.{k}.weight", f"embed_tokens.{k}.weight", (config.audio_vocab_size + 1, width))
    for i in range(config.num_hidden_layers):
        a, b = f"transformer.layers.{i}", f"decoder.model.layers.{i}"
        rotary = config.rope_interleaved
        yield _packed(f"{a}.self_attn", f"{b}.self_attn", config, kv_heads=kv_heads, rotary=rotary)
        yield _out_proj(f"{a}.self_attn", f"{b}.self_attn", config)
        if config.cross_attention:
            heads = config.num_attention_heads
            yield _packed(
                f"{a}.cross_attention", f"{b}.cross_attention", config, kv_heads=heads, rotary=False
            )
            yield _out_proj(f"{a}.cross_attention", f"{b}.cross_attention", config)
            yield from _norm("layer_norm", f"{a}.norm_cross", f"{b}.norm_cross", width)
        yield _rename(f"{a}.gating.linear_in.weight", f"{b}.mlp.fc1.weight", (config.ffn_dim, width))
        yield _rename(f"{a}.gating.linear_out.weight", f"{b}.mlp.fc2.weight", (width, config.ffn_dim // 2))
        yield from _norm(config.norm_type, f"{a}.norm1", f"{b}.input_layernorm", width)
        yield from _norm(config.norm_type, f"{a}.norm2", f"{b}.post_attention_layernorm", width)
    yield from _norm(config.norm_type, "out_norm", "decoder.model.norm", width)


def _stacked(theirs: str, ours: str, steps: int, shape: Shape) -> Stacked:
    """``theirs`` has a {} where the step goes."""
    return Stacked({theirs.format(k): shape for k in range(steps)}, {ours: (steps, *shape)})


def _depth(config: Any) -> Iterator[Group]:
    depth = config.depth_decoder_config
    if depth is None:
        return
    width, steps, codebooks = depth.hidden_size, depth.num_step_weights, depth.num_codebooks
    rank = depth.low_rank_embeddings
    tables = [("depformer_text_emb", "depth_decoder.text_embed_tokens", depth.vocab_size + 1)]
    tables += [
        (f"depformer_emb.{k}", f"depth_decoder.embed_tokens.{k}", depth.audio_vocab_size + 1)
        for k in range(codebooks - 1)
    ]
    for theirs, ours, rows in tables:
        yield _rename(f"{theirs}.weight", f"{ours}.weight", (rows, rank or width))
        if rank is not None:
            yield _rename(f"{theirs}.low_rank.weight", f"{ours}.low_rank.weight", (width, rank))
    if depth.demux_second_text_stream:
        for out in ("out1", "out2"):
            theirs, ours = f"depformer_text_emb.{out}.weight", f"depth_decoder.text_embed_tokens.{out}.weight"
            yield _rename(theirs, ours, (width, rank or width))
    projections = (width, depth.input_size)
    yield _stacked("depformer_in.{}.weight", "depth_decoder.input_projections.weight", steps, projections)
    for i in range(depth.num_hidden_layers):
        a, b = f"depformer.layers.{i}", f"depth_decoder.layers.{i}"
        kv_heads = depth.num_key_value_heads
        # No rotary embedding in the depth decoder, so nothing to permute.
        yield _packed(f"{a}.self_attn", f"{b}.self_attn", depth, kv_heads=kv_heads, rotary=False, steps=steps)
        yield _out_proj(f"{a}.self_attn", f"{b}.self_attn", depth, steps)
        inside = (depth.ffn_dim, width)
        yield _stacked(a + ".gating.{}.linear_in.weight", f"{b}.mlp.fc1.weight", steps, inside)
        outside = (width, depth.ffn_dim // 2)
        yield _stacked(a + ".gating.{}.linear_out.weight", f"{b}.mlp.fc2.weight", steps, outside)
        yield from _norm(depth.norm_type, f"{a}.norm1", f"{b}.input_layernorm", width)
        yield from _norm(depth.norm_type, f"{a}.norm2", f"{b}.post_attention_layernorm", width)
    if depth.output_norm is not None:
        for k in range(codebooks):
            yield from _norm(depth.output_norm, f"depformer_norms.{k}", f"depth_decoder.norms.{k}", width)
    yield _stacked(
        "linears.{}.weight", "depth_decoder.lm_heads.weight", codebooks, (depth.audio_vocab_size, width)
    )


def _extras(config: Any) -> Iterator[Group]:
    width = config.hidden_size
    for i in range(config.extra_heads_num_heads):
        name = f"extra_heads.{i}.weight"
        yield _rename(name, name, (config.extra_heads_dim, width))
    for condition, options in (config.conditioners or {}).items():
        prefix = f"condition_provider.conditioners.{condition}"
        kind = options["type"]
        dim = options[kind]["dim"]
        shapes: dict[str, Shape] = {"output_proj.weight": (width, dim)}
        if kind == "lut":
            shapes["embed.weight"] = (options[kind]["n_bins"] + 1, dim)
        if options[kind].get("learn_padding", True):
            shapes["learnt_padding"] = (1, 1, width)
        for name, shape in shapes.items():
            yield _rename(f"{prefix}.{name}", f"{prefix}.{name}", shape)
