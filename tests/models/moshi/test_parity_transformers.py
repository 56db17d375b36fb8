"""Parity with transformers' Moshi where that is right: sdpa, within the window, equal lengths; the checkpoint too."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from aizuchi import MoshiForConditionalGeneration
from tests.models.moshi.reference import random_frames, tiny_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Ours, and transformers' loaded from what ours saved."""
    ours = tiny_model()
    folder = tmp_path_factory.mktemp("ours")
    ours.save_pretrained(folder)
    theirs, info = transformers.MoshiForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return ours, theirs.eval()


def inputs_of(model, rows=2, length=12):
    frames = random_frames(model.config, rows, length)
    return dict(input_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:])


def test_K6_M23_checkpoints_are_interchangeable(pair, tmp_path):
    ours, theirs = pair
    theirs.save_pretrained(tmp_path)
    again, info = MoshiForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected, found = ours.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    ours.save_pretrained(tmp_path / "ours")
    first, second = (
        {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
        for folder in (tmp_path, tmp_path / "ours")
    )
    assert first == second


@torch.no_grad()
def test_K7_text_logits_of_columns(pair):
    ours, theirs = pair
    inputs = inputs_of(ours)
    mine, expected = ours(**inputs), theirs(**inputs)
    assert torch.allclose(mine.logits, expected.logits, atol=1e-5, rtol=0)
    assert torch.allclose(mine.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=0)
    assert mine.logits.std() > 0.3


@torch.no_grad()
def test_K7_text_logits_of_left_padded_rows(pair):
    ours, theirs = pair
    inputs = inputs_of(ours)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    mine, expected = ours(**inputs, attention_mask=mask), theirs(**inputs, attention_mask=mask)
    seen = mask.bool()
    assert torch.allclose(mine.logits[seen], expected.logits[seen], atol=1e-5, rtol=0)
    assert mine.logits.isfinite().all()


@torch.no_grad()
def test_K2_K3_each_other_s_caches(pair):
    """A cache that one filled serves the other."""
    ours, theirs = pair
    inputs = inputs_of(ours)
    head = {k: v[..., :7] for k, v in inputs.items()}
    tail = {k: v[..., 7:] for k, v in inputs.items()}
    full = ours(**inputs).logits[:, 7:]
    for first, second in ((ours, theirs), (theirs, ours), (ours, ours)):
        past = first(**head, use_cache=True).past_key_values
        assert isinstance(past, transformers.Cache)
        mask = torch.ones(2, 12)  # without one, transformers 5.17 masks a chunk after a cache wrongly (G12)
        logits = second(**tail, past_key_values=past, attention_mask=mask).logits
        assert torch.allclose(logits, full, atol=1e-5, rtol=0)


@torch.no_grad()
def test_K4_text_model(pair):
    ours, theirs = pair[0].decoder, pair[1].decoder
    ids = random_frames(pair[0].config, 2, 12)[:, 0]
    labels = ids.clone()
    labels[0, :4] = -100
    mine, expected = ours(ids, labels=labels), theirs(ids, labels=labels)
    assert torch.allclose(mine.logits, expected.logits, atol=1e-5, rtol=0)
    assert abs(mine.loss - expected.loss) < 1e-5
    assert torch.equal(
        ours.generate(ids, max_new_tokens=15, do_sample=False, pad_token_id=0),
        theirs.generate(ids, max_new_tokens=15, do_sample=False, pad_token_id=0),
    )


@torch.no_grad()
def test_C7_depth_logits(pair):
    ours, theirs = pair[0].depth_decoder, pair[1].depth_decoder
    frames = random_frames(pair[0].config, 6, 4)[:, :, 0]
    ids = frames[:, :4]  # text and three codes
    hidden = torch.randn(6, 1, 48, generator=torch.Generator().manual_seed(1))
    mine, expected = ours(ids, hidden), theirs(ids, hidden)
    assert torch.allclose(mine.logits, expected.logits, atol=1e-5, rtol=0)
    step = ours(ids[:, :1], hidden, use_cache=True)
    for k in range(1, 4):
        step = ours(ids[:, k : k + 1], hidden, past_key_values=step.past_key_values, use_cache=True)
        assert torch.allclose(step.logits[:, 0], expected.logits[:, k], atol=1e-5, rtol=0)


GENERATE = dict(do_sample=False, return_audio_codes=True, depth_decoder_do_sample=False)


@pytest.mark.parametrize("concat", [True, False])
@torch.no_grad()
def test_K13_K16_greedy_dialogues_are_equal(pair, concat):
    ours, theirs = pair
    inputs = inputs_of(ours)
    options = dict(GENERATE, max_new_tokens=20, concat_unconditional_inputs=concat)
    mine = ours.generate(**inputs, **options, user_silence="first_frame")
    expected = theirs.generate(**inputs, **options)
    assert torch.equal(mine.sequences, expected.sequences)
    assert torch.equal(mine.audio_codes, expected.audio_codes)
    assert mine.audio_codes.unique().numel() > 20
    assert mine.audio_sequences.shape == expected.audio_sequences.shape


@torch.no_grad()
def test_K20_unconditional_greedy_dialogues_are_equal(pair):
    ours, theirs = pair
    mine = ours.generate(**GENERATE, max_new_tokens=20, user_silence="first_frame")
    expected = theirs.generate(**GENERATE, max_new_tokens=20)
    assert torch.equal(mine.sequences, expected.sequences)
    assert torch.equal(mine.audio_codes, expected.audio_codes)


@torch.no_grad()
def test_K24_delay_pattern_helpers(pair):
    ours, theirs = pair
    codes = random_frames(ours.config, 2, 5)[:, 1:5]
    for length in (6, 9):
        mine = ours.build_delay_pattern_mask(codes, 64, 64, length)
        expected = theirs.build_delay_pattern_mask(codes, 64, 64, length)
        assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
        wide = torch.randint(0, 64, (2, 4, length), generator=torch.Generator().manual_seed(2))
        assert torch.equal(
            ours.apply_delay_pattern_mask(wide, mine[1]), theirs.apply_delay_pattern_mask(wide, mine[1])
        )
