"""Learning what the user says: the words' head, the codebooks that are heard, and frames that are hidden."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aizuchi.data.shards import DialogueTokens, ShardError, ShardFolder, write_index, write_shard
from aizuchi.errors import AizuchiError
from aizuchi.train.heard import HeardHead, heard_sums, heard_weights
from aizuchi.train.logs import read_log
from aizuchi.train.moshi import MoshiTrainer
from aizuchi.train.start import make_model
from aizuchi.train.tokens import TokenList, collate
from tests.train.tiny import config_of, dialogues, trainer_of


class Told(TokenList):
    heard_classes = 33


def spoken(count=6, frames=24, seed=0):
    """Dialogues whose user says a word of the class of its first code, wherever that is a multiple of four."""
    made = []
    for d in dialogues(count, frames, seed):
        first = d.user[0].astype(np.int32)
        made.append(dataclasses.replace(d, heard=np.where(first % 4 == 0, first + 1, 0)))
    return made


def run_of(tmp_path, count=6, **changes):
    changes = {"loss": dict(heard_weight=1.0, heard_delay=1), **changes}
    config = config_of(tmp_path, **changes)
    torch.set_num_threads(1)
    train, valid = Told(spoken(count)), Told(spoken(2, seed=7))
    return MoshiTrainer(config, make_model(config), [(train, 1.0)], [(valid, 1.0)])


def test_a_word_is_told_when_its_end_and_the_delay_are_over():
    head = HeardHead(8, 33, delay=2)
    heard = torch.tensor([[5, 0, 7, -1]])
    # column j has heard the frames before j
    assert head.targets(heard, 7).tolist() == [[-1, -1, -1, 5, 0, 7, -1]]
    assert head.targets(heard, 4).tolist() == [[-1, -1, -1, 5]]


def test_the_loss_counts_what_is_known_and_silence_less():
    logits = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[-1, 0, 3, 5]])
    weighted, words, hits, count = heard_sums(logits, targets).tolist()
    losses = [-logits[0, i].log_softmax(-1)[targets[0, i]].item() for i in (1, 2, 3)]
    assert weighted == pytest.approx(0.1 * losses[0] + losses[1] + losses[2], rel=1e-5)
    assert words == pytest.approx(losses[1] + losses[2], rel=1e-5) and count == 2
    assert hits == sum(int(logits[0, i].argmax() == targets[0, i]) for i in (2, 3))
    assert heard_weights(targets).sum().item() == pytest.approx(2.1)


def test_a_run_learns_the_users_words_and_the_model_is_as_ever(tmp_path):
    data = dict(user_codebooks=1)
    trainer = run_of(tmp_path, 200, steps=150, eval_every=150, save_every=50, data=data, batch_size=8)
    folder = trainer.run()
    rows = read_log(tmp_path / "log.csv")
    losses = [float(row["heard_loss"]) for row in rows if "heard_loss" in row]
    # unseen dialogues: each word follows from one code
    accuracy = [float(row["valid_heard_accuracy"]) for row in rows if "valid_heard_accuracy" in row][-1]
    assert losses[-1] < losses[0] / 4 and accuracy > 0.8
    kept = load_file(folder / "model.safetensors").keys()
    assert (
        kept == load_file(trainer_of(config_of(tmp_path / "b", steps=1)).run() / "model.safetensors").keys()
    )


def test_a_run_that_goes_on_gives_the_same_bits(tmp_path):
    whole = run_of(tmp_path / "a", steps=6, save_every=3)
    whole.run()
    half = run_of(tmp_path / "b", steps=6, save_every=3)
    half.checkpoints.keep = 9
    half.config.steps = 6
    for step in range(3):
        half.train_step(half.batches[step])
    half.save()
    rest = run_of(tmp_path / "b", steps=6, save_every=3)
    rest.run()
    for a, b in zip(whole.plain.parameters(), rest.plain.parameters()):
        assert torch.equal(a, b)
    assert torch.equal(whole.heard.weight, rest.heard.weight)


def test_a_run_from_a_checkpoint_begins_with_its_head(tmp_path):
    first = run_of(tmp_path / "a", steps=2, save_every=1)
    first.run()
    folder = max((tmp_path / "a/checkpoints").iterdir())
    second = run_of(tmp_path / "b", checkpoint=str(folder), model=None)
    assert torch.equal(first.heard.weight, second.heard.weight)
    other = HeardHead(first.heard.in_features, 34, delay=1)
    kept = other.weight.clone()
    other.begin_from(str(folder))  # of other words
    assert torch.equal(other.weight, kept)


def test_a_split_of_the_rows_changes_nothing(tmp_path):
    whole, split = run_of(tmp_path / "a", micro_batch_size=4), run_of(tmp_path / "b", micro_batch_size=1)
    for step in range(2):
        a, b = whole.train_step(whole.batches[step]), split.train_step(split.batches[step])
        assert a["heard_loss"] == pytest.approx(b["heard_loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


def test_data_that_does_not_know_the_words_is_refused(tmp_path):
    with pytest.raises(AizuchiError, match="not all of the data tells them"):
        trainer_of(config_of(tmp_path, loss=dict(heard_weight=1.0)))
    with pytest.raises(AizuchiError, match="does not go with"):
        config_of(tmp_path, loss=dict(heard_weight=1.0), text_only=dict(share=0.5))


def test_codebooks_that_are_not_heard_change_nothing(tmp_path):
    trainer = trainer_of(config_of(tmp_path, data=dict(user_codebooks=1), steps=5))
    model = trainer.plain
    trainer.run()
    batch = collate(dialogues(2), 4)
    x = trainer.inputs(batch)
    expected = model(**x).text_loss
    codes = x["user_audio_codes"].clone()
    assert codes.shape[1] == 4
    codes[:, 1:, 2:-1] = torch.randint(0, 32, codes[:, 1:, 2:-1].shape)  # behind the initial tokens
    assert torch.equal(model(**(x | {"user_audio_codes": codes})).text_loss, expected)
    codes[:, 0, 2:-1] = (codes[:, 0, 2:-1] + 1) % 32
    assert not torch.equal(model(**(x | {"user_audio_codes": codes})).text_loss, expected)


def test_frames_of_the_user_are_hidden_by_position_alone(tmp_path):
    half = dict(user_mask=0.5, batch_size=100)
    batches = trainer_of(config_of(tmp_path / "a", **half, micro_batch_size=100)).batches
    batch = batches[0][0]
    frames = (torch.arange(batch.text.shape[1]) < batch.lengths[:, None]).sum()
    shown = (batch.user >= 0).all(1).sum() / frames
    assert 0.4 < shown < 0.6 and (batch.model >= 0).all(1).sum() == frames
    assert torch.equal((batch.user >= 0).any(1), (batch.user >= 0).all(1))
    split = trainer_of(config_of(tmp_path / "b", **half, micro_batch_size=50)).batches[0]
    assert torch.equal(split[1].user, batch.user[50:, :, : split[1].user.shape[2]])


def test_shards_keep_what_is_heard(tmp_path):
    tokens = [
        DialogueTokens(f"{i}", d.text, d.model.T.copy(), d.user.T.copy()[:, None], heard=d.heard)
        for i, d in enumerate(spoken(3))
    ]
    records = [write_shard(tmp_path / "shard-00000.safetensors", tokens, "key")]
    settings = dict(codebooks=4, variants=1, heard_classes=33)
    write_index(tmp_path, settings, records, complete=True)
    folder = ShardFolder(tmp_path)
    assert folder.heard_classes == 33
    for i, one in enumerate(tokens):
        np.testing.assert_array_equal(folder.read_heard(i, 3, 10), one.heard[3:13])
    without = dataclasses.replace(tokens[1], heard=None)
    with pytest.raises(ShardError, match="have `heard` on every frame, or none has"):
        write_shard(tmp_path / "b.safetensors", [tokens[0], without], "key")
