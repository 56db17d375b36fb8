"""Frames that repeat, left out of what is learned."""

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.thin import thin_repeats
from aizuchi.train.tokens import TokenDialogue
from tests.models.moshi.reference import tiny_model
from tests.train.tiny import config_of, dialogues, trainer_of


def columns(model, labelled):
    """Random columns of a tiny model, and their labels where ``labelled`` (B, T)."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    rows, length = labelled.shape
    codes = torch.randint(0, config.audio_vocab_size, (rows, 4, length), generator=generator)
    return {
        "input_ids": torch.randint(0, config.vocab_size, (rows, length), generator=generator),
        "moshi_audio_codes": codes,
        "user_audio_codes": codes.flip(0),
        "audio_labels": codes.masked_fill(~labelled[:, None], -100),
    }


def test_only_repeats_are_left_out():
    labels = torch.tensor([[[1, 1, 1, 2, 2, 3], [4, 4, 4, 4, 4, 5]]])
    kept = thin_repeats(labels, 0.0, np.random.default_rng(0))
    assert kept.tolist() == [[[1, -100, -100, 2, -100, 3], [4, -100, -100, 4, -100, 5]]]
    assert thin_repeats(labels, 1.0, np.random.default_rng(0)) is labels
    long = torch.ones(2, 8, 4000, dtype=torch.long)
    share = (thin_repeats(long, 0.25, np.random.default_rng(0)) >= 0).float().mean()
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_training_skips_columns_without_labels_and_learns_the_same(share):
    model = tiny_model()
    labelled = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) < share
    inputs = columns(model, labelled)
    ran = []
    model.depth_decoder.register_forward_pre_hook(
        lambda _, args, kwargs: ran.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    results = []
    for training in (False, True):
        model.train(training)
        model.zero_grad()
        outputs = model(**inputs)
        (outputs.depth_loss + 0 * outputs.last_hidden_state.sum()).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((outputs, gradients))
    (whole, expected), (thinned, got) = results
    count = int(labelled[:, 1:].sum())
    assert ran == [22, max(1, count)]
    torch.testing.assert_close(thinned.depth_loss, whole.depth_loss)
    assert thinned.audio_logits.shape == whole.audio_logits.shape
    known = labelled[:, 1:].flatten()
    torch.testing.assert_close(thinned.audio_logits[known], whole.audio_logits[known])
    known_loss = thinned.audio_logits[known].square().sum()
    assert not known.any() or known_loss.requires_grad  # a loss of one's own still learns
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_trainer_learns_a_share_of_the_silence(tmp_path):
    silent = [
        TokenDialogue(d.text, np.repeat(d.model[:, :1], d.model.shape[1], 1), d.user) for d in dialogues()
    ]
    trainer = trainer_of(config_of(tmp_path, loss=dict(repeats=0.0)), silent)
    batch = trainer.batches[0][0]
    labels = trainer.inputs(batch)["audio_labels"]
    assert (labels[..., 3:15] < 0).all() and (labels >= 0).any()
    trainer.model.eval()
    assert (trainer.inputs(batch)["audio_labels"][..., 3:15] >= 0).all()
    trainer.model.train()
    values = trainer.train_step(trainer.batches[0])
    assert np.isfinite(values["audio_loss"])
    with pytest.raises(AizuchiError, match="repeats"):
        config_of(tmp_path, loss=dict(repeats=1.5))
