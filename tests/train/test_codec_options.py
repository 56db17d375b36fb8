"""Options of codec runs: weight norm while training, and training of the decoder alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.train.codebooks import CodebookTrainer
from aizuchi.train.mimi_start import SPEECH_RMS, make_codec
from aizuchi.train.waves import WaveRow, WaveSteps
from aizuchi.train.weight_norm import add_weight_norm, without_weight_norm
from tests.train.tiny_codec import Tones, config_of, trainer_of


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


class Coded(Tones):
    """Every other row brings codes, all of them 3; `codes` changes what they are."""

    def __init__(self, codes=None):
        self.codes = np.full((4, 8), 3) if codes is None else codes

    def draw(self, position, samples, generator):
        return *super().draw(position, samples, generator), True, None if position % 2 else self.codes


def test_rows_that_bring_codes_are_decoded_from_them_and_keep_their_level(tmp_path):
    first = trainer_of(config_of(tmp_path / "first")).run()
    changes = dict(model=None, checkpoint=str(first), train="decoder")
    trainer = trainer_of(config_of(tmp_path / "second", **changes), Coded())
    batch = WaveSteps(Coded(), 4, 8 * 1920, [-20, -20], 0)[0]
    assert (
        batch.codes.shape == (4, 4, 8) and (batch.codes[1::2] == -1).all() and (batch.codes[::2] == 3).all()
    )
    level = batch.wave.square().mean((1, 2)).sqrt()
    assert level[1::2].max() < 0.3 * level[::2].min()
    codec = trainer.codec.eval()
    encoded: list[int] = []
    hook = codec.encoder.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    with torch.no_grad():
        made = trainer.model(batch.wave, None, None, None, True, None, batch.codes)[0]
        hook.remove()
        assert encoded == [2]  # rows that bring codes need no encoder
        told = codec.decode_latent(codec.quantizer.decode(batch.codes[::2]))
        own = codec.decode_latent(
            codec.quantizer.decode(codec.quantizer.encode(codec.encode_latent(batch.wave[1::2])))
        )
    torch.testing.assert_close(made[::2], told, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[1::2], own, rtol=1e-4, atol=1e-5)
    trainer.run()


class Unphased(Tones):
    """Every other row's waveform can't be told from its codes, or none can; one in four is not decoded."""

    def __init__(self, every):
        self.every = every

    def draw(self, position, samples, generator):
        return WaveRow(
            *super().draw(position, samples, generator), position % 4 != 0, None, position % self.every > 0
        )


def test_rows_without_phase_are_left_out_of_the_complex_loss(tmp_path):
    batch = WaveSteps(Unphased(2), 4, 8 * 1920, [0, 0], 0)[0]
    assert batch.phase.tolist() == [False, True] * 2 and batch.decoded_phase.tolist() == [True, False, True]
    loss = dict(spectral=1.0, complex=1.0)
    values = {}
    for every in (1, 2, 5):  # none, half, and all but one
        trainer = trainer_of(config_of(tmp_path / str(every), loss=loss), Unphased(every))
        values[every] = trainer.train_step(trainer.steps_data[0])
    assert values[1]["complex"] == 0 < values[2]["complex"] != values[5]["complex"]
    assert values[1]["spectral"] == values[2]["spectral"]


class Aimed(Tones):
    """Every other row is to come out four times as loud."""

    def draw(self, position, samples, generator):
        wave, labels = super().draw(position, samples, generator)
        return WaveRow(wave, labels, target=None if position % 2 else 4 * wave)


def test_what_is_to_come_out_may_be_something_else(tmp_path):
    batch, plain = (WaveSteps(source, 4, 8 * 1920, [-6, 6], 0)[0] for source in (Aimed(), Tones()))
    assert torch.equal(batch.wave, plain.wave) and plain.target is None
    times = torch.tensor([4.0, 1, 4, 1])[:, None, None]
    wanted = (plain.wave * times).clip(-1, 1)  # at the same gain
    torch.testing.assert_close(batch.decoded_wave, wanted, rtol=1e-5, atol=1e-6)
    values = []
    for source in (Aimed(), Tones()):
        trainer = trainer_of(
            config_of(tmp_path / str(len(values)), loss=dict(spectral=0.0, wave=1.0)), source
        )
        values.append(trainer.train_step(trainer.steps_data[0])["wave"])
    assert values[0] > 1.5 * values[1]


def test_codes_that_cannot_be_decoded_are_refused(tmp_path):
    first = trainer_of(config_of(tmp_path / "first")).run()
    changes = dict(model=None, checkpoint=str(first), train="decoder")
    for codes, told in (
        (np.zeros((4, 7)), "shape"),
        (np.full((4, 8), 16), "below 16"),
        (np.zeros((5, 8)), "codebooks"),
    ):
        with pytest.raises(AizuchiError, match=told):
            trainer_of(config_of(tmp_path / told, **changes), Coded(codes)).run()
    with pytest.raises(AizuchiError, match="train: decoder"):
        trainer_of(config_of(tmp_path / "all"), Coded()).run()


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


def loudness_and_shape():
    """A listener: each frame's power and its samples' differences."""

    def hear(wave):
        frames = wave[:, 0].unflatten(1, (-1, 1920))  # (B, F, 1920)
        return [frames.square().mean(-1, keepdim=True), frames.diff(dim=-1)]

    return hear


def test_a_listener_hears_what_is_made(tmp_path):
    spec = f"{__name__}:loudness_and_shape"
    values = {}
    for name, loss in (("without", {}), ("with", dict(heard=1.0, listener=spec))):
        trainer = trainer_of(config_of(tmp_path / name, loss=loss))
        values[name] = trainer.train_step(trainer.steps_data[0])
        values[name]["moved"] = trainer.codec.decoder.layers[-1].conv.weight.detach().clone()
    assert "heard" not in values["without"] and values["with"]["heard"] > 0
    assert not torch.equal(values["with"]["moved"], values["without"]["moved"])
    alone = dict(spectral=0.0, wave=0.0, heard=1.0, listener=spec)
    trainer = trainer_of(config_of(tmp_path / "alone", loss=alone, steps=60))
    heard = [trainer.train_step(trainer.steps_data[0])["heard"] for _ in range(60)]
    assert heard[-1] < 0.9 * heard[0]


@pytest.mark.parametrize("loss", [dict(heard=1.0), dict(listener="a:b")])
def test_a_listener_and_its_weight_go_together(tmp_path, loss):
    with pytest.raises(AizuchiError, match="go together"):
        config_of(tmp_path, loss=loss)
