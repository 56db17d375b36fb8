"""A model taken over to another codec's codes."""

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.start import make_model
from recipes.mini import recode
from tests.train.tiny import config_of

CODEBOOKS, SIZE, FRAMES = 4, 32, 20_000


def renamed(codes, generator):
    """The codes (N, K) by other numbers, and the new number of each old code."""
    names = np.stack([generator.permutation(SIZE) for _ in range(codes.shape[1])])
    return np.stack([names[k][codes[:, k]] for k in range(codes.shape[1])], 1), torch.from_numpy(names)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    return make_model(config_of(tmp_path)).eval()


def test_codes_by_other_numbers_change_nothing(model, monkeypatch):
    monkeypatch.setattr(recode, "RIDGE", 0.0 + 1e-9)
    generator = np.random.default_rng(1)
    old = {side: generator.integers(0, SIZE, (FRAMES, CODEBOOKS)) for side in ("model", "user")}
    new, names = {}, {}
    for side, codes in old.items():
        new[side], names[side] = renamed(codes, generator)
    own, user = (torch.from_numpy(old[side][:12].T)[None] for side in ("model", "user"))
    text = torch.randint(4, 40, (1, 12), generator=torch.Generator().manual_seed(0))

    def run(own, user):
        with torch.no_grad():
            return model(
                **model.prepare_training_inputs(text_ids=text, moshi_audio_codes=own, user_audio_codes=user)
            )

    before = run(own, user)
    recode.recode(model, {side: (old[side], new[side]) for side in old})
    after = run(*(torch.from_numpy(new[side][:12].T)[None] for side in ("model", "user")))
    torch.testing.assert_close(after.text_loss, before.text_loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.depth_loss, before.depth_loss, rtol=1e-4, atol=1e-5)
    assert (
        abs(run(own, user).depth_loss - before.depth_loss) > 1e-3
    )  # the old numbers mean something else now


def test_a_model_that_hears_more_says_the_same_at_first(tmp_path):
    torch.manual_seed(0)
    model = make_model(config_of(tmp_path, model={"num_input_codebooks": CODEBOOKS + 1})).eval()
    generator = np.random.default_rng(2)
    codes = {side: generator.integers(0, SIZE, (FRAMES, CODEBOOKS)) for side in ("model", "user")}
    recode.recode(model, {side: (c, c) for side, c in codes.items()})  # it hears one of four
    own, user = (torch.from_numpy(codes[side][:12].T)[None] for side in ("model", "user"))
    text = torch.randint(4, 40, (1, 12), generator=torch.Generator().manual_seed(0))

    def run():
        user_codes = user[:, : model.config.num_user_codebooks]
        with torch.no_grad():
            return model(
                **model.prepare_training_inputs(
                    text_ids=text, moshi_audio_codes=own, user_audio_codes=user_codes
                )
            )

    before = run()
    recode.hear_more(model, 2)
    assert model.config.num_user_codebooks == 2 and model.config.delays[-1] == 1
    assert len(model.embed_tokens) == CODEBOOKS + 2 == model.config.num_input_codebooks
    torch.testing.assert_close(run().text_loss, before.text_loss, rtol=1e-4, atol=1e-5)
    model.embed_tokens[-1].weight.data.normal_()
    assert abs(run().text_loss - before.text_loss) > 1e-3


def test_a_code_that_never_came_begins_as_the_mean(model):
    old = np.random.default_rng(0).integers(0, SIZE, 5000)
    new = np.where(old == 7, 8, old)  # 7 never comes again
    table = torch.randn(SIZE + 1, 5)
    made = recode.carried(table, old, new, SIZE)
    torch.testing.assert_close(made[7], table[:SIZE].mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(made[3], table[3], rtol=0, atol=0.3)
    torch.testing.assert_close(made[8], table[7:9].mean(0), rtol=0, atol=0.3)


@pytest.mark.parametrize("codes", [np.zeros((9, CODEBOOKS - 1), int), np.full((9, CODEBOOKS), SIZE)])
def test_tokens_of_another_shape_are_refused(model, codes):
    fits = np.zeros((9, CODEBOOKS), int)
    with pytest.raises(AizuchiError, match=f"the model {CODEBOOKS} codebooks of {SIZE}"):
        recode.recode(model, {"model": (fits, codes), "user": (fits, fits)})


def test_other_dialogues_are_refused(tmp_path, monkeypatch):
    class Source:
        def __init__(self, folder):
            self.folder = folder

        def lengths(self):
            return np.array([4, 5] if self.folder == "a" else [4, 6])

    monkeypatch.setattr(recode, "ShardSource", Source)
    with pytest.raises(AizuchiError, match="not of the same dialogues"):
        recode.paired_codes("a", "b", 10)
