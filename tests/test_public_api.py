"""The names that the package promises: all importable, documented, and the same objects as in their modules."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aizuchi

DOCUMENTED = (
    "MoshiConfig MoshiDepthConfig MoshiModel MoshiForCausalLM MoshiDepthDecoder MoshiForConditionalGeneration "
    "MoshiCausalLMOutputWithPast MoshiConditionalGenerationOutputWithPast MoshiConditionalGenerationGenerateOutput "
    "MoshiUnconditionalInput MimiConfig MimiModel MimiOutput MimiEncoderOutput MimiDecoderOutput"
).split()
FORWARD = (
    "input_ids attention_mask user_input_values user_audio_codes moshi_input_values moshi_audio_codes "
    "past_key_values inputs_embeds text_labels audio_labels use_cache output_attentions output_hidden_states "
    "return_dict"
).split()
GENERATE = (
    "input_ids user_input_values user_audio_codes moshi_input_values moshi_audio_codes inputs_embeds "
    "return_audio_waveforms return_audio_codes concat_unconditional_inputs"
).split()
TEXT = (
    "input_ids attention_mask position_ids past_key_values inputs_embeds use_cache output_attentions "
    "output_hidden_states return_dict cache_position"
).split()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_names_are_importable(name):
    value = getattr(aizuchi, name)
    assert value.__name__ == name and value.__doc__ and name in aizuchi.__all__


def test_A8_the_depth_decoder_is_public():
    from aizuchi import MoshiDepthDecoder

    assert MoshiDepthDecoder.__module__.startswith("aizuchi.models.moshi")


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_K1_K4_K7_K13_documented_arguments_in_their_order():
    whole = aizuchi.MoshiForConditionalGeneration
    assert parameters(whole.forward)[1 : 1 + len(FORWARD)] == FORWARD
    assert parameters(whole.generate)[1 : 1 + len(GENERATE)] == GENERATE
    assert parameters(aizuchi.MoshiModel.forward)[1 : 1 + len(TEXT)] == TEXT
    text = parameters(aizuchi.MoshiForCausalLM.forward)
    assert text[1:7] == [*TEXT[:5], "labels"] and {"num_logits_to_keep", "logits_to_keep"} <= set(text)
    assert parameters(aizuchi.MoshiDepthDecoder.forward)[1:4] == [
        "input_ids",
        "last_hidden_state",
        "attention_mask",
    ]
    assert parameters(whole.get_unconditional_inputs) == ["self", "num_samples"]


def test_K23_documented_methods_exist():
    for name in (
        "freeze_audio_encoder freeze_depth_decoder get_depth_decoder get_audio_encoder get_decoder "
        "get_input_embeddings set_input_embeddings get_output_embeddings set_output_embeddings "
        "build_delay_pattern_mask apply_delay_pattern_mask get_unconditional_inputs from_pretrained "
        "save_pretrained resize_token_embeddings prepare_training_inputs"
    ).split():
        assert callable(getattr(aizuchi.MoshiForConditionalGeneration, name))


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'MoshiForTelepathy'"):
        aizuchi.MoshiForTelepathy  # noqa: B018


def test_importing_the_package_is_light():
    code = "import sys, aizuchi; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert set(aizuchi.__all__) <= set(dir(aizuchi))


@pytest.mark.parametrize("page", ["coming-from-transformers.md", "coming-from-moshi.md"])
def test_tests_that_the_pages_name_exist(page):
    root = Path(__file__).resolve().parent.parent
    named = set(re.findall(r"\btest_\w+", (root / "docs" / page).read_text(encoding="utf-8")))
    files = list((root / "tests").rglob("test_*.py"))
    known = {file.stem for file in files}
    for file in files:
        known |= set(re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))
    assert len(named) > 10 and not named - known
