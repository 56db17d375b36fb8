"""Rows G3, G6, K14: several dialogues in one `generate`, of different lengths and ends."""

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from tests.models.moshi.reference import prompt, tiny_model

A, K = 64, 4
GREEDY = dict(do_sample=False, return_audio_codes=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def stop_at(model, inputs, n):
    """An eos id that greedy text reaches with its n-th new token."""
    full = model.generate(**inputs, **GREEDY, max_new_tokens=20)
    new = full.sequences[0, inputs["input_ids"].shape[1] + 1 :]
    return next(
        (int(token), i + 1)
        for i, token in enumerate(new.tolist())
        if i >= n and token not in new[:i].tolist()
    ), full


@torch.no_grad()
def test_G3_early_stops_keep_the_audio_that_was_made(model):
    inputs = prompt(model, seed=4)
    (eos, steps), full = stop_at(model, inputs, 2)
    out = model.generate(**inputs, **GREEDY, max_new_tokens=20, eos_token_id=eos, pad_token_id=3)
    assert out.sequences.shape[1] == 7 + steps < 27
    assert torch.equal(out.audio_codes, full.audio_codes[:, :, : 6 + steps - 1])
    assert out.audio_sequences.shape[2] == 1920 * (6 + steps - 1)

    class After(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return torch.full((ids.shape[0],), ids.shape[1] >= 12)

    out = model.generate(
        **inputs, **GREEDY, max_new_tokens=20, stopping_criteria=StoppingCriteriaList([After()])
    )
    assert torch.equal(out.sequences, full.sequences[:, :12])
    assert torch.equal(out.audio_codes, full.audio_codes[:, :, :10])


@torch.no_grad()
def test_G3_rows_that_end_earlier_are_silent_from_then_on(model):
    first, second = prompt(model, seed=4), prompt(model, seed=5)
    (eos, steps), full = stop_at(model, first, 2)
    batch = {name: torch.cat([first[name], second[name]]) for name in first}
    out = model.generate(**batch, **GREEDY, max_new_tokens=20, eos_token_id=eos, pad_token_id=3)
    alone = [
        model.generate(**x, **GREEDY, max_new_tokens=20, eos_token_id=eos, pad_token_id=3)
        for x in (first, second)
    ]
    assert alone[0].audio_codes.shape != alone[1].audio_codes.shape
    for row, one in enumerate(alone):
        frames = one.audio_codes.shape[2]
        assert torch.equal(out.audio_codes[row, :, :frames], one.audio_codes[0])
        assert (out.audio_codes[row, :, frames:] == A).all()
        wave = out.audio_sequences[row]
        assert torch.allclose(wave[:, : 1920 * frames], one.audio_sequences[0], atol=1e-5)
        assert (wave[:, 1920 * frames :] == 0).all()
        length = one.sequences.shape[1]
        assert torch.equal(out.sequences[row, :length], one.sequences[0])
        assert (out.sequences[row, length:] == 3).all()


@pytest.mark.parametrize("future", [0, 5])
@torch.no_grad()
def test_G6_left_padded_batch_equals_each_row_alone(model, future):
    short, long = (
        prompt(model, length=4, seed=6, future=future),
        prompt(model, length=9, seed=7, future=future),
    )
    batch, mask = {}, torch.ones(2, 9, dtype=torch.long)
    mask[0, :5] = 0
    for name in short:
        padded = torch.nn.functional.pad(short[name], (5, 0), value=11)
        batch[name] = torch.cat([padded, long[name]])
    out = model.generate(**batch, attention_mask=mask, **GREEDY, max_new_tokens=12)
    for row, one, pad in ((0, short, 5), (1, long, 0)):
        alone = model.generate(**one, **GREEDY, max_new_tokens=12)
        assert torch.equal(out.sequences[row, pad:], alone.sequences[0])
        assert torch.equal(out.audio_codes[row, :, pad:], alone.audio_codes[0])
        assert (out.audio_codes[row, :, :pad] == A).all()
        wave = out.audio_sequences[row]
        assert torch.allclose(wave[:, 1920 * pad :], alone.audio_sequences[0], atol=1e-5)
        assert (wave[:, : 1920 * pad] == 0).all()


def test_G6_right_padding_is_refused(model):
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with pytest.raises(ValueError, match="`attention_mask`.*left"):
        model.generate(**prompt(model), attention_mask=mask, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"`attention_mask` must be \(1, 6\)"):
        model.generate(**prompt(model), attention_mask=torch.ones(1, 5), max_new_tokens=2)


def test_K14_K19_num_return_sequences(model):
    """Rows of one prompt stand together; each is a dialogue of its own that forward agrees with."""
    torch.manual_seed(3)
    inputs = prompt(model, rows=2, length=5)
    out = model.generate(
        **inputs,
        do_sample=True,
        depth_do_sample=True,
        return_audio_codes=True,
        max_new_tokens=15,
        num_return_sequences=3,
    )
    assert out.sequences.shape == (6, 1 + 5 + 15) and out.audio_codes.shape == (6, K, 19)
    assert out.audio_sequences.shape == (6, 1, 1920 * 19)
    for row in range(6):
        assert torch.equal(out.sequences[row, 1:6], inputs["input_ids"][row // 3])
        assert torch.equal(out.audio_codes[row, :, :5], inputs["moshi_audio_codes"][row // 3])
    assert out.audio_codes[:3, :, 5:].unique(dim=0).shape[0] == 3
