"""Adapters: nothing at first, trained alone, saved alone, merged exactly, served either way."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from aizuchi import checkpoints
from aizuchi.audio import write_audio
from aizuchi.checkpoints.adapters import ADAPTER, load_adapters
from aizuchi.cli import main
from aizuchi.engine.sampling import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.models.adapters import LoraLayer, adapted, add_adapters, merge_adapters
from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.serve.loading import load_served
from aizuchi.train.logs import read_log
from aizuchi.train.lora import merge_folder
from aizuchi.train.rollout import roll_out
from aizuchi.train.start import find_tokenizer
from tests.train.tiny import config_of, dialogues, launch, trainer_of


@pytest.fixture
def base(tmp_path):
    trainer = trainer_of(config_of(tmp_path / "base", steps=1))
    return str(trainer.export())


def lora_config(tmp_path, base, **changes):
    return config_of(tmp_path / "lora", model=None, checkpoint=base, lora=dict(rank=4), **changes)


def load(folder):
    return MoshiForConditionalGeneration.from_pretrained(folder).eval()


def logits_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randint(0, 30, shape, generator=generator)  # noqa: E731
    text, own, user = draw(2, 6), draw(2, 4, 6), draw(2, 4, 6)
    with torch.no_grad():
        out = model(
            input_ids=text, moshi_audio_codes=own, user_audio_codes=user, text_labels=text, audio_labels=own
        )
    return torch.cat([out.logits.flatten(), out.audio_logits.flatten()])


def test_new_adapters_change_nothing_and_stand_beside_every_layer(base):
    model = load(base)
    before = logits_of(model)
    add_adapters(model, rank=4)
    assert torch.equal(logits_of(model), before)
    kinds = {name.split(".")[0] for name in adapted(model)}
    assert kinds == {"decoder", "depth_decoder"}
    layers = 2 * 6 + 1 * 6 + 1  # four projections and two of the mlp a layer, and the depth decoder's input
    assert len(adapted(model)) == layers
    with pytest.raises(AizuchiError, match="adapters already"):
        add_adapters(model)


def test_a_run_trains_its_adapters_alone_and_merges_exactly(tmp_path, base):
    trainer = trainer_of(lora_config(tmp_path, base, steps=5))
    frozen = {n: p.clone() for n, p in trainer.plain.named_parameters() if "lora_" not in n}
    folder = trainer.run()
    for name, parameter in trainer.plain.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, frozen[name]), name
        elif "lora_B" in name:
            assert parameter.abs().max() > 0, name
    assert {p.name for p in folder.iterdir()} == {"adapter.safetensors", "adapter.json"}
    served = load(base)
    load_adapters(served, folder)
    served.eval()
    with_adapters = logits_of(served)
    assert not torch.allclose(with_adapters, logits_of(load(base)), atol=1e-3)
    merged = load(merge_folder(folder, tmp_path / "merged"))
    torch.testing.assert_close(logits_of(merged), with_adapters, rtol=0, atol=2e-5)
    assert not adapted(merged) and merged.state_dict().keys() == load(base).state_dict().keys()
    user = torch.from_numpy(dialogues(2)[0].user[None, :, :10].astype("int64"))
    for a, b in zip(roll_out(served, user), roll_out(merged, user, sampling=Sampling.greedy())):
        assert torch.equal(a, b)


def test_merging_is_the_product_added_for_both_kinds_of_layer(base):
    model = load(base)
    add_adapters(model, rank=3, scale=0.5)
    torch.manual_seed(0)
    expected = {}
    for name, layer in adapted(model).items():
        assert isinstance(layer, LoraLayer)
        torch.nn.init.normal_(layer.lora_B.weight)
        expected[name] = layer.base.weight + 0.5 * layer.lora_B.weight @ layer.lora_A.weight
    merge_adapters(model)
    for name, weight in expected.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight, rtol=0, atol=1e-6)


def test_a_resumed_adapter_run_ends_in_the_same_bits(tmp_path, base):
    config = lora_config(tmp_path, base, steps=6, save_every=3)
    whole = load_file(trainer_of(config).run() / ADAPTER)
    short = dataclasses.replace(config, output=str(tmp_path / "again"))
    first = trainer_of(short)
    for step in range(3):
        first.train_step(first.batches[step])
    first.save()
    again = load_file(trainer_of(short).run() / ADAPTER)
    assert whole.keys() == again.keys() and all(torch.equal(whole[n], again[n]) for n in whole)


def test_adapters_serve_wherever_a_model_does(tmp_path, base, capsys):
    folder = trainer_of(lora_config(tmp_path, base, steps=2, save_every=0)).run()
    loaded = checkpoints.load(folder)
    merged = load(merge_folder(folder, tmp_path / "merged"))
    assert not adapted(loaded.model) and f"LoRA adapters {folder}" in loaded.description
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
    sound = tmp_path / "user.wav"
    write_audio(sound, 0.2 * np.random.default_rng(0).standard_normal(9600))
    for model in (folder, tmp_path / "merged"):
        assert main(["reply", str(sound), "-q", "-m", str(model), "-o", f"{model}.wav"]) == 0
    assert (tmp_path / "merged.wav").read_bytes() == Path(f"{folder}.wav").read_bytes()
    assert load_served(str(folder)).description == loaded.description
    assert main(["models", str(folder)]) == 0
    assert f"LoRA adapters   {folder}" in capsys.readouterr().out


def test_the_base_models_tokenizer_goes_along(tmp_path, base):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat", "on the mat"] * 4),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=16,
        pad_id=3,
        minloglevel=2,
    )
    (Path(base) / "tokenizer_spm.model").write_bytes((tmp_path / "spm.model").read_bytes())
    config = lora_config(tmp_path, base, steps=1, save_every=0)
    trainer = trainer_of(config)
    trainer.tokenizer = find_tokenizer(config, [])
    folder = trainer.run()
    for place in (folder, merge_folder(folder, tmp_path / "merged")):
        assert (place / "tokenizer_spm.model").read_bytes() == (tmp_path / "spm.model").read_bytes()
        ids = checkpoints.load(place).tokenizer.encode("the cat")
        assert ids == trainer.tokenizer.tokenizer.encode("the cat") and len(ids) > 2


def test_adapters_are_no_model_and_say_so(tmp_path, base, capsys):
    folder = trainer_of(lora_config(tmp_path, base, steps=1)).run()
    with pytest.raises(AizuchiError, match="holds LoRA adapters and no model.*`aizuchi train merge"):
        load(folder)
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "merge them first (`aizuchi train merge" in capsys.readouterr().err
    settings = (folder / "adapter.json").read_text()
    for text, message in (
        (settings.replace(base, "/nowhere"), "for /nowhere .*no such file.*--base"),
        (settings.replace(f'"{base}"', "null"), "does not say for which model.*--base"),
        ("{", "is no folder of LoRA adapters"),
    ):
        (folder / "adapter.json").write_text(text)
        with pytest.raises(AizuchiError, match=message):
            checkpoints.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_of_a_sharded_model_equal_those_of_a_whole_one(tmp_path, base, precision):
    rates = dict(learning_rate=1e-3, depth_learning_rate=1e-3)
    config = lora_config(tmp_path, base, steps=4, shard=True, precision=precision, optimizer=rates)
    assert "holds 0.5" in launch(config, tmp_path)
    sharded = load_file(tmp_path / "lora/model" / ADAPTER)
    one = load_file(trainer_of(dataclasses.replace(config, output=str(tmp_path / "one"))).run() / ADAPTER)
    assert sharded.keys() == one.keys()
    if precision == "fp32":
        for name, value in one.items():
            torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-6, msg=name)
    losses = [
        [float(r["loss"]) for r in read_log(tmp_path / n / "log.csv") if "loss" in r] for n in ("lora", "one")
    ]
    # in bf16 the shards' weights are bf16, the whole model's are cast where they are used: they round differently
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if precision == "fp32" else 1e-2)


def test_a_base_in_bf16_is_merged_in_bf16(tmp_path, base):
    half = MoshiForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    folder = trainer_of(lora_config(tmp_path, str(tmp_path / "half"), steps=1, save_every=0)).run()
    merged = load_file(merge_folder(folder, tmp_path / "merged") / "model.safetensors")
    kinds = {name.split(".")[0]: value.dtype for name, value in merged.items() if value.is_floating_point()}
    assert kinds["decoder"] == kinds["depth_decoder"] == torch.bfloat16
    assert kinds["audio_encoder"] == torch.float32


def test_in_bf16_the_frozen_weights_are_bf16_and_the_adapters_fp32(tmp_path, base):
    trainer = trainer_of(lora_config(tmp_path, base, precision="bf16", steps=2))
    parameters = dict(trainer.plain.named_parameters())
    codec = {name for name in parameters if name.startswith("audio_encoder.")}
    kinds = {(p.requires_grad, p.dtype) for name, p in parameters.items() if name not in codec}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert {parameters[name].dtype for name in codec} == {torch.float32}  # it decodes the samples
    original = dict(load(base).named_parameters())
    for name, parameter in parameters.items():
        if name in original:
            assert torch.equal(parameter, original[name].to(parameter.dtype)), name
    trainer.train_step(trainer.batches[0])
    assert all(layer.lora_B.weight.abs().max() > 0 for layer in adapted(trainer.plain).values())


def test_embeddings_can_be_trained_and_are_saved(tmp_path, base):
    config = lora_config(tmp_path, base, steps=2)
    config.lora.embeddings = True
    folder = trainer_of(config).run()
    names = load_file(folder / ADAPTER).keys()
    assert "decoder.model.embed_tokens.weight" in names and "embed_tokens.0.weight" in names
    served = load(base)
    load_adapters(served, folder)


def test_adapters_of_another_model_are_refused(tmp_path, base):
    folder = trainer_of(lora_config(tmp_path, base, steps=1)).run()
    settings = (folder / "adapter.json").read_text()
    (folder / "adapter.json").write_text(settings.replace('"rank": 4', '"rank": 5'))
    with pytest.raises(AizuchiError, match="do not fit this model"):
        load_adapters(load(base), folder)
    with pytest.raises(AizuchiError, match="no folder of LoRA adapters"):
        load_adapters(load(base), tmp_path)
