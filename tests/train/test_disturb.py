"""Hidden and warped frames of the user, and dropped updates."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aizuchi.train.disturb import FARTHEST, drop_updates, hide_frames, warp_frames
from aizuchi.train.order import keyed_generator
from tests.train.test_heard_text import run_of


@given(frames=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_a_warped_stream_stays_near_its_time_and_loses_no_word_but_at_the_end(frames, share, seed):
    rng = np.random.default_rng(seed)
    heard = np.where(rng.random(frames) < 0.2, rng.integers(1, 30, frames), 0).astype(np.int32)
    user = np.stack([np.arange(frames), np.arange(frames) + 1000])
    warped, moved = warp_frames(user, heard, share, rng)
    place = warped[0]
    assert (warped[1] == place + 1000).all() and (np.diff(place) >= 0).all()
    assert (np.abs(place - np.arange(frames)) <= FARTHEST).all()
    before, after = heard[heard > 0].tolist(), moved[moved > 0].tolist()
    assert after == before[: len(after)]
    lost = np.flatnonzero(heard > 0)[len(after) :]
    assert all(word > place[-1] or frames - word <= 2 * FARTHEST + len(before) for word in lost)
    for old, new in zip(np.flatnonzero(heard > 0), np.flatnonzero(moved > 0)):
        assert place[new] >= old  # never told before the stream has reached its end


def test_what_nobody_knows_stays_unknown_and_nothing_happens_without_a_share():
    user, rng = np.arange(20)[None], np.random.default_rng(0)
    heard = np.full(20, -1, np.int32)
    warped, moved = warp_frames(user, heard, 1.0, rng)
    assert (moved == -1).all() and not np.array_equal(warped, user)
    known = np.arange(20, dtype=np.int32) % 3
    same, kept = warp_frames(user, known, 0.0, rng)
    assert np.array_equal(same, user) and np.array_equal(kept, known)
    assert (hide_frames(user, 1.0, rng) == -1).all() and np.array_equal(hide_frames(user, 0.0, rng), user)


def test_updates_are_dropped_in_training_alone(tmp_path):
    model = run_of(tmp_path).plain
    batch = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
    batch["moshi_audio_codes"] = batch["user_audio_codes"] = torch.zeros(1, 4, 4, dtype=torch.long)

    def hidden() -> torch.Tensor:
        with torch.no_grad():
            return model(**batch).last_hidden_state

    plain = hidden()
    drop_updates(model.decoder.model.layers, 0.5)
    assert not torch.equal(hidden(), hidden())
    model.eval()
    assert torch.equal(hidden(), plain)


def test_a_run_hears_the_warped_stream_and_drops_updates(tmp_path):
    plain, warped = run_of(tmp_path / "a"), run_of(tmp_path / "b", user_warp=0.5)
    before, after = plain.batches[0][0], warped.batches[0][0]
    assert torch.equal(before.model, after.model) and torch.equal(before.text, after.text)
    row = plain.batches.pieces.draw(0)
    user, heard = warp_frames(row.user, row.heard, 0.5, keyed_generator(warped.config.seed, "warp", 0))
    length = len(row.text)
    assert np.array_equal(after.user[0, :, :length].numpy(), user[:4]) and not torch.equal(
        before.user, after.user
    )
    assert np.array_equal(after.heard[0, :length].numpy(), heard)
    dropping = run_of(tmp_path / "c", dropout=0.3)
    inputs = dropping.inputs(before)
    with torch.no_grad():
        assert not torch.equal(dropping.model(**inputs).logits, dropping.model(**inputs).logits)


def test_a_disturbed_run_goes_on_bit_equal(tmp_path):
    changes = dict(user_mask=0.1, user_warp=0.2, dropout=0.2, steps=6, save_every=3)
    whole = run_of(tmp_path / "whole", **changes)
    whole.run()
    part = run_of(tmp_path / "part", **(changes | {"steps": 6}))
    part.config.steps = 3
    part.run()
    again = run_of(tmp_path / "part", **changes)
    again.run()
    for name, weight in whole.plain.state_dict().items():
        assert torch.equal(weight, again.plain.state_dict()[name]), name
