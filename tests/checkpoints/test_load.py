"""Loading the original's layout: what the models compute, which parts, dtypes, memory."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import aizuchi
from aizuchi import MimiModel, MoshiDepthDecoder, MoshiForCausalLM, MoshiForConditionalGeneration, MoshiModel
from aizuchi.checkpoints import CheckpointError
from aizuchi.checkpoints.generation_config import kyutai_option
from aizuchi.checkpoints.kyutai_config import moshi_config
from aizuchi.checkpoints.kyutai_mimi_config import mimi_config
from aizuchi.checkpoints.moshi_layout import moshi_groups

from . import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> (folder, the original's LM, the original's Mimi), in float32 so that results can be compared."""
    root = tmp_path_factory.mktemp("kyutai")
    return {
        family: (
            root / family,
            *tiny.kyutai_folder(root / family, raw, torch.float32, released=family != "hibiki"),
        )
        for family, raw in tiny.FAMILIES.items()
    }


def columns(raw, frames=6):
    """Columns (1, 1 + n_q, frames) of valid ids."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(raw["text_card"], (1, 1, frames), generator=generator)
    if raw.get("demux_second_stream"):
        text[..., 2:4] += (text[..., 2:4] + 1) * (raw["text_card"] + 1)
    audio = torch.randint(raw["card"], (1, raw["n_q"], frames), generator=generator)
    return torch.cat([text, audio], dim=1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_a_loaded_model_computes_what_the_original_computes(folders, family):
    folder, original, _ = folders[family]
    model = MoshiForConditionalGeneration.from_pretrained(folder)
    codes = columns(tiny.FAMILIES[family])
    conditions, sum_condition, cross = None, None, None
    if family == "tts":
        voice = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
        conditions = model.prepare_conditions([{"cfg": "2.0", "speaker_wavs": voice}])
        from moshi.conditioners import ConditionAttributes, TensorCondition

        attributes = ConditionAttributes(
            text={"cfg": "2.0"}, tensor={"speaker_wavs": TensorCondition.from_tensor(voice[None])}
        )
        provided = original.condition_provider.prepare_and_provide([attributes])
        sum_condition, cross = original.fuser.get_sum(provided), original.fuser.get_cross(provided)
    hidden, text_logits = original.forward_text(codes, sum_condition, cross)
    ours = model(
        input_ids=codes[:, 0],
        moshi_audio_codes=codes[:, 1 : 1 + model.config.num_model_codebooks] if family != "stt" else None,
        user_audio_codes=codes[:, 1 + model.config.num_model_codebooks :]
        if model.config.num_user_codebooks
        else None,
        conditions=conditions,
    )
    assert text_logits.abs().max() > 0.1
    torch.testing.assert_close(ours.logits, text_logits[:, 0], atol=1e-4, rtol=0)
    if family != "stt":
        audio_logits = original.forward_depformer_training(codes, hidden)  # (1, K, T, A)
        tokens = codes[:, : model.config.num_generated_codebooks].transpose(1, 2).flatten(0, 1)
        depth = model.depth_decoder.teacher_forced(tokens, hidden[0, :, None])  # (T, K, A)
        torch.testing.assert_close(depth.transpose(0, 1), audio_logits[0], atol=1e-4, rtol=0)
    else:
        heads = [head(hidden) for head in original.extra_heads]
        for head, expected in zip(model.extra_heads, heads, strict=True):
            torch.testing.assert_close(head(hidden), expected)


@torch.no_grad()
def test_a_loaded_mimi_gives_the_codes_of_the_original(folders):
    folder, _, original = folders["moshi"]
    wave = torch.randn(1, 1, 1920 * 12, generator=torch.Generator().manual_seed(2)) * 0.3
    expected = original.encode(wave)
    assert expected.unique().numel() > 8
    from_folder = MoshiForConditionalGeneration.from_pretrained(folder).audio_encoder
    alone = MimiModel.from_pretrained(folder / "mimi-tiny.safetensors")
    for model in (from_folder, alone, MimiModel.from_pretrained(folder)):
        assert torch.equal(model.encode(wave, num_quantizers=4).audio_codes, expected)


def test_parts_load_their_part_of_the_original_file(folders):
    folder = folders["moshi"][0]
    whole = MoshiForConditionalGeneration.from_pretrained(folder)
    for cls, part in (
        (MoshiForCausalLM, whole.decoder),
        (MoshiModel, whole.decoder.model),
        (MoshiDepthDecoder, whole.depth_decoder),
        (MimiModel, whole.audio_encoder),
    ):
        loaded = cls.from_pretrained(folder)
        assert type(loaded) is cls and not loaded.training
        expected = part.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_a_family_without_depth_decoder_says_so(folders):
    with pytest.raises(CheckpointError, match="no depth decoder"):
        MoshiDepthDecoder.from_pretrained(folders["stt"][0])


def test_a_file_loads_with_what_lies_beside_it(folders):
    folder = folders["moshi"][0]
    by_file = MoshiForConditionalGeneration.from_pretrained(folder / "model.safetensors")
    by_folder = MoshiForConditionalGeneration.from_pretrained(folder)
    for (name, a), (_, b) in zip(by_file.state_dict().items(), by_folder.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
def test_dtype_is_cast_except_for_mimi_and_the_conditions(folders, spelling):
    model = MoshiForConditionalGeneration.from_pretrained(folders["tts"][0], **{spelling: torch.bfloat16})
    for name, value in model.state_dict().items():
        kept = name.startswith(("audio_encoder.", "condition_provider."))
        assert value.dtype == (torch.float32 if kept else torch.bfloat16), name
    assert model.dtype == torch.bfloat16


def test_the_files_dtype_is_kept_by_default(tmp_path):
    tiny.kyutai_folder(tmp_path, tiny.MOSHI, torch.bfloat16)
    model = MoshiForConditionalGeneration.from_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert model.config.dtype == torch.bfloat16
    assert torch.equal(model.decoder.lm_head.weight, stored["text_linear.weight"])
    assert model.audio_encoder.dtype == torch.float32


def test_options_of_from_pretrained(folders):
    folder = folders["moshi"][0]
    model, info = MoshiForConditionalGeneration.from_pretrained(
        folder,
        sliding_window=7,
        attn_implementation="eager",
        output_loading_info=True,
        low_cpu_mem_usage=True,
    )
    assert model.config.sliding_window == 7 and model.config._attn_implementation == "eager"
    assert not info["missing_keys"]
    with pytest.raises(ValueError, match="slidng_window"):
        MoshiForConditionalGeneration.from_pretrained(folder, slidng_window=7)
    with pytest.raises(ValueError, match="`config`"):
        MoshiForConditionalGeneration.from_pretrained(folder, config=str(folder))
    with pytest.raises(ValueError, match="dtype"):
        MoshiForConditionalGeneration.from_pretrained(folder, dtype="bfloat")


def test_options_that_are_no_part_of_the_model_are_carried(folders):
    model = MoshiForConditionalGeneration.from_pretrained(folders["stt"][0])
    assert kyutai_option(model.config, "stt_config") == tiny.STT["stt_config"]
    assert kyutai_option(model.config, "model_type") == "stt"
    again = type(model.config)(**model.config.to_dict())
    assert kyutai_option(again, "model_id") == tiny.STT["model_id"]


def test_load_gives_all_that_a_command_needs(folders):
    loaded = aizuchi.load(folders["moshi"][0], dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training
    assert loaded.tokenizer.encode("<pad>") == [3]
    assert loaded.feature_extractor.sampling_rate == 24000
    for word in ("Kyutai layout", "LM", "fp32", "Mimi", "mimi-tiny.safetensors", "tokenizer_tiny.model"):
        assert word in loaded.description


def test_load_refuses_a_codec_alone(folders):
    with pytest.raises(CheckpointError, match="Mimi codec"):
        aizuchi.load(folders["moshi"][0] / "mimi-tiny.safetensors")


def test_sampling_defaults_come_from_the_original(folders):
    generation = MoshiForConditionalGeneration.from_pretrained(folders["moshi"][0]).generation_config
    assert (generation.temperature, generation.top_k, generation.do_sample) == (0.7, 25, True)
    depth = generation.depth_decoder_config
    assert (depth["temperature"], depth["top_k"]) == (0.8, 250)
    # temperature 0 is greedy; the odd key of the published speech synthesis model is read as meant
    assert (
        MoshiForConditionalGeneration.from_pretrained(folders["stt"][0]).generation_config.do_sample is False
    )
    tts = MoshiForConditionalGeneration.from_pretrained(folders["tts"][0]).generation_config
    assert (tts.temperature, tts.depth_decoder_config["temperature"]) == (0.6, 0.6)


def test_pickled_checkpoints_of_training_load(folders, tmp_path):
    folder = folders["moshi"][0]
    state = load_file(folder / "model.safetensors")
    for wrapped in ({"best_state": state}, {"fsdp_best_state": {"model": state}, "epoch": 3}, state):
        torch.save(wrapped, tmp_path / "checkpoint.pt")
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        (tmp_path / "mimi_config.json").write_text((folder / "mimi_config.json").read_text())
        loaded = MoshiForCausalLM.from_pretrained(tmp_path / "checkpoint.pt")
        assert torch.equal(loaded.lm_head.weight, state["text_linear.weight"])


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_pickles_run_no_code(tmp_path):
    torch.save({"text_emb.weight": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="evil.pt"):
        MoshiForCausalLM.from_pretrained(tmp_path / "evil.pt")


# -- LoRA and int8 -------------------------------------------------------------------------------------------


def _lora_matrices(state, split):
    """LoRA matrices for every linear layer of a state dict in today's packing, as fine-tuning saves them."""
    generator = torch.Generator().manual_seed(5)
    out = {}
    for name, weight in state.items():
        if weight.dim() != 2 or "emb" in name or name.startswith("condition_provider"):
            continue
        base = name.removesuffix(".weight")
        out[f"{base}.lora_A.weight"] = torch.randn(3, weight.shape[1], generator=generator) * 0.1
        out[f"{base}.lora_B.weight"] = torch.randn(weight.shape[0], 3, generator=generator) * 0.1
    if split:
        return out
    packs: dict = {}
    for name in list(out):
        if "_projs." in name:
            base, _, rest = name.partition("_projs.")
            index, _, matrix = rest.partition(".")
            packs.setdefault(f"{base}_proj.{matrix}", []).append((int(index), out.pop(name)))
    return out | {
        name: torch.cat([t for _, t in sorted(parts, key=lambda p: p[0])]) for name, parts in packs.items()
    }


@pytest.mark.parametrize("split", [True, False])
@torch.no_grad()
def test_lora_is_merged_as_the_original_merges_it(folders, tmp_path, split):
    from moshi.modules.lora import replace_all_linear_with_lora, replace_lora_with_linear

    folder, original, _ = folders["moshi"]
    matrices = _lora_matrices(original.state_dict(), split)
    save_file(matrices, tmp_path / "lora.safetensors")
    reference = copy.deepcopy(original)
    replace_all_linear_with_lora(reference, 3, 2.0)
    assert not reference.load_state_dict(matrices, strict=False).unexpected_keys
    replace_lora_with_linear(reference)
    codes = columns(tiny.MOSHI)
    expected = reference.forward_text(codes)[1][:, 0]
    assert (expected - original.forward_text(codes)[1][:, 0]).abs().max() > 0.1
    model = MoshiForConditionalGeneration.from_pretrained(folder, lora=tmp_path / "lora.safetensors")
    ours = model(input_ids=codes[:, 0], moshi_audio_codes=codes[:, 1:5], user_audio_codes=codes[:, 5:]).logits
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    linear = model.depth_decoder.layers[1].self_attn.v_proj.linear.weight[2]  # the third depth step
    rows = reference.depformer.layers[1].self_attn.in_projs[2].weight[-16:]
    torch.testing.assert_close(linear, rows, atol=1e-5, rtol=0)


def test_a_lora_of_another_model_is_refused(folders, tmp_path):
    save_file({"nothing.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="nothing.lora_A.weight"):
        MoshiForCausalLM.from_pretrained(folders["moshi"][0], lora=tmp_path / "lora.safetensors")


def test_int8_weights_are_dequantized_row_by_row(folders, tmp_path):
    folder, original, _ = folders["moshi"]
    state, quantized = original.state_dict(), {}
    linear = {n for n, m in original.named_modules() if isinstance(m, nn.Linear)}
    for name, weight in state.items():
        if name.removesuffix(".weight") in linear:
            scale = weight.abs().amax(dim=1)
            quantized[name] = (weight / scale[:, None] * 127).round().to(torch.int8)
            quantized[name + "_scb"] = scale
        else:
            quantized[name] = weight.to(torch.bfloat16)
    packed = tiny.packed({n: t for n, t in quantized.items() if not n.endswith("_scb")})
    scales = tiny.packed({n.removesuffix("_scb"): t for n, t in quantized.items() if n.endswith("_scb")})
    released = packed | {name + "_scb": scale for name, scale in scales.items()}
    for path, tensors in ((tmp_path / "split", quantized), (tmp_path / "released", released)):
        path.mkdir()
        save_file(tensors, path / "model.q8.safetensors")
        (path / "config.json").write_text(
            (folder / "config.json").read_text()[:-1]
            + ', "moshi_name": "model.q8.safetensors", "quantize": true}'
        )
        loaded = MoshiForCausalLM.from_pretrained(path)
        exact = MoshiForCausalLM.from_pretrained(folder)
        for (name, ours), (_, true) in zip(
            loaded.state_dict().items(), exact.state_dict().items(), strict=True
        ):
            assert ours.dtype == torch.bfloat16
            step = true.abs().max() / 127 if true.dim() > 1 else 0
            torch.testing.assert_close(ours.float(), true.float(), atol=float(step) + 2e-2, rtol=0, msg=name)


# -- memory --------------------------------------------------------------------------------------------------

_MEASURE = """
import gc, os, resource, sys
import torch
from aizuchi import MoshiForConditionalGeneration
import aizuchi.models.moshi.conditional, aizuchi.checkpoints
import transformers.modeling_utils, transformers.generation
tiny = sys.argv[2]
MoshiForConditionalGeneration.from_pretrained(tiny)  # what importing and building cost is not the question
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
for kwargs in ({}, {"dtype": torch.float16}):
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = resident()
    model = MoshiForConditionalGeneration.from_pretrained(sys.argv[1], **kwargs)
    peak = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
    size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    print(size, peak - before)
    del model
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc"
)
def test_memory_peaks_near_the_models_own_size(folders, tmp_path):
    large = tiny.MOSHI | {
        "dim": 512,
        "num_layers": 16,
        "num_heads": 8,
        "depformer_dim": 256,
        "depformer_dim_feedforward": 1056,
        "depformer_num_heads": 4,
        "text_card": 2000,
    }
    tiny.kyutai_folder(tmp_path / "large", tiny.MOSHI)
    names = json.loads((tmp_path / "large" / "config.json").read_text())
    (tmp_path / "large" / "config.json").write_text(json.dumps(names | large))
    shapes = {
        n: s for g in moshi_groups(moshi_config(large, mimi_config(tiny.MIMI))) for n, s in g.theirs.items()
    }
    weights = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "large" / "model.safetensors")
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path / "large", folders["moshi"][0]],
        capture_output=True,
        text=True,
        check=False,
        # glibc would keep what the first model frees and give it to the second, which then would seem small.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():  # as it is, and cast
        size, peak = map(int, line.split())
        assert size > 100e6 and peak > 0.9 * size  # the measure itself works
        # Twice the size would be a second copy; the largest group of tensors is a few percent of the model.
        assert peak < 1.25 * size, f"a model of {size / 1e6:.0f} MB peaked at {peak / 1e6:.0f} MB"
    assert len(result.stdout.splitlines()) == 2
