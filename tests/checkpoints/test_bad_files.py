"""Files that are missing, cut off, foreign or of another size: refused with the file, the key and the shape."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from aizuchi import MimiModel, MoshiForCausalLM, MoshiForConditionalGeneration
from aizuchi.checkpoints import CheckpointError
from aizuchi.checkpoints.convert import convert

from . import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "kyutai"
    tiny.kyutai_folder(folder, tiny.MOSHI)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(whole, tmp_path / "model")


def refused(*parts, cls=MoshiForConditionalGeneration):
    """Loading raises an error of ours whose message has all these parts; conversion writes nothing."""

    def check(path, convert_too=True):
        with pytest.raises(CheckpointError) as error:
            cls.from_pretrained(path)
        for part in parts:
            assert part in str(error.value), f"{part!r} not in {error.value}"
        if convert_too:
            out = path.parent / "out"
            with pytest.raises(CheckpointError):
                convert(path, out, progress=False)
            assert not out.exists() and not list(path.parent.glob(".out*"))

    return check


def change(path, **tensors):
    state = load_file(path)
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, path)


@pytest.mark.parametrize("left", [0.9, 0.2])
def test_a_truncated_file_is_refused_with_the_first_tensor_that_is_hurt(folder, left):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    refused("model.safetensors", "cut off", "of shape (", "tensors are affected")(folder)


def test_a_truncated_mimi_is_refused(folder):
    path = folder / "mimi-tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused("mimi-tiny.safetensors", "cut off", "of shape (")(folder)
    refused("mimi-tiny.safetensors", "cut off", "of shape (", cls=MimiModel)(path)


def test_a_truncated_file_of_the_hf_layout_is_refused(folder, tmp_path):
    out = convert(folder, tmp_path / "hf", progress=False)
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])
    refused("model.safetensors", "cut off", "of shape (")(out)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x10\x00", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{", "cut off inside its header"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00no", "header can't be read"),
    ],
)
def test_what_is_no_safetensors_file_is_named(folder, content, words):
    (folder / "model.safetensors").write_bytes(content)
    refused("model.safetensors", words)(folder)


def test_a_missing_tensor_is_named_with_its_shape(folder):
    change(folder / "model.safetensors", transformer__layers__1__gating__linear_out__weight=None)
    refused("lacks 'transformer.layers.1.gating.linear_out.weight' of shape (32, 88)", "1 of 59")(folder)


def test_a_missing_step_of_a_stacked_weight_is_named(folder):
    change(folder / "model.safetensors", linears__3__weight=None)
    refused("lacks 'linears.3.weight' of shape (16, 16)")(folder)


def test_another_shape_is_named_with_the_expected_one(folder):
    change(folder / "model.safetensors", text_emb__weight=torch.zeros(55, 32))
    refused("'text_emb.weight' has shape (55, 32), the configuration expects (61, 32)")(folder)


def test_a_tensor_too_many_is_named(folder):
    change(folder / "model.safetensors", depformer_norms__0__weight=torch.zeros(16))
    refused("'depformer_norms.0.weight' of shape (16,)", "no place")(folder)


def test_a_configuration_of_another_model_is_refused(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"dim": 64}))
    refused("has shape (61, 32), the configuration expects (61, 64)")(folder)


def test_a_foreign_file_is_refused_with_what_it_holds(folder):
    save_file({"bert.embeddings.weight": torch.zeros(3, 4)}, folder / "model.safetensors")
    refused("no Moshi language model", "'bert.embeddings.weight' (3, 4)")(folder)


def test_mimi_where_the_language_model_should_be(folder):
    shutil.copyfile(folder / "mimi-tiny.safetensors", folder / "model.safetensors")
    refused("no Moshi language model", "it holds 'decoder.model.0.conv")(folder)


def test_a_language_model_where_mimi_should_be(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "mimi-tiny.safetensors")
    refused("mimi-tiny.safetensors", "no Mimi codec")(folder)


def test_mimi_of_another_size_is_refused_with_key_and_shapes(folder):
    raw = json.loads((folder / "mimi_config.json").read_text())
    raw["transformer"]["dim_feedforward"] = 64
    (folder / "mimi_config.json").write_text(json.dumps(raw))
    refused("mlp.fc1.weight' has shape (32, 16), the configuration expects (64, 16)")(folder)


def test_mimi_without_one_of_its_tensors(folder):
    change(folder / "mimi-tiny.safetensors", quantizer__rvq_first__input_proj__weight=None)
    refused("quantizer.semantic_residual_vector_quantizer.input_proj.weight")(folder)


def test_mlx_quantization_is_refused_with_what_to_take(folder):
    change(folder / "model.safetensors", text_linear__scales=torch.zeros(3))
    (folder / "config.json").unlink()
    refused("MLX", "PyTorch")(folder)


def test_int8_without_its_scale_is_refused(folder):
    change(folder / "model.safetensors", text_linear__weight=torch.zeros(60, 32, dtype=torch.int8))
    refused("'text_linear.weight' is int8", "text_linear.weight_scb")(folder)


# -- missing files -------------------------------------------------------------------------------------------


def test_missing_weights_say_what_was_looked_for_and_where(folder):
    (folder / "model.safetensors").unlink()
    refused("model.safetensors", str(folder), "it holds config.json")(folder)


def test_a_missing_mimi_says_what_was_looked_for_and_where(folder):
    (folder / "mimi-tiny.safetensors").unlink()
    refused("mimi-tiny.safetensors", "tokenizer-*.safetensors", str(folder), "`mimi`")(folder)
    assert MoshiForCausalLM.from_pretrained(folder)  # which needs none


def test_a_missing_tokenizer_says_what_was_looked_for_and_where(folder, tmp_path):
    (folder / "tokenizer_tiny.model").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer_tiny\.model and \*\.model"):
        convert(folder, tmp_path / "out", progress=False)
    assert MoshiForConditionalGeneration.from_pretrained(folder)  # the models need none


def test_a_missing_description_of_mimi(folder):
    (folder / "mimi_config.json").unlink()
    refused("mimi_config.json", "config.json names")(folder)


def test_a_missing_lora(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"lora_name": "lora.safetensors"}))
    refused("'lora.safetensors'", "config.json names")(folder)


def test_a_missing_shard(folder, tmp_path):
    out = convert(folder, tmp_path / "hf", progress=False, shard_bytes=100_000)
    next(out.glob("model-00002*")).unlink()
    refused("model-00002-of-", "not there")(out)


def test_a_single_file_of_the_hf_layout_points_to_its_folder(folder, tmp_path):
    out = convert(folder, tmp_path / "hf", progress=False)
    with pytest.raises(CheckpointError, match="give its folder"):
        MoshiForConditionalGeneration.from_pretrained(out / "model.safetensors")


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    refused("no checkpoint in", "config.json", "model.safetensors", "it holds nothing")(tmp_path / "empty")


def test_no_such_path(tmp_path):
    refused("no such file or folder")(tmp_path / "nowhere")


def test_a_broken_config_json(folder):
    (folder / "config.json").write_text("{'dim': 32,")
    refused("config.json can't be read as JSON")(folder)


def test_a_file_that_is_no_file_of_weights(folder):
    refused("tokenizer_tiny.model", "give the folder")(folder / "tokenizer_tiny.model")


def test_hf_weights_of_another_model_are_refused(folder, tmp_path):
    out = convert(folder, tmp_path / "hf", progress=False)
    state = load_file(out / "model.safetensors")
    state["depth_decoder.lm_heads.weight"] = torch.zeros(4, 9, 16)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"depth_decoder.lm_heads.weight.*\(4, 9, 16\).*\(4, 16, 16\)"):
        MoshiForConditionalGeneration.from_pretrained(out)
    with pytest.raises(CheckpointError, match=r"depth_decoder.lm_heads.weight.*\(4, 9, 16\).*\(4, 16, 16\)"):
        convert(out, tmp_path / "out", progress=False)
