"""Names and packing of Mimi weights: Kyutai's layout and that of transformers, both ways, bit for bit.

Kyutai's file (`tokenizer-e351c8d8-checkpoint125.safetensors`) names modules as the `moshi` package does and
packs query, key and value in one matrix whose rotary pairs are interleaved. transformers' flat layout, which
is that of `MimiModel` here, splits them and has the halves of the pairs one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# (Kyutai's name, ours): N is a number, P is weight or bias
_STACK = [
    ("SIDE.model.N.conv.conv.P", "SIDE.layers.N.conv.P"),
    ("SIDE.model.N.convtr.convtr.P", "SIDE.layers.N.conv.P"),
    ("SIDE.model.N.block.N.conv.conv.P", "SIDE.layers.N.block.N.conv.P"),
    ("SIDE.model.N.shortcut.conv.conv.P", "SIDE.layers.N.shortcut.conv.P"),
    (
        "SIDE_transformer.transformer.layers.N.self_attn.out_proj.P",
        "SIDE_transformer.layers.N.self_attn.o_proj.P",
    ),
    ("SIDE_transformer.transformer.layers.N.norm1.P", "SIDE_transformer.layers.N.input_layernorm.P"),
    ("SIDE_transformer.transformer.layers.N.norm2.P", "SIDE_transformer.layers.N.post_attention_layernorm.P"),
    ("SIDE_transformer.transformer.layers.N.linear1.weight", "SIDE_transformer.layers.N.mlp.fc1.weight"),
    ("SIDE_transformer.transformer.layers.N.linear2.weight", "SIDE_transformer.layers.N.mlp.fc2.weight"),
    (
        "SIDE_transformer.transformer.layers.N.layer_scale_1.scale",
        "SIDE_transformer.layers.N.self_attn_layer_scale.scale",
    ),
    (
        "SIDE_transformer.transformer.layers.N.layer_scale_2.scale",
        "SIDE_transformer.layers.N.mlp_layer_scale.scale",
    ),
]
_QUANTIZER = [
    ("quantizer.SHORT.input_proj.weight", "quantizer.LONG_residual_vector_quantizer.input_proj.weight"),
    ("quantizer.SHORT.output_proj.weight", "quantizer.LONG_residual_vector_quantizer.output_proj.weight"),
] + [
    (
        f"quantizer.SHORT.vq.layers.N._codebook.{theirs}",
        f"quantizer.LONG_residual_vector_quantizer.layers.N.codebook.{ours}",
    )
    for theirs, ours in (
        ("_initialized", "initialized"),
        ("cluster_usage", "cluster_usage"),
        ("embedding_sum", "embed_sum"),
    )
]
_RULES = (
    [(a.replace("SIDE", side), b.replace("SIDE", side)) for side in ("encoder", "decoder") for a, b in _STACK]
    + [
        (a.replace("SHORT", short), b.replace("LONG", long))
        for short, long in (("rvq_first", "semantic"), ("rvq_rest", "acoustic"))
        for a, b in _QUANTIZER
    ]
    + [
        ("downsample.conv.conv.conv.weight", "downsample.conv.weight"),
        ("upsample.convtr.convtr.convtr.weight", "upsample.conv.weight"),
    ]
)


def _pattern(name: str) -> re.Pattern[str]:
    """A regular expression for a rule's side, with its numbers and its weight or bias as groups."""
    name = re.escape(name)
    return re.compile(re.sub(r"(?<=\.)N(?=\\\.)", r"(\\d+)", re.sub(r"(?<=\.)P$", "(weight|bias)", name)))


def _template(name: str) -> str:
    """The text that a rule's side becomes, filled with the groups of the other side."""
    return re.sub(r"(?<=\.)[NP](?=\.|$)", "{}", name)


_FORWARDS = [(_pattern(theirs), _template(ours)) for theirs, ours in _RULES]
_BACKWARDS = [(_pattern(ours), _template(theirs)) for theirs, ours in _RULES]

# names that the moshi package's own load hooks still accept
_OLD_NAMES = [
    (r"(self_attn)\.in_proj\.weight$", r"\1.in_proj_weight"),
    (r"(self_attn)\.in_projs\.0\.weight$", r"\1.in_proj_weight"),
    (r"(self_attn)\.out_projs\.0\.(weight|bias)$", r"\1.out_proj.\2"),
    (r"_codebook\.inited$", r"_codebook._initialized"),
    (r"_codebook\.cluster_size$", r"_codebook.cluster_usage"),
    (r"_codebook\.embed_(avg|sum)$", r"_codebook.embedding_sum"),
]

_IN_PROJ = re.compile(r"(encoder|decoder)_transformer\.transformer\.layers\.(\d+)\.self_attn\.in_proj_weight")
_DECODER_CONV = re.compile(r"decoder\.layers\.(\d+)\.conv\.(?:weight|bias)")
_Q_PROJ = re.compile(r"(encoder|decoder)_transformer\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight")


def is_kyutai(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of Kyutai's Mimi file."""
    return any(name.startswith(("encoder.model.", "quantizer.rvq_first.")) for name in names)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows (heads * head_dim, in): interleaved rotary pairs -> real half, imaginary half of each head."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def pairs_from_halves(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `halves_from_pairs`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def kyutai_to_hf(
    state_dict: Mapping[str, Tensor], num_heads: int = 8, num_kv_heads: int | None = None
) -> dict[str, Tensor]:
    """Weights of Kyutai's layout under transformers' flat names.

    Args:
        num_heads, num_kv_heads: attention heads of the transformers inside (not to be seen in the weights).
    Raises:
        ValueError: an unknown name, or a packed projection whose shape doesn't fit the heads; names the key.
    """
    kv_heads = num_kv_heads or num_heads
    out: dict[str, Tensor] = {}
    for given, tensor in state_dict.items():
        name = given
        for old, new in _OLD_NAMES:
            name = re.sub(old, new, name)
        if match := _IN_PROJ.fullmatch(name):
            side, layer = match.groups()
            rows = tensor.shape[0]
            head_dim, rest = divmod(rows, num_heads + 2 * kv_heads)
            if rest or head_dim % 2:
                raise ValueError(
                    f"{given!r} has {rows} rows, which are no query, key and value for {num_heads} heads "
                    f"({kv_heads} of keys and values)."
                )
            query, key, value = tensor.split([num_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim])
            prefix = f"{side}_transformer.layers.{layer}.self_attn."
            out[prefix + "q_proj.weight"] = halves_from_pairs(query, num_heads)
            out[prefix + "k_proj.weight"] = halves_from_pairs(key, kv_heads)
            out[prefix + "v_proj.weight"] = value.clone()
        else:
            out[_rename(name, given, _FORWARDS)] = tensor
    return out


def hf_to_kyutai(
    state_dict: Mapping[str, Tensor], num_heads: int = 8, num_kv_heads: int | None = None
) -> dict[str, Tensor]:
    """The inverse of `kyutai_to_hf`, to the names of the published file.

    Raises:
        ValueError: an unknown name, or a projection without its two companions; names the key.
    """
    kv_heads = num_kv_heads or num_heads
    out: dict[str, Tensor] = {}
    # all of the decoder's own convolutions but the first and the last are transposed ones
    last = max((int(layer[1]) for name in state_dict if (layer := _DECODER_CONV.fullmatch(name))), default=0)
    for name, tensor in state_dict.items():
        match = _Q_PROJ.fullmatch(name)
        if match is None:
            theirs = _rename(name, name, _BACKWARDS)
            if (layer := _DECODER_CONV.fullmatch(name)) and 0 < int(layer[1]) < last:
                theirs = theirs.replace(".conv.conv.", ".convtr.convtr.")
            out[theirs] = tensor
        elif match[3] == "q":
            companions = [name.replace("q_proj", f"{part}_proj") for part in "kv"]
            for companion in companions:
                if companion not in state_dict:
                    raise ValueError(f"{companion!r} is missing: it is packed in one matrix with {name!r}.")
            key, value = (state_dict[companion] for companion in companions)
            packed = torch.cat(
                [pairs_from_halves(tensor, num_heads), pairs_from_halves(key, kv_heads), value]
            )
            out[f"{match[1]}_transformer.transformer.layers.{match[2]}.self_attn.in_proj_weight"] = packed
        elif name.replace(f"{match[3]}_proj", "q_proj") not in state_dict:
            raise ValueError(
                f"{name.replace(f'{match[3]}_proj', 'q_proj')!r} is missing: {name!r} is packed with it."
            )
    return out


def _rename(name: str, given: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    """The name in the other layout; ValueError naming ``given`` when no rule fits."""
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return template.format(*match.groups())
    raise ValueError(f"{given!r} is no weight of Mimi in this layout.")
