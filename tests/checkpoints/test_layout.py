"""Names, shapes and packing: the published families at full size on the meta device, and bits at tiny size."""

from __future__ import annotations

import pytest
import torch
from moshi.models import loaders

from aizuchi import MimiConfig, MimiModel, MoshiForConditionalGeneration
from aizuchi.checkpoints import mimi_layout
from aizuchi.checkpoints.kyutai_config import moshi_config
from aizuchi.checkpoints.kyutai_weights import KyutaiWeights
from aizuchi.checkpoints.moshi_layout import moshi_groups
from aizuchi.checkpoints.tensors import TensorInfo

from . import published, tiny


class InMemory:
    """Tensors of a dictionary, as a file would give them."""

    def __init__(self, tensors):
        self.label = "memory"
        self.tensors = tensors
        self.infos = {n: TensorInfo(tuple(t.shape), t.dtype, None) for n, t in tensors.items()}

    def read(self, name):
        return self.tensors[name].clone()


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("family", published.FAMILIES)
def test_families_instantiate_on_the_meta_device_with_the_published_keys_and_shapes(family):
    raw = published.FAMILIES[family]
    original = tiny.packed(tiny.original_lm(raw, torch.bfloat16, device="meta").state_dict())
    config = moshi_config(raw)
    with torch.device("meta"):
        model = MoshiForConditionalGeneration(config)
    groups = moshi_groups(config)
    ours = {name: shape for group in groups for name, shape in group.ours.items()}
    theirs = {name: shape for group in groups for name, shape in group.theirs.items()}
    language_model = {
        n: s for n, s in shapes(model.state_dict()).items() if not n.startswith("audio_encoder.")
    }
    assert ours == language_model
    assert theirs == shapes(original)
    # A stacked or packed tensor has as many values on both sides.
    for group in groups:
        count = [sum(torch.Size(s).numel() for s in side.values()) for side in (group.theirs, group.ours)]
        assert count[0] == count[1], group


@pytest.mark.parametrize(
    ("family", "tensors", "parameters"),
    [("moshiko", 355, 7.688e9), ("stt-1b", None, 0.99e9), ("tts-1.6b", 418, 1.837e9)],
)
def test_counts_of_the_released_files(family, tensors, parameters):
    groups = moshi_groups(moshi_config(published.FAMILIES[family]))
    theirs = {name: shape for group in groups for name, shape in group.theirs.items()}
    assert tensors is None or len(theirs) == tensors
    assert sum(torch.Size(s).numel() for s in theirs.values()) == pytest.approx(parameters, rel=5e-3)


def test_without_a_configuration_it_is_moshiko():
    assert moshi_groups(moshi_config(None)) == moshi_groups(moshi_config(published.MOSHIKO))


def test_a_file_without_configuration_and_with_16_depth_steps_is_personaplex():
    config = moshi_config(None, depth_steps=16)
    assert moshi_groups(config) == moshi_groups(moshi_config(published.PERSONAPLEX))
    assert (config.num_codebooks, config.num_generated_codebooks, config.num_input_codebooks) == (8, 16, 16)


def test_mimi_has_the_318_published_tensors():
    with torch.device("meta"):
        ours = MimiModel(MimiConfig()).state_dict()
    original = tiny.packed(loaders.get_mimi(None, device="meta").state_dict())
    assert len(original) == 318
    assert shapes(mimi_layout.hf_to_kyutai(ours)) == shapes(original)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("packing", ["released", "split"])
def test_both_packings_map_to_ours_and_back_bit_for_bit(family, packing):
    state = tiny.original_lm(tiny.FAMILIES[family], torch.bfloat16).state_dict()
    released = tiny.packed(state)
    weights = KyutaiWeights(InMemory(released if packing == "released" else state))
    groups = moshi_groups(moshi_config(tiny.FAMILIES[family] | {}, _codec()))
    weights.check(groups)
    back = {}
    for group in groups:
        ours = group.to_ours([weights.read(name) for name in group.theirs])
        assert [tuple(t.shape) for t in ours] == list(group.ours.values())
        back |= dict(zip(group.theirs, group.to_theirs(ours), strict=True))
    assert back.keys() == released.keys()
    for name, tensor in released.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name


def _codec():
    from aizuchi.checkpoints.kyutai_mimi_config import mimi_config

    return mimi_config(tiny.MIMI)


def test_rotary_pairs_are_permuted_only_where_the_original_interleaves_them():
    for family, permuted in (("moshi", True), ("hibiki", False)):
        raw = tiny.FAMILIES[family]
        group = next(
            g for g in moshi_groups(moshi_config(raw, _codec())) if "0.self_attn.in_proj" in str(g.theirs)
        )
        (rows, width) = next(iter(group.theirs.values()))
        packed = torch.arange(float(rows))[:, None].expand(rows, width)
        query = group.to_ours([packed])[0][:, 0]
        head = query[:8].tolist()
        assert head == ([0, 2, 4, 6, 1, 3, 5, 7] if permuted else [0, 1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize("prefix", ["best_state.", "fsdp_best_state.model.", ""])
def test_wrapped_weights_are_unwrapped(prefix):
    state = tiny.packed(tiny.original_lm(tiny.MOSHI).state_dict())
    weights = KyutaiWeights(InMemory({prefix + name: tensor for name, tensor in state.items()}))
    weights.check(moshi_groups(moshi_config(tiny.MOSHI, _codec())))
    assert torch.equal(weights.read("text_emb.weight"), state["text_emb.weight"])


def test_personaplex_copies_depth_steps_that_a_file_lacks():
    whole = tiny.MOSHI | {
        "n_q": 16,
        "dep_q": 16,
        "delays": [0, *[0, *[1] * 7] * 2],
    }
    full = tiny.packed(tiny.original_lm(whole).state_dict())
    half = {}
    for name, tensor in full.items():
        parts = name.split(".")
        index = next((int(p) for p in parts[-3:] if p.isdigit()), 0) if "gating" in name else 0
        if parts[0] in ("linears", "depformer_in"):
            index = int(parts[1])
        if name.startswith("depformer.layers") and "self_attn" in name:
            tensor = tensor[: tensor.shape[0] // 2]
        if index < 8:
            half[name] = tensor
    weights = KyutaiWeights(InMemory(half))
    groups = moshi_groups(moshi_config(whole, _codec()))
    with pytest.raises(ValueError, match="depformer"):
        weights.check(groups)
    weights.fill_depth_steps(groups)
    weights.check(groups)
    assert torch.equal(weights.read("linears.11.weight"), full["linears.3.weight"])
    name = "depformer.layers.0.gating.15.linear_in.weight"
    assert torch.equal(weights.read(name), full[name.replace("15", "7")])
    packed = weights.read("depformer.layers.1.self_attn.in_proj_weight")
    assert torch.equal(packed[: len(packed) // 2], packed[len(packed) // 2 :])
