"""The token loop: no frame is lost, columns are as in training, rows do not touch each other."""

import pytest
import torch

from aizuchi.engine import Sampling, TokenLoop
from aizuchi.models.moshi.delays import delay_frames
from tests.models.moshi.reference import random_frames, tiny_model

FAMILIES = {
    "moshiko": {},
    "hibiki": dict(delays=[0, 0, 2, 2, 2, 0, 2, 2, 2]),
    "three codebooks": dict(num_codebooks=3),
    "the user at once": dict(delays=[0, 0, 1, 1, 1, 0, 0, 0, 0]),
    "personaplex": dict(num_generated_codebooks=8),
}


def converse(model, user, sampling=None, ticks=None):
    """One row alone: (1 + K, frames) tokens said, aligned."""
    loop = TokenLoop(model, 1)
    loop.configure(0, sampling or Sampling.greedy())
    loop.start(loop.everyone)
    said = []
    for t in range(user.shape[-1] if ticks is None else ticks):
        out = loop.step(user[:, :, t : t + 1])
        if out.valid[0]:
            said.append(torch.cat([out.text[:, None], out.codes], dim=1)[0])
    return torch.stack(said, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_said_is_what_the_offline_forward_predicts(family):
    """Greedy tokens, teacher-forced as training lays them out, are their own argmax: no frame lost or shifted."""
    model = tiny_model(**FAMILIES[family])
    config = model.config
    own = config.num_model_codebooks
    user = random_frames(config, 1, 40, seed=3)[:, 1 + own :]
    said = converse(model, user)  # (1 + generated, frames)
    frames = said.shape[1]
    assert frames == 40 - (max(config.delays[: 1 + own]) - 1)
    together = torch.cat([said[None, : 1 + own], user[:, :, :frames]], dim=1)
    columns = delay_frames(together, config.delays, model.initial_tokens)
    out = model(
        input_ids=columns[:, 0],
        moshi_audio_codes=columns[:, 1 : 1 + own],
        user_audio_codes=columns[:, 1 + own :],
        audio_labels=columns[:, 1 : 1 + config.num_generated_codebooks],
    )
    ties = 1e-4
    text = out.logits[0, :-1].topk(2).values
    predicted = out.logits[0, :-1].argmax(-1)
    differ = predicted != columns[0, 0, 1:]
    assert not (differ & (text[:, 0] - text[:, 1] > ties)).any()
    audio = out.audio_logits.argmax(-1).T  # (generated, columns - 1)
    for k in range(own):
        begin = config.delays[1 + k]
        assert torch.equal(audio[k, begin:], columns[0, 1 + k, 1 + begin :]), k
    assert said.unique().numel() > 20, "the model says always the same: the test shows nothing"


def test_the_first_frame_matters_by_default_and_not_in_lmgen_mode():
    model = tiny_model()
    user = random_frames(model.config, 1, 12, seed=1)[:, 5:]
    other = user.clone()
    other[:, :, 0] = (other[:, :, 0] + 1) % 64

    def logits(codes, compatible):
        loop = TokenLoop(model, 1, lmgen_compatible=compatible)
        loop.configure(0, Sampling.greedy())
        with torch.no_grad():
            loop.start(loop.everyone)
            return torch.stack([loop.step(codes[:, :, t : t + 1]).logits for t in range(6)])

    assert torch.equal(logits(user, True), logits(other, True))
    assert not torch.allclose(logits(user, False), logits(other, False), atol=1e-3)


@torch.no_grad()
def test_rows_out_of_step_equal_each_alone_bit_for_bit():
    """Random joining, pausing and resuming over 100 steps, sampled; alone means in a loop of as many rows."""
    model = tiny_model()
    rows, ticks = 3, 100
    users = random_frames(model.config, rows, ticks, seed=2)[:, 5:]
    settings = [Sampling(seed=10 + r, top_k=20 + r, temperature=0.9 + r / 10) for r in range(rows)]
    generator = torch.Generator().manual_seed(4)
    plan = torch.rand(ticks, rows, generator=generator) < 0.7
    joins = [0, 13, 40]
    for row, tick in enumerate(joins):
        plan[:tick, row] = False

    def run(present):
        loop = TokenLoop(model, rows)
        for row in range(rows):
            loop.configure(row, settings[row])
        heard = [0] * rows
        said = [[] for _ in range(rows)]
        for tick in range(ticks):
            for row in range(rows):
                if tick == joins[row] and row in present:
                    alone = torch.zeros(rows, dtype=torch.bool)
                    alone[row] = True
                    loop.start(alone)
            active = plan[tick] & torch.tensor([row in present for row in range(rows)])
            if not active.any():
                continue
            codes = torch.stack([users[row, :, min(heard[row], ticks - 1)] for row in range(rows)])[
                :, :, None
            ]
            out = loop.step(codes, active)
            for row in range(rows):
                if active[row]:
                    heard[row] += 1
                    said[row].append((out.text[row].item(), out.codes[row].tolist(), out.logits[row]))
        return said

    together = run({0, 1, 2})
    for row in range(rows):
        alone = run({row})[row]
        assert len(alone) == len(together[row]) > 30
        for (text, codes, logits), (text2, codes2, logits2) in zip(alone, together[row], strict=True):
            assert text == text2 and codes == codes2 and torch.equal(logits, logits2)


@torch.no_grad()
def test_logits_agree_across_row_counts():
    model = tiny_model()
    user = random_frames(model.config, 1, 30, seed=5)[:, 5:]
    one, four = TokenLoop(model, 1), TokenLoop(model, 4)
    for loop in (one, four):
        for row in range(loop.rows):
            loop.configure(row, Sampling.greedy())
        loop.start(loop.everyone)
    for t in range(30):
        a = one.step(user[:, :, t : t + 1])
        b = four.step(user[:, :, t : t + 1].expand(4, -1, -1))
        assert (a.logits - b.logits[2:3]).abs().max() < 1e-5


@torch.no_grad()
def test_a_seed_repeats_a_conversation_and_another_does_not():
    model = tiny_model()
    user = random_frames(model.config, 1, 20, seed=6)[:, 5:]
    first = converse(model, user, Sampling(seed=1))
    assert torch.equal(first, converse(model, user, Sampling(seed=1)))
    assert not torch.equal(first, converse(model, user, Sampling(seed=2)))


@torch.no_grad()
def test_forced_tokens_are_heard():
    model = tiny_model()
    loop = TokenLoop(model, 1)
    loop.configure(0, Sampling.greedy())
    loop.start(loop.everyone)
    user = random_frames(model.config, 1, 6, seed=7)[:, 5:]
    forced = torch.full((1, 5), -2)
    forced[0, 0], forced[0, 2] = 17, 5
    out = loop.step(user[:, :, :1], forced=forced)
    assert out.newest_text.item() == 17
    out = loop.step(user[:, :, 1:2])
    assert out.text.item() == 17  # aligned with its frame's codes one step later
    assert out.codes.shape == (1, 4)


@pytest.mark.slow
@torch.no_grad()
def test_six_minutes_teacher_forced_give_the_streams_logits():
    """4,500 frames through a window of 64: streamed logits equal the offline forward's."""
    model = tiny_model(sliding_window=64)
    frames = 4500
    user = random_frames(model.config, 1, frames, seed=8)[:, 5:]
    loop = TokenLoop(model, 1)
    loop.configure(0, Sampling(seed=3))
    loop.start(loop.everyone)
    said, streamed = [], []
    for t in range(frames):
        out = loop.step(user[:, :, t : t + 1])
        said.append(torch.cat([out.text[:, None], out.codes], dim=1)[0])
        streamed.append(out.logits[0])
    together = torch.cat([torch.stack(said, dim=1)[None], user], dim=1)
    columns = delay_frames(together, model.config.delays, model.initial_tokens)
    out = model(
        input_ids=columns[:, 0],
        moshi_audio_codes=columns[:, 1:5],
        user_audio_codes=columns[:, 5:],
        use_cache=False,
    )
    assert (out.logits[0, 1:] - torch.stack(streamed)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("codes", "message"), [(None, "user_codes"), (torch.zeros(1, 3, 1, dtype=torch.long), r"\(1, 4, 1\)")]
)
def test_wrong_codes_are_named(codes, message):
    with pytest.raises(ValueError, match=message):
        TokenLoop(tiny_model(), 1).step(codes)


def test_a_model_with_conditions_asks_for_them():
    conditioners = {"style": {"type": "lut", "lut": {"n_bins": 3, "dim": 4, "possible_values": ["a", "b"]}}}
    model = tiny_model(conditioners=conditioners, fuser={"sum": ["style"]})
    with pytest.raises(ValueError, match="conditions"):
        TokenLoop(model, 1)
