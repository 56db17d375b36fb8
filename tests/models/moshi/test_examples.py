"""Examples E1 to E6 of the documentation, and rows F1-F3, C10, C11: what a reader types runs.

Where the documentation downloads a model, a small one stands in, with a tokenizer trained here; the full size is
built on the meta device.
"""

import math
import random
from pathlib import Path

import pytest
import sentencepiece
import soundfile
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, EncodecFeatureExtractor

from aizuchi import (
    MoshiConfig,
    MoshiDepthConfig,
    MoshiDepthDecoder,
    MoshiForCausalLM,
    MoshiForConditionalGeneration,
)
from aizuchi.checkpoints.tokenizer import save_tokenizer
from tests.models.moshi.reference import tiny_model

SPEECH = Path(__file__).parents[2] / "assets" / "ljspeech.flac"
SENTENCES = [
    "Hey, are you conscious? Can you talk to me?",
    "Hello, I'm Moshi. How are you doing today?",
    "Printing, in the only sense with which we are at present concerned.",
    "The quick brown fox jumps over the lazy dog while the other one is still speaking.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole checkpoint folder: model, tokenizer and feature extractor, as published ones are."""
    folder = tmp_path_factory.mktemp("checkpoint")
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    shuffled = random.Random(0)
    (folder / "text").write_text("\n".join(" ".join(shuffled.choices(words, k=8)) for _ in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spm"),
        vocab_size=350,
        byte_fallback=True,
        pad_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model")).get_piece_size()
    tiny_model(vocab_size=size).save_pretrained(folder / "model")
    save_tokenizer(folder / "spm.model", folder / "model")
    EncodecFeatureExtractor(sampling_rate=24000).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def model(checkpoint):
    return MoshiForConditionalGeneration.from_pretrained(checkpoint)


def test_E1_a_configuration_makes_a_model_which_saves_and_loads(tmp_path):
    configuration = MoshiConfig()
    with torch.device("meta"):  # 31 GB otherwise
        model = MoshiForConditionalGeneration(configuration)
    assert model.config is configuration and model.config.hidden_size == 4096
    small = tiny_model()
    small.save_pretrained(tmp_path / "kyutai")
    configuration = MoshiConfig.from_pretrained(tmp_path / "kyutai")
    model = MoshiForConditionalGeneration.from_pretrained(tmp_path / "kyutai", config=configuration)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small.parameters(), strict=True))


def test_E2_forward_of_unconditional_inputs_at_full_size():
    with torch.device("meta"):
        model = MoshiForConditionalGeneration(MoshiConfig())
        inputs = model.get_unconditional_inputs()
        logits = model(**inputs).logits
    assert logits.shape == (1, 1, 32000)
    assert inputs.user_audio_codes.shape == (1, 8, 1)


def test_E3_text_from_the_whole_checkpoint(checkpoint, model):
    text_model = MoshiForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer(SENTENCES[0], return_tensors="pt")
    ids = text_model.generate(inputs.input_ids, max_length=30)
    assert ids.shape == (1, 30) and torch.equal(ids[:, : inputs.input_ids.shape[1]], inputs.input_ids)
    text = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]
    assert text.startswith(SENTENCES[0])
    assert torch.equal(text_model(ids).logits, model.decoder(ids).logits)  # these weights, not random ones


def test_E4_C10_a_reply_to_recorded_speech(checkpoint, model):
    feature_extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    samples = soxr.resample(samples[: 2 * rate], rate, feature_extractor.sampling_rate)
    user = feature_extractor(
        raw_audio=samples, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt"
    ).to(device="cpu", dtype=torch.float32)
    moshi_input_values = torch.zeros_like(user.input_values)  # it said nothing while the user spoke
    ratio = model.config.audio_encoder_config.frame_rate / model.config.sampling_rate
    num_tokens = math.ceil(moshi_input_values.shape[-1] * ratio)
    input_ids = torch.ones((1, num_tokens), dtype=torch.int64) * tokenizer.encode("<pad>")[0]
    output = model.generate(
        input_ids=input_ids,
        user_input_values=user.input_values,
        moshi_input_values=moshi_input_values,
        max_new_tokens=25,
    )
    assert output.sequences.shape == (1, 1 + num_tokens + 25)
    assert output.audio_sequences.shape == (1, 1, 1920 * (num_tokens + 24))
    assert output.audio_sequences.isfinite().all()
    silent = model.generate(
        input_ids=input_ids,
        user_input_values=torch.zeros_like(moshi_input_values),
        moshi_input_values=moshi_input_values,
        max_new_tokens=25,
        return_dict_in_generate=True,
        output_logits=True,
        return_audio_waveforms=False,
    )
    heard = model.generate(
        input_ids=input_ids,
        user_input_values=user.input_values,
        moshi_input_values=moshi_input_values,
        max_new_tokens=25,
        return_dict_in_generate=True,
        output_logits=True,
        return_audio_waveforms=False,
    )
    assert torch.equal(heard.sequences, output.sequences)
    assert not torch.allclose(heard.logits[0], silent.logits[0], atol=1e-3)  # the user was heard


def test_E4_in_bfloat16_as_documented(checkpoint):
    """The codec stays in float32 and takes the half-precision waveform."""
    model = MoshiForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
    wave = torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 0.1
    output = model.generate(
        input_ids=torch.full((1, 13), 3),
        user_input_values=wave,
        moshi_input_values=torch.zeros_like(wave),
        max_new_tokens=5,
    )
    assert output.audio_sequences.shape == (1, 1, 1920 * 17) and output.audio_sequences.isfinite().all()


def test_E5_speech_out_of_nothing(model):
    output = model.generate(**model.get_unconditional_inputs(num_samples=1), max_new_tokens=256)
    assert output.sequences.shape == (1, 1 + 256)
    assert output.audio_sequences.shape == (1, 1, 1920 * 255)


def test_E6_a_depth_configuration_makes_a_depth_decoder():
    configuration = MoshiDepthConfig()
    with torch.device("meta"):
        model = MoshiDepthDecoder(configuration)
    assert model.config is configuration
    assert sum(p.numel() for p in model.parameters()) == 714_362_880


def test_F1_feature_extractor(checkpoint):
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    assert isinstance(extractor, EncodecFeatureExtractor) and extractor.sampling_rate == 24000
    waves = [torch.ones(3000).numpy(), torch.ones(1000).numpy()]
    out = extractor(raw_audio=waves, sampling_rate=24000, return_tensors="pt", padding=True)
    assert out.input_values.shape == (2, 1, 3000) and out.input_values.dtype == torch.float32
    assert out.padding_mask.sum(-1).tolist() == [3000, 1000]
    assert (out.input_values[1, 0, 1000:] == 0).all()
    with pytest.raises(ValueError, match="sampling rate"):
        extractor(raw_audio=waves, sampling_rate=16000, return_tensors="pt")


def test_F2_F3_C11_tokenizer(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.encode("<pad>")[0] == 3
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    plain = tokenizer.encode("Hello, I'm Moshi")
    assert not {0, 1, 2, 3} & set(plain)  # nothing is added
    spaced = tokenizer.encode("Hello,<pad><unk>I'm Moshi")
    assert spaced.count(3) == spaced.count(0) == 1 and spaced.index(0) == spaced.index(3) + 1
    shown = tokenizer.batch_decode([spaced], skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]
    assert shown.replace(" ", "") == "Hello,I'mMoshi"
