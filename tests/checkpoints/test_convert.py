"""Conversion: bit-identical round trips from both sides, and a target that is whole or not there at all."""

from __future__ import annotations

import filecmp
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import aizuchi
from aizuchi import MimiModel, MoshiForConditionalGeneration
from aizuchi.checkpoints import CheckpointError
from aizuchi.checkpoints.convert import convert

from . import tiny

FILES = ("model.safetensors", "mimi-tiny.safetensors", "tokenizer_tiny.model")


def quiet(*args, **kwargs):
    return convert(*args, progress=False, **kwargs)


def read_json(path):
    return json.loads(path.read_text())


def same_tensors(a, b):
    """Whether two models hold the same bits."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def kyutai(tmp_path_factory):
    root = tmp_path_factory.mktemp("kyutai")
    for family, raw in tiny.FAMILIES.items():
        tiny.kyutai_folder(root / family, raw)
    return root


def transformers_model(seed=0):
    """A tiny model of transformers' own class, with random weights everywhere."""
    torch.manual_seed(seed)
    codec = transformers.MimiConfig(
        hidden_size=16,
        num_filters=2,
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=8,
        upsample_groups=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    config = transformers.MoshiConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=88,
        sliding_window=30,
        max_position_embeddings=30,
        num_codebooks=4,
        audio_vocab_size=16,
        audio_encoder_config=codec.to_dict(),
        depth_decoder_config={
            "hidden_size": 16,
            "input_size": 32,
            "vocab_size": 60,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 88,
            "num_codebooks": 4,
            "audio_vocab_size": 16,
            "max_position_embeddings": 5,
            "sliding_window": 4,
        },
    )
    model = transformers.MoshiForConditionalGeneration(config)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.2)
    return model


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """A checkpoint that transformers wrote, with its tokenizer as the published ones have it."""
    from transformers.convert_slow_tokenizer import MoshiConverter

    folder = tmp_path_factory.mktemp("hf") / "model"
    model = transformers_model()
    model.generation_config.update(
        do_sample=True, temperature=0.6, top_k=20, pad_token_id=60, bos_token_id=60
    )
    model.generation_config.depth_decoder_config = {"do_sample": True, "temperature": 0.9, "top_k": 100}
    model.save_pretrained(folder)
    pieces = tiny.train_tokenizer(folder / "pieces.model")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=MoshiConverter(str(pieces)).converted(),
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    pieces.unlink()
    pieces.with_suffix(".vocab").unlink()
    transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=24000).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_kyutai_to_hf_and_back_gives_the_same_files(kyutai, tmp_path, family):
    quiet(kyutai / family, tmp_path / "hf")
    quiet(tmp_path / "hf", tmp_path / "back")
    assert not filecmp.cmpfiles(kyutai / family, tmp_path / "back", FILES, shallow=False)[1:][0]
    for name in FILES:
        assert (tmp_path / "back" / name).read_bytes() == (kyutai / family / name).read_bytes(), name
    for name in ("config.json", "mimi_config.json"):
        assert read_json(tmp_path / "back" / name) == read_json(kyutai / family / name)


def test_kyutai_in_todays_packing_comes_back_in_todays_packing(tmp_path):
    tiny.kyutai_folder(tmp_path / "in", tiny.MOSHI, released=False)
    quiet(tmp_path / "in", tmp_path / "hf")
    quiet(tmp_path / "hf", tmp_path / "back")
    for name in FILES:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "in" / name).read_bytes(), name


def test_kyutai_to_hf_is_what_loads_from_the_original(kyutai, tmp_path):
    quiet(kyutai / "tts", tmp_path / "hf")
    direct = aizuchi.load(kyutai / "tts")
    converted = aizuchi.load(tmp_path / "hf")
    assert same_tensors(direct.model, converted.model)
    ours, theirs = (m.model.generation_config.to_dict() for m in (direct, converted))
    assert {n: v for n, v in ours.items() if n != "transformers_version"} == {
        n: v for n, v in theirs.items() if n != "transformers_version"
    }
    text = "hello moshi<pad><unk> how"
    assert direct.tokenizer.encode(text) == converted.tokenizer.encode(text)
    assert direct.feature_extractor.to_dict() == converted.feature_extractor.to_dict()


def test_a_converted_checkpoint_loads_in_transformers_itself(kyutai, tmp_path):
    quiet(kyutai / "moshi", tmp_path / "hf")
    theirs = transformers.MoshiForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ours = MoshiForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = torch.randint(60, (1, 5))
    ours_logits, theirs_logits = (model.decoder(input_ids=ids).logits for model in (ours, theirs))
    torch.testing.assert_close(ours_logits, theirs_logits, atol=1e-5, rtol=0)


def test_hf_to_kyutai_and_back_gives_the_same_tensors_and_files(hf, tmp_path):
    quiet(hf, tmp_path / "kyutai")
    quiet(tmp_path / "kyutai", tmp_path / "back")
    before, after = load_file(hf / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    for path in hf.glob("*.json"):
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes(), path.name


@torch.no_grad()
def test_hf_to_kyutai_loads_in_the_original(hf, tmp_path):
    from moshi.models import loaders

    quiet(hf, tmp_path / "kyutai")
    raw = read_json(tmp_path / "kyutai" / "config.json")
    lm = tiny.original_lm(raw)
    lm.load_state_dict(load_file(tmp_path / "kyutai" / raw["moshi_name"]))
    mimi = loaders.get_mimi(
        tmp_path / "kyutai" / raw["mimi_name"], read_json(tmp_path / "kyutai" / raw["mimi_config_name"])
    )
    ours = MoshiForConditionalGeneration.from_pretrained(hf)
    codes = torch.cat([torch.randint(60, (1, 1, 6)), torch.randint(16, (1, 8, 6))], dim=1)
    expected = lm.forward_text(codes)[1][:, 0]
    logits = ours(
        input_ids=codes[:, 0], moshi_audio_codes=codes[:, 1:5], user_audio_codes=codes[:, 5:]
    ).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    # in float64: in float32 a CPU's own order of sums moves single samples by 1e-4
    wave = mimi.double().decode(codes[:, 1:5])
    torch.testing.assert_close(
        ours.audio_encoder.double().decode(codes[:, 1:5]).audio_values, wave, atol=1e-9, rtol=1e-9
    )
    # the sampling defaults are LMGen's, in its words
    assert raw["lm_gen_config"] == {"temp_text": 0.6, "top_k_text": 20, "temp": 0.9, "top_k": 100}


def test_an_edited_generation_config_survives_both_ways(kyutai, tmp_path):
    quiet(kyutai / "moshi", tmp_path / "hf")
    generation = read_json(tmp_path / "hf" / "generation_config.json") | {
        "temperature": 0.5,
        "max_length": 99,
    }
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(generation))
    quiet(tmp_path / "hf", tmp_path / "kyutai")
    assert read_json(tmp_path / "kyutai" / "config.json")["lm_gen_config"] == {"temp_text": 0.5}
    quiet(tmp_path / "kyutai", tmp_path / "back")
    assert read_json(tmp_path / "back" / "generation_config.json") == generation
    # edited on the original's side since: that counts
    raw = read_json(tmp_path / "kyutai" / "config.json") | {"lm_gen_config": {"temp": 0.3}}
    (tmp_path / "kyutai" / "config.json").write_text(json.dumps(raw))
    quiet(tmp_path / "kyutai", tmp_path / "again")
    again = read_json(tmp_path / "again" / "generation_config.json")
    assert (again["temperature"], again["depth_decoder_config"]["temperature"]) == (0.7, 0.3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_saved_after_training_goes_back_to_the_original(kyutai, tmp_path, family):
    folder = kyutai / family
    model = MoshiForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.decoder.model.norm.weight += 1
    model.save_pretrained(tmp_path / "trained")
    assert same_tensors(MoshiForConditionalGeneration.from_pretrained(tmp_path / "trained"), model)
    with pytest.raises(CheckpointError, match="tokenizer"):
        quiet(tmp_path / "trained", tmp_path / "back")
    out = quiet(tmp_path / "trained", tmp_path / "back", tokenizer=folder / "tokenizer_tiny.model")
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["out_norm.alpha"]
    assert (out / "tokenizer_tiny.model").read_bytes() == (folder / "tokenizer_tiny.model").read_bytes()
    assert same_tensors(MoshiForConditionalGeneration.from_pretrained(out), model)


def test_large_checkpoints_are_sharded(kyutai, tmp_path):
    quiet(kyutai / "moshi", tmp_path / "hf", shard_bytes=100_000)
    shards = sorted((tmp_path / "hf").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "hf" / "model.safetensors").exists()
    index = read_json(tmp_path / "hf" / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for path in shards for t in load_file(path).values()
    )
    assert same_tensors(
        MoshiForConditionalGeneration.from_pretrained(tmp_path / "hf"),
        MoshiForConditionalGeneration.from_pretrained(kyutai / "moshi"),
    )
    quiet(tmp_path / "hf", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        kyutai / "moshi" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("start", ["hf", "kyutai"])
@pytest.mark.parametrize("to", ["hf", "kyutai"])
def test_dtype_casts_the_language_model_alone(kyutai, tmp_path, start, to):
    source = kyutai / "tts"
    if start == "hf":
        source = quiet(source, tmp_path / "start")
    out = quiet(source, tmp_path / "out", to=to, dtype=torch.float32)
    model = MoshiForConditionalGeneration.from_pretrained(out)
    exact = MoshiForConditionalGeneration.from_pretrained(kyutai / "tts")
    assert model.dtype == torch.float32
    expected = exact.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].float()), name


def test_a_mimi_file_converts_alone(kyutai, tmp_path):
    original = kyutai / "moshi" / "mimi-tiny.safetensors"
    quiet(original, tmp_path / "hf")
    assert same_tensors(MimiModel.from_pretrained(tmp_path / "hf"), MimiModel.from_pretrained(original))
    theirs = transformers.MimiModel.from_pretrained(tmp_path / "hf")
    assert theirs.config.num_quantizers == 8
    quiet(tmp_path / "hf", tmp_path / "back")
    assert (tmp_path / "back" / "mimi.safetensors").read_bytes() == original.read_bytes()
    assert same_tensors(MimiModel.from_pretrained(tmp_path / "back"), MimiModel.from_pretrained(original))


def test_a_merged_lora_is_not_named_in_the_result(kyutai, tmp_path):
    folder = kyutai / "moshi"
    source = tmp_path / "in"
    source.mkdir()
    for path in folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    save_file(
        {"text_linear.lora_A.weight": torch.ones(2, 32), "text_linear.lora_B.weight": torch.ones(60, 2)},
        source / "lora.safetensors",
    )
    raw = read_json(folder / "config.json") | {"lora": True, "lora_rank": 2, "lora_scaling": 0.5}
    (source / "config.json").write_text(json.dumps(raw | {"lora_name": "lora.safetensors"}))
    quiet(source, tmp_path / "hf")
    head = load_file(tmp_path / "hf" / "model.safetensors")["decoder.lm_head.weight"]
    plain = load_file(folder / "model.safetensors")["text_linear.weight"]
    assert torch.equal(head, (plain.float() + 0.5 * 2).to(torch.bfloat16))
    quiet(tmp_path / "hf", tmp_path / "back")
    assert not {"lora", "lora_name"} & read_json(tmp_path / "back" / "config.json").keys()


# -- the target ----------------------------------------------------------------------------------------------


def test_an_existing_target_is_not_overwritten(kyutai, tmp_path):
    out = quiet(kyutai / "moshi", tmp_path / "hf")
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="--force"):
        quiet(kyutai / "stt", out)
    assert (out / "model.safetensors").read_bytes() == before
    quiet(kyutai / "stt", out, force=True)
    assert (out / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


def test_force_replaces_checkpoints_only(kyutai, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        quiet(kyutai / "moshi", tmp_path / "home", force=True)
    assert (tmp_path / "home" / "diary.txt").exists()


def test_a_failure_leaves_nothing_behind(kyutai, tmp_path, monkeypatch):
    from aizuchi.checkpoints import to_hf

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(to_hf, "save_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        quiet(kyutai / "moshi", tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_the_same_layout_needs_a_reason(kyutai, tmp_path):
    with pytest.raises(CheckpointError, match="already"):
        quiet(kyutai / "moshi", tmp_path / "out", to="kyutai")
    with pytest.raises(CheckpointError, match="`to`"):
        quiet(kyutai / "moshi", tmp_path / "out", to="mlx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [({"rms_norm_eps": 1e-3}, "rms_norm_eps"), ({"head_dim": 16}, "head_dim")],
)
def test_what_the_original_can_not_express_is_refused_by_name(hf, tmp_path, change, named):
    (tmp_path / "in").mkdir()
    for path in hf.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "config.json").write_text(json.dumps(read_json(hf / "config.json") | change))
    with pytest.raises(CheckpointError, match=named):
        quiet(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
