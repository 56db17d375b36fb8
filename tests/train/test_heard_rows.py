"""Rows of a codec run that are only heard: they teach the semantic codebook, and nothing is decoded of them."""

import numpy as np
import pytest
import torch

from aizuchi.train.codebooks import CodebookTrainer
from aizuchi.train.mimi_start import make_codec
from aizuchi.train.waves import WaveBatch, WaveSteps
from tests.train.tiny_codec import Tones, config_of, trainer_of

ACOUSTIC = "quantizer.acoustic_residual_vector_quantizer"


class Some(Tones):
    """Every row whose position is not a multiple of `every` is only heard."""

    def __init__(self, every):
        self.every = every

    def draw(self, position, samples, generator):
        return *super().draw(position, samples, generator), position % self.every == 0


@pytest.fixture
def codec(tmp_path):
    return make_codec(config_of(tmp_path)).eval()


def run_of(folder, every, **changes):
    changes = {"semantic": dict(teacher="labels", classes=6, apart=True), **changes}
    return trainer_of(config_of(folder, **changes), Some(every), Some(every))


def test_a_batch_knows_what_is_decoded():
    def rows(every, first):
        return WaveSteps(Some(every), 4, 6 * 1920, [0, 0], 0).rows(range(first, first + 4))

    assert rows(1, 0).decoded is None
    assert rows(2, 0).decoded.tolist() == [True, False, True, False]
    assert rows(2, 0).decoded_wave.shape == (2, 1, 6 * 1920)
    assert rows(100, 1).decoded is None  # a step has something to decode
    batch = WaveBatch(torch.zeros(2, 1, 1920))
    assert batch.decoded_wave is batch.wave


@pytest.mark.parametrize("apart", [False, True])
def test_heard_rows_meet_the_semantic_codebooks_alone(codec, apart):
    trainer = CodebookTrainer(codec.quantizer, apart=apart)
    latents, levels = torch.randn(4, 16, 10), torch.tensor([4, 1, 2, 3])
    decoded = torch.tensor([True, False, True, False])
    some, alone = (
        trainer.quantize(latents, levels, decoded),
        trainer.quantize(latents[decoded], levels[decoded]),
    )
    assert [len(x) for x in some.assigned] == [4, 2, 2, 2] == [len(x) for x in some.inputs]
    torch.testing.assert_close(some.latents, alone.latents)
    torch.testing.assert_close(some.semantic, trainer.quantize(latents, levels).semantic)
    for mine, theirs in zip(some.assigned[1:], alone.assigned[1:]):
        assert torch.equal(mine, theirs)
    before = codec.quantizer.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    trainer.update(some, np.random.default_rng(0))
    after = {name: value.clone() for name, value in codec.quantizer.state_dict().items()}
    codec.quantizer.load_state_dict(before)
    trainer.update(alone, np.random.default_rng(0))
    for name, value in codec.quantizer.state_dict().items():
        same = torch.equal(value, after[name])
        assert same or name.startswith("semantic"), name  # the semantic codebook learned from all four rows
    assert not torch.equal(
        after["semantic_residual_vector_quantizer.layers.0.codebook.embed_sum"],
        codec.quantizer.state_dict()["semantic_residual_vector_quantizer.layers.0.codebook.embed_sum"],
    )


def test_heard_rows_do_not_change_what_is_decoded(tmp_path):
    """The loss of reconstruction is that of the decoded rows; and the decoder never sees another."""
    trainer = run_of(tmp_path, every=2, quantizer=dict(rate=1.0, dropout=0.0, init_batches=2, start=0))
    seen = []
    trainer.codec.decoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    trainer.codebooks.initialise(torch.randn(4, 16, 40), np.random.default_rng(0))
    trainer.step = 1  # past the start of the codes
    batch = trainer.steps_data[0]
    with torch.no_grad():
        output = trainer.model(batch.wave, None, None, trainer.target(batch), True, batch.decoded)[0]
        plain = trainer.model(batch.decoded_wave, None, None, None, True)[0]
    torch.testing.assert_close(output, plain)
    values = trainer.train_step(batch)
    assert set(seen) == {2}
    assert values["spectral"] == pytest.approx(float(trainer.spectral(plain, batch.decoded_wave)), rel=1e-4)
    assert values["frames"] == 4 * 8  # seconds count that were learned from, heard ones too


def test_validation_measures_what_is_decoded_and_tells_of_all(tmp_path):
    trainer = run_of(tmp_path, every=2, data=dict(valid_items=4), ema=None)
    trainer.run()
    values = trainer.evaluate()
    rows = trainer.valid.rows(range(1 << 40, (1 << 40) + 4), augment=False)
    codec = trainer.codec.eval()
    with torch.no_grad():
        made = codec(rows.decoded_wave).audio_values[..., : rows.wave.shape[-1]]
        told = codec.quantizer.decode(codec.quantizer.encode(codec.encode_latent(rows.wave), 1))
        score = trainer.model.head(told, trainer.target(rows))[1]
    assert values["spectral"] == pytest.approx(float(trainer.spectral(made, rows.decoded_wave)), rel=1e-4)
    assert values["semantic_score"] == pytest.approx(float(score), rel=1e-6)
