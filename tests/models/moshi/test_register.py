"""Rows C14, K26: transformers' Auto classes give ours after `register`, and the published layout loads."""

import subprocess
import sys

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM

import aizuchi
from tests.models.moshi.reference import tiny_model


def test_K26_auto_classes_resolve_to_ours(tmp_path):
    """In a process of its own: registering changes transformers for everybody."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    model.decoder.save_pretrained(tmp_path / "text")
    model.depth_decoder.save_pretrained(tmp_path / "depth")
    model.audio_encoder.save_pretrained(tmp_path / "mimi")
    code = f"""
import transformers, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoFeatureExtractor, EncodecFeatureExtractor
assert type(AutoConfig.for_model("moshi")) is transformers.MoshiConfig
import aizuchi
aizuchi.register()
aizuchi.register()
folder = {str(tmp_path)!r}
for kind, config in (("whole", aizuchi.MoshiConfig), ("depth", aizuchi.MoshiDepthConfig), ("mimi", aizuchi.MimiConfig)):
    assert type(AutoConfig.from_pretrained(folder + "/" + kind)) is config, kind
assert type(AutoModelForCausalLM.from_pretrained(folder + "/whole")) is aizuchi.MoshiForCausalLM
assert type(AutoModelForCausalLM.from_pretrained(folder + "/text")) is aizuchi.MoshiForCausalLM
assert type(AutoModel.from_pretrained(folder + "/whole")) is aizuchi.MoshiModel
assert type(AutoModel.from_pretrained(folder + "/mimi")) is aizuchi.MimiModel
assert type(AutoModel.from_pretrained(folder + "/depth")) is aizuchi.MoshiDepthDecoder
extractor = EncodecFeatureExtractor(sampling_rate=24000)
extractor.save_pretrained(folder + "/whole")
assert type(AutoFeatureExtractor.from_pretrained(folder + "/whole")) is EncodecFeatureExtractor
print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip() == "done", run.stderr


def test_without_register_transformers_keeps_its_own():
    assert AutoConfig.for_model("moshi").__class__.__module__.startswith("transformers.")
    assert AutoModel and AutoModelForCausalLM and AutoFeatureExtractor


def test_C14_the_original_s_names_convert_and_give_the_same_logits():
    """The mapping of `aizuchi convert`, both ways; `tests/checkpoints` has the files."""
    from aizuchi.checkpoints.moshi_layout import moshi_groups

    model = tiny_model(num_key_value_heads=2)
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("audio_encoder.")}
    theirs, back = {}, {}
    for group in moshi_groups(model.config):
        theirs |= dict(zip(group.theirs, group.to_theirs([ours[name] for name in group.ours]), strict=True))
    for group in moshi_groups(model.config):
        back |= dict(zip(group.ours, group.to_ours([theirs[name] for name in group.theirs]), strict=True))
    assert back.keys() == ours.keys() and all(torch.equal(back[k], ours[k]) for k in ours)
    assert theirs["out_norm.alpha"].shape == (1, 1, 48)
    assert aizuchi.MoshiForConditionalGeneration is type(model)
