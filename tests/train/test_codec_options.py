"""Options of codec runs: weight norm while training, and training of the decoder alone."""

import pytest
import torch
from safetensors.torch import load_file

from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.train.codebooks import CodebookTrainer
from aizuchi.train.mimi_start import SPEECH_RMS, make_codec
from aizuchi.train.weight_norm import add_weight_norm, without_weight_norm
from tests.train.tiny_codec import config_of, trainer_of


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_weight_norm_changes_how_a_codec_learns_but_not_what_it_is(tmp_path):
    finals = {}
    for norm in (True, False):
        folder = trainer_of(config_of(tmp_path / str(norm), weight_norm=norm, ema=None)).run()
        finals[norm] = weights(folder)
    assert finals[True].keys() == finals[False].keys()  # the published names
    assert not torch.equal(
        finals[True]["decoder.layers.0.conv.weight"], finals[False]["decoder.layers.0.conv.weight"]
    )
    codec = MimiModel.from_pretrained(tmp_path / "True" / "model").eval()
    wave = torch.randn(1, 1, 3 * codec.config.frame_size) * 0.1
    with torch.no_grad():
        before = codec(wave).audio_values
        add_weight_norm(codec.encoder, codec.decoder)
        torch.testing.assert_close(codec(wave).audio_values, before, rtol=0, atol=1e-5)
        plain = without_weight_norm(codec)
        assert without_weight_norm(plain) is plain
        torch.testing.assert_close(plain(wave).audio_values, before, rtol=0, atol=1e-5)


def test_training_the_decoder_alone_keeps_all_codes(tmp_path):
    first = trainer_of(config_of(tmp_path / "first")).run()
    config = config_of(
        tmp_path / "second",
        model=None,
        checkpoint=str(first),
        train="decoder",
        ema=0.9,
        discriminator=dict(start=2, windows=[256], filters=4),
    )
    before, after = weights(first), weights(trainer_of(config).run())
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"upsample", "decoder_transformer", "decoder"}


def test_the_decoder_alone_needs_a_codec():
    with pytest.raises(AizuchiError, match="decoder needs a `checkpoint`"):
        config_of("unused", train="decoder")


def test_a_fresh_codec_is_scaled_to_speech(tmp_path):
    trainer = trainer_of(config_of(tmp_path))
    sound = torch.randn(2, 1, 8 * 1920) * SPEECH_RMS
    with torch.no_grad():
        inside = trainer.codec.encoder.layers[0](sound)
        assert 0.3 < inside.std() < 3
        assert 0.1 < trainer.codec(sound).audio_values.std() / SPEECH_RMS < 10


def test_reconstruction_leaves_a_semantic_codebook_apart_alone():
    torch.manual_seed(0)
    codec = make_codec(config_of("unused"))
    latents = torch.randn(2, 16, 5)
    project = codec.quantizer.semantic_residual_vector_quantizer.input_proj.weight
    for apart in (True, False):
        made = CodebookTrainer(codec.quantizer, apart=apart).quantize(latents)
        (gradient,) = torch.autograd.grad(made.latents.sum(), project, retain_graph=True, allow_unused=True)
        assert (gradient is None) == apart
        (gradient,) = torch.autograd.grad(made.semantic.square().sum(), project)
        assert gradient.abs().sum() > 0


def test_complex_spectra_are_a_loss_where_they_are_asked_for(tmp_path):
    values = {}
    for name, weight in (("without", 0.0), ("with", 1.0)):
        trainer = trainer_of(config_of(tmp_path / name, loss=dict(complex=weight)))
        values[name] = trainer.train_step(trainer.steps_data[0])
        values[name]["moved"] = trainer.codec.decoder.layers[-1].conv.weight.detach().clone()
    assert "complex" not in values["without"] and 0 < values["with"]["complex"] < 10
    assert values["with"]["spectral"] == values["without"]["spectral"]  # the first step begins alike
    assert not torch.equal(values["with"]["moved"], values["without"]["moved"])
