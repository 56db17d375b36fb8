import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.model_system import ModelSystem
from aizuchi.evaluate.systems import ask, open_system


@pytest.fixture(scope="module")
def system():
    from aizuchi.models.mimi import MimiConfig
    from aizuchi.models.moshi import MoshiConfig, MoshiForConditionalGeneration

    torch.set_num_threads(1)
    mimi = MimiConfig(
        num_filters=4,
        hidden_size=16,
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        upsample_groups=16,
    )
    config = MoshiConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=32,
        audio_encoder_config=mimi,
        depth_decoder_config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32),
        audio_vocab_size=16,
    )
    torch.manual_seed(0)
    return ModelSystem(MoshiForConditionalGeneration(config).eval(), name="tiny", rows=2)


def test_a_reply_does_not_depend_on_its_company(system):
    rng = np.random.default_rng(0)
    users = [rng.normal(size=size).astype(np.float32) * 0.05 for size in (9000, 4000, 7000, 1920)]
    together = dict(ask(system, users))
    assert sorted(together) == [0, 1, 2, 3]
    for index in (1, 3):  # the same number of rows, so that sums are taken in the same order
        again = dict(ask(system, [users[index], users[0]]))[0]
        assert together[index].wave.shape == users[index].shape
        np.testing.assert_allclose(together[index].wave, again.wave, atol=1e-4)
    other = ModelSystem(system.model, name="tiny", seed=1, rows=2)
    assert not np.allclose(other.reply(users[0]).wave, together[0].wave, atol=1e-3)


def test_the_first_frames_of_a_text_may_be_given(system):
    from aizuchi.engine.tokens import FREE

    rng = np.random.default_rng(1)
    users = [rng.normal(size=size).astype(np.float32) * 0.05 for size in (19_200, 9000, 15_000)]
    free = {i: (wave, text) for i, wave, text in system.conversations(users)}
    texts = [[FREE, 7, 8, FREE, 9], [5, 6], ()]
    given = {i: text for i, _, text in system.conversations(users, texts, sound=False)}
    assert [len(given[i]) for i in range(3)] == [10, 5, 8]
    assert given[0][1:3] == [7, 8] and given[0][4] == 9 and given[1][1] == 6
    assert given[1][0] == free[1][1][0]  # on the first frame of all the model writes its own
    assert given[2] == free[2][1]
    np.testing.assert_allclose(free[2][0], system.reply(users[2]).wave, atol=1e-4)


def test_other_weights_are_another_system(system):
    before = ModelSystem(system.model, name="tiny").identity
    assert ModelSystem(system.model, name="tiny").identity == before
    parameter = next(iter(system.model.parameters())).data.view(-1)
    parameter[0] += 1e-3
    assert ModelSystem(system.model, name="tiny").identity != before
    parameter[0] -= 1e-3
    assert ModelSystem(system.model, name="tiny", seed=1).identity != before


def test_bad_systems_and_users_are_refused(system):
    with pytest.raises(AizuchiError, match="samples"):
        list(system.replies([np.zeros((1, 5), np.float32)]))
    with pytest.raises(AizuchiError, match="name and reply"):
        open_system("builtins:object")
    with pytest.raises(AizuchiError, match="can't import"):
        open_system("nowhere.at.all:thing")
