"""Sampling: the right distribution, keyed random numbers, settings of each row."""

import pytest
import torch

from aizuchi.engine.sampling import RowSettings, Sampling, choose, shape_text, uniform


def pick(logits, rows=None, frame=0, codebook=1, candidates=None, **settings):
    rows = logits.shape[0] if rows is None else rows
    values = dict(temperature=1.0, top_k=0, top_p=1.0, seed=0) | settings
    tensors = {
        name: torch.as_tensor(value)
        .expand(rows)
        .to(torch.long if name in ("top_k", "seed") else torch.float32)
        for name, value in values.items()
    }
    frames = torch.as_tensor(frame).expand(rows)
    return choose(
        logits.expand(rows, -1),
        tensors["temperature"],
        tensors["top_k"],
        tensors["top_p"],
        tensors["seed"],
        frames,
        codebook,
        candidates,
    )


def test_uniform_is_uniform_and_keyed():
    seeds, frames = torch.arange(100), torch.zeros(100, dtype=torch.long)
    ids = torch.arange(1000).expand(100, -1)
    u = uniform(seeds, frames, 1, ids)
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003 and abs(u.var() - 1 / 12) < 0.002
    counts = torch.histc(u.float(), 20, 0, 1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    for other in (
        uniform(seeds + 1, frames, 1, ids),
        uniform(seeds, frames + 1, 1, ids),
        uniform(seeds, frames, 2, ids),
    ):
        correlation = torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 0.02
    assert torch.equal(uniform(seeds[3:4], frames[:1], 1, ids[:1]), u[3:4])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_softmax(temperature):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    n = 40000
    ids = pick(logits, rows=n, temperature=temperature, frame=torch.arange(n))
    share = torch.bincount(ids, minlength=5) / n
    expected = (logits[0] / temperature).softmax(-1)
    assert (share - expected).abs().max() < 5 * (0.25 / n) ** 0.5


def test_top_k_and_top_p_keep_the_best_and_their_proportions():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    n = 20000
    frames = torch.arange(n)
    share = torch.bincount(pick(logits, rows=n, top_k=2, frame=frames), minlength=5) / n
    assert (share[2:] == 0).all() and abs(share[0] - torch.tensor([3.0, 2.0]).softmax(-1)[0]) < 0.02
    # probabilities 0.636, 0.234, 0.086, ...: a top_p of 0.8 needs two
    share = torch.bincount(pick(logits, rows=n, top_p=0.8, frame=frames), minlength=5) / n
    assert (share[2:] == 0).all() and share[1] > 0.2
    assert (pick(logits, rows=50, top_p=1e-6, frame=frames[:50]) == 0).all()


def test_a_row_chooses_the_same_whatever_the_others_ask_for():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 300, generator=generator)
    alone = pick(logits, top_k=torch.tensor([5, 5, 5]), seed=torch.tensor([1, 2, 3]), candidates=5, top_p=0.9)
    mixed = pick(
        logits, top_k=torch.tensor([5, 250, 0]), seed=torch.tensor([1, 2, 3]), candidates=None, top_p=0.9
    )
    assert alone[0] == mixed[0]
    for candidates in (5, 17, 250, None):
        again = pick(
            logits,
            top_k=torch.tensor([5, 5, 5]),
            seed=torch.tensor([1, 2, 3]),
            candidates=candidates,
            top_p=0.9,
        )
        assert torch.equal(again, alone)


def test_temperature_zero_is_greedy():
    logits = torch.randn(4, 50)
    assert torch.equal(pick(logits, temperature=0.0, top_k=10), logits.argmax(-1))


def test_repetition_penalty_counts_only_its_context_and_no_padding():
    settings = RowSettings.create(2)
    settings.put(0, Sampling(repetition_penalty=2.0, repetition_context=2))
    settings.put(1, Sampling(repetition_penalty=1.0))
    everyone = torch.ones(2, dtype=torch.bool)
    for token in (7, 8, 3, 9):  # 3 is padding; the last two are in the context
        settings.remember(torch.tensor([token, token]), everyone)
    logits = torch.full((2, 12), 4.0)
    logits[:, 9] = -4.0
    shaped = shape_text(logits, settings, padding=3, quiet=(3, 0))
    assert shaped[0, 9] == -8.0 and shaped[0, 3] == 4.0 and shaped[0, 7] == 4.0
    assert torch.equal(shaped[1], logits[1])


def test_padding_bonus_moves_only_the_padding():
    settings = RowSettings.create(1)
    settings.put(0, Sampling(padding_bonus=1.5))
    logits = torch.zeros(1, 6)
    assert shape_text(logits, settings, 3, (3, 0)).tolist() == [[0, 0, 0, 1.5, 0, 0]]
    assert (logits == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [dict(temperature=-1), dict(top_k=-1), dict(top_p=0), dict(text_top_p=1.5), dict(repetition_penalty=0)],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_settings_of_a_model():
    """generation_config decides; a model that has none, or samples nothing, gets the original server's settings."""
    from types import SimpleNamespace

    from transformers import GenerationConfig

    def settings(**fields):
        return Sampling.of_model(SimpleNamespace(generation_config=GenerationConfig(**fields)))

    assert Sampling.of_model(None) == Sampling.of_model(SimpleNamespace()) == settings() == Sampling()
    voice = {"do_sample": True, "temperature": 0.6, "top_k": 50}
    both = settings(do_sample=True, temperature=0.4, top_k=10, depth_decoder_config=voice)
    assert both == Sampling(temperature=0.6, top_k=50, text_temperature=0.4, text_top_k=10)
