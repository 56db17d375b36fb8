"""What the user says in the model's own text: where it is written, what the input has of it, and that it is learned."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aizuchi.data.shards import DialogueTokens, ShardError, ShardFolder, write_index, write_shard
from aizuchi.errors import AizuchiError
from aizuchi.train.heard_text import HeardTextConfig, make_heard_text
from aizuchi.train.logs import read_log
from aizuchi.train.moshi import MoshiTrainer
from aizuchi.train.start import make_model
from aizuchi.train.tokens import Batch, TokenDialogue, TokenList, collate
from tests.train.tiny import config_of, dialogues, trainer_of

PAD, FIRST = 3, 60


class Told(TokenList):
    heard_classes = 33


def spoken(count=6, frames=24, seed=0):
    """Dialogues whose user says a word of the class of its first code, wherever that is a multiple of four."""
    made = []
    for d in dialogues(count, frames, seed):
        first = d.user[0].astype(np.int32)
        made.append(dataclasses.replace(d, heard=np.where(first % 4 == 0, first + 1, 0)))
    return made


def model_of(classes):
    return SimpleNamespace(
        vocab_size=FIRST + classes - 1, text_padding_token_id=PAD, text_end_padding_token_id=0
    )


def words_of(classes=33, **options):
    return make_heard_text(HeardTextConfig(first=FIRST, **options), model_of(classes), classes, None)


def written(text, heard, **options):
    return words_of(**options).written(torch.tensor([text]), torch.tensor([heard]))[0].tolist()


def run_of(tmp_path, count=6, texts=(), **changes):
    options = dict(first=FIRST, delay=1, missed=0.0, mistaken=0.0) | changes.pop("heard_text", {})
    config = config_of(tmp_path, heard_text=options, **changes)
    torch.set_num_threads(1)
    model = make_model(config)
    model.resize_token_embeddings(FIRST + 32)
    train, valid = Told(quiet(count)), Told(quiet(2, seed=7))
    return MoshiTrainer(config, model, [(train, 1.0)], [(valid, 1.0)], texts=texts)


def text_alone(ids, times):
    """A source of one text: some ids, over and over."""
    none = np.zeros((0, len(ids) * times), np.int16)
    return [(TokenList([TokenDialogue(np.tile(np.array(ids, np.int32), times), none, none)]), 1.0)]


def quiet(count=6, seed=0):
    """Dialogues of a user who says words, to a model that hardly says any."""
    return [
        dataclasses.replace(d, text=np.where(np.arange(len(d.text)) % 6 == 0, d.text, PAD).astype(np.int32))
        for d in spoken(count, seed=seed)
    ]


def test_a_word_stands_behind_its_end_where_the_model_says_nothing():
    p = PAD
    assert written([p] * 6, [1, 0, 4, 0, 0, 0], delay=2) == [p, p, 60, p, 63, p]
    assert written([p, p, 9, 0, p, p], [1, 0, 0, 0, 0, 0], delay=2) == [p, p, 9, 0, 60, p]  # it waits
    assert written([p, p, 9, 8, 7, p], [1, 0, 0, 0, 0, 0], delay=2) == [p, p, 9, 8, 7, p]  # but not for ever
    assert written([p, 9, p, p, p], [1, 2, 0, 0, 0], delay=1) == [p, 9, 60, 61, p]  # and the next one with it
    assert written([p, p, p], [0, 0, 5], delay=2) == [p, p, p]  # beyond the end
    assert written([-1, -1, p], [7, 0, 0], delay=1) == [-1, -1, 66]  # hidden text stays hidden


def test_what_nobody_knows_is_no_target():
    text = torch.tensor([[PAD, 9, PAD, PAD, 0, PAD]])
    heard = torch.tensor([[-1, -1, -1, 0, 0, 0]])
    assert words_of(delay=2).unknown(text, heard).tolist() == [[False, False, True, True, False, False]]


def test_the_input_misses_and_mistakes_the_shares_that_it_is_told_to():
    words = words_of(500, missed=0.2, mistaken=0.3)
    ids = torch.randint(0, FIRST + 500, (40, 500), generator=torch.Generator().manual_seed(0))
    made = words.misheard(ids, np.random.default_rng(0))
    said = (ids >= FIRST) & (ids < FIRST + 499)  # and not the initial token
    assert torch.equal(made[~said], ids[~said])
    assert (made[said] == PAD).double().mean().item() == pytest.approx(0.2, abs=0.02)
    other = (made != ids) & (made != PAD)
    assert other[said].double().mean().item() == pytest.approx(0.3, abs=0.02) and (made[other] >= FIRST).all()
    none = torch.full((2, 5), PAD)
    assert torch.equal(words.misheard(none, np.random.default_rng(0)), none)


def test_of_text_alone_a_share_of_the_rows_has_all_words_right():
    words = words_of(500, missed=0.5, mistaken=0.5, clean=0.4)
    ids = torch.randint(FIRST, FIRST + 499, (400, 20), generator=torch.Generator().manual_seed(0))
    inputs = {"text_labels": ids.clone(), "input_ids": ids}
    words.answers_only(inputs, np.random.default_rng(0))
    right = (inputs["input_ids"] == ids).all(1)
    assert right.double().mean().item() == pytest.approx(0.4, abs=0.07)
    assert (inputs["input_ids"] == ids)[~right].double().mean() < 0.1


def test_a_run_learns_to_write_what_it_hears(tmp_path):
    changes = dict(steps=200, eval_every=200, batch_size=8, data=dict(user_codebooks=1))
    run_of(tmp_path, 200, **changes).run()
    row = [row for row in read_log(tmp_path / "log.csv") if "valid_heard_accuracy" in row][-1]
    # unseen dialogues: each word follows from one code
    assert float(row["valid_heard_accuracy"]) > 0.8
    assert float(row["valid_padding_accuracy"]) > 0.8


def test_targets_are_what_was_said_whatever_the_input_has(tmp_path):
    trainer = run_of(tmp_path, heard_text=dict(missed=1.0))
    batch = collate(quiet(4), 4)
    x = trainer.inputs(batch)
    ids = x["input_ids"]
    assert (x["text_labels"] >= FIRST).any() and (ids[:, 0] == FIRST + 32).all()
    assert not (ids[:, 1:] >= FIRST).any()
    trainer.plain.eval()
    x = trainer.inputs(batch)  # as it is evaluated: with all its words
    assert torch.equal(x["input_ids"][:, 1:] >= FIRST, x["text_labels"][:, 1:] >= FIRST)


def test_what_is_said_before_anybody_was_heard_is_no_target(tmp_path):
    p, labels = PAD, torch.tensor([[PAD, 0, 9, PAD, FIRST + 4, 0, 8], [PAD, 0, 9, PAD, PAD, 0, 8]])
    learned = words_of().grounded(labels)
    assert learned.tolist() == [[p, -100, -100, p, FIRST + 4, 0, 8], [p, -100, -100, p, p, -100, -100]]
    trainer = run_of(tmp_path)
    codes, heard = torch.zeros(1, 4, 7, dtype=torch.long), torch.tensor([[0, 0, 5, 0, 0, 0, 0]])
    batch = Batch(torch.tensor([[0, 9, p, p, p, 0, 8]]), codes, codes, torch.tensor([7]), heard)
    assert trainer.inputs(batch)["text_labels"][0, 1:8].tolist() == [-100, -100, p, FIRST + 4, p, 0, 8]


def test_of_a_share_of_the_rows_the_user_is_another(tmp_path):
    trainer = run_of(tmp_path, heard_text=dict(missed=0.0, mistaken=0.0, deaf=0.5), batch_size=40)
    batch = collate(quiet(40), 4)
    batch.text[:, :20], batch.text[:, 12] = PAD, 9  # its voice lasts behind its word
    x, heard = trainer.inputs(batch), batch.user[:, 0, :20]
    columns = x["user_audio_codes"][:, 0, 1:21]
    others = heard.roll(1, 0)
    others[:, 11:18] = trainer.silence[0]  # nobody speaks over it
    own, other = (columns == heard).all(1), (columns == others).all(1)
    assert (own ^ other).all() and 10 <= other.sum() <= 30
    labels = x["text_labels"]
    assert (labels[own] >= FIRST).any() and (labels[own] == PAD).any()
    assert not ((labels[other] >= FIRST) | (labels[other] == PAD) | (labels[other] == 0)).any()
    assert (labels[other] > PAD).any() and (
        x["input_ids"][other] >= FIRST
    ).any()  # it reads words, and answers them
    trainer.heard_text.given.deaf = 1.0
    alone = trainer.inputs(collate(quiet(1), 4))["user_audio_codes"][0, 0, 1:21]
    assert (alone == trainer.silence[0]).all()  # there is no other row
    trainer.plain.eval()
    columns = trainer.inputs(batch)["user_audio_codes"][:, 0, 1:21]
    assert torch.equal(columns, heard)  # as it is evaluated: every user


def test_what_to_answer_is_not_learned_from_the_sound(tmp_path):
    heard_text = dict(missed=0.0, mistaken=0.0, deaf=0.5, by_sound=0.0)
    trainer = run_of(tmp_path, heard_text=heard_text, batch_size=40)
    batch = collate(quiet(40), 4)
    batch.text[:, :20], batch.text[:, 12] = PAD, 9
    x = trainer.inputs(batch)
    own = (x["user_audio_codes"][:, 0, 1:21] == batch.user[:, 0, :20]).all(1)
    labels, p = x["text_labels"], PAD
    said = (labels >= 0) & (labels < FIRST) & (labels != p) & (labels != 0)
    assert 10 <= own.sum() <= 30 and not said[own].any() and said[~own].any()
    assert (labels[own] >= FIRST).any() and (labels[own] == p).any()  # when to speak, and what is heard
    assert (x["input_ids"][own] == 9).any() and (x["audio_labels"][own] >= 0).any()  # and how it sounds
    all_of_it = torch.tensor([[p, 9, 0, FIRST + 4, -100, 8]])
    assert trainer.heard_text.all_but_answers_of(all_of_it).tolist() == [[p, -100, 0, FIRST + 4, -100, -100]]
    trainer.heard_text.given.by_sound = 1.0
    assert (trainer.inputs(batch)["text_labels"][own] == 9).any()
    with pytest.raises(AizuchiError, match="heard_text.by_sound is a share"):
        config_of(tmp_path, heard_text=dict(first=60, by_sound=-1.0))


def test_of_text_alone_the_answers_are_learned(tmp_path):
    texts = text_alone([FIRST + 4, PAD, FIRST + 9, 0, 7, 8, PAD], 8)
    ids = texts[0][0].dialogues[0].text
    trainer = run_of(tmp_path, texts=texts, text_only=dict(share=0.5, frames=56))
    batch = Batch(
        torch.from_numpy(ids)[None].long(),
        *[torch.zeros(1, 0, len(ids), dtype=torch.long)] * 2,
        torch.tensor([56]),
    )
    x = trainer.inputs(batch)
    assert set(x["text_labels"].unique().tolist()) == {-100, 7, 8}
    assert (x["input_ids"] == FIRST + 4).any()
    # in silence, as where an answer begins: what is learned without any sound is not known where there is some
    model = trainer.plain
    settled = model.encode_audio(torch.zeros(1, 1, 1920 * 64))[0, :, -1]
    assert torch.equal(trainer.silence, settled)
    for codes in (x["moshi_audio_codes"], x["user_audio_codes"]):
        assert torch.equal(codes[0, :, 2:-1], settled[:, None].expand(-1, codes.shape[2] - 3))
    logits = model(**x).logits.detach().requires_grad_()
    loss = trainer.heard_text.answer_loss(logits, x["text_labels"])
    loss.backward()
    silent = [0, PAD, *range(FIRST, FIRST + 32)]
    assert not logits.grad[..., silent].any() and logits.grad[..., 7].any()
    spoken = torch.ones(FIRST + 32, dtype=torch.bool)
    spoken[silent] = False
    known = x["text_labels"][:, 1:] > 0
    chances = logits[:, :-1][known].softmax(-1)
    right = chances.gather(1, x["text_labels"][:, 1:][known][:, None])[:, 0]
    expected = -(right / chances[:, spoken].sum(-1)).log().mean()
    torch.testing.assert_close(loss, expected.float())
    values = [trainer.train_step(trainer.batches[step]) for step in range(2)]
    assert any("text_only_loss" in v for v in values) and any("audio_loss" in v for v in values)


def test_a_vocabulary_without_the_words_is_refused(tmp_path):
    config = config_of(tmp_path, heard_text=dict(first=60))
    told = [(Told(spoken()), 1.0)]
    with pytest.raises(AizuchiError, match="resize_token_embeddings gives it more"):
        MoshiTrainer(config, make_model(config), told)
    with pytest.raises(AizuchiError, match="not all of the data tells them"):
        MoshiTrainer(config, make_model(config), [(TokenList(spoken()), 1.0)])
    with pytest.raises(AizuchiError, match="there is no tokenizer"):
        run_of(tmp_path, heard_text=dict(first=None))
    assert (
        make_heard_text(HeardTextConfig(), model_of(33), 33, SimpleNamespace(size=FIRST + 32)).first == FIRST
    )
    with pytest.raises(AizuchiError, match="heard_text.deaf is a share between 0 and 1, not 2"):
        config_of(tmp_path, heard_text=dict(first=60, deaf=2.0))
    with pytest.raises(AizuchiError, match="worse are two numbers above 0, the lower first"):
        config_of(tmp_path, heard_text=dict(first=60, worse=[2.0, 1.0]))
    with pytest.raises(AizuchiError, match="of 1 together at most"):
        config_of(tmp_path, heard_text=dict(first=60, missed=0.6, mistaken=0.5))


def test_what_the_model_writes_itself_stands_in_the_input(tmp_path):
    words = words_of()
    ids = torch.tensor([[FIRST + 32, 9, 0, PAD, FIRST + 3, PAD, -1]])  # the initial token first
    logits = torch.full((1, 7, FIRST + 32), -50.0)
    logits[0, :, 9] = 60.0  # what no word of the user's is never drawn
    logits[0, 2, FIRST + 7] = logits[0, 3, PAD] = logits[0, 4, PAD] = 50.0
    made = words.overheard(ids, ids.masked_fill(ids == FIRST + 32, -100), logits, np.random.default_rng(0))
    assert made[0].tolist() == [FIRST + 32, 9, 0, FIRST + 7, PAD, PAD, -1]

    trainer = run_of(tmp_path, heard_text=dict(own=1.0))
    seen = []
    forward, given = trainer._forward, []
    trainer._forward = lambda inputs: seen.append(inputs) or forward(inputs)
    trainer.heard_text.once = lambda ids, labels: given.append(ids) or labels.masked_fill(labels == PAD, -100)
    trainer.train_step(trainer.batches[0])
    passes = len(trainer.batches[0])
    assert len(seen) == 2 * passes and not any("labels" in name for name in seen[0])
    learned = seen[passes]
    assert not torch.equal(learned["input_ids"], seen[0]["input_ids"])
    said = (learned["text_labels"] < FIRST) & (learned["text_labels"] >= 0)
    assert torch.equal(learned["input_ids"][said], seen[0]["input_ids"][said])
    assert torch.equal(given[0], learned["input_ids"]) and not (learned["text_labels"] == PAD).any()


def test_a_word_is_written_once_early_or_late():
    words, p, a, b = words_of(), PAD, FIRST + 1, FIRST + 2

    def left(ids, labels):
        return words.once(torch.tensor([ids]), torch.tensor([labels]))[0].tolist()

    assert left([p, p, a, p], [p, p, a, p]) == [p, p, a, p]
    assert left([p, a, p, p], [p, p, a, p]) == [p, p, p, p]  # it has it already
    assert left([a, p, p, p], [p, p, p, a]) == [p, p, p, a]  # that was another one
    assert left([p, a, a, p], [p, a, a, p]) == [p, a, a, p]  # said twice
    assert left([p, p, p, p, p], [p, a, p, p, p]) == [p, a, a, a, p]  # late, but not for ever
    assert left([p, p, a, p, p], [p, a, p, p, p]) == [p, a, a, p, p]
    assert left([p, b, p, p, p], [p, a, p, p, p]) == [p, a, p, p, p]  # mistaken, and no longer heard
    assert left([p, p, p, p], [p, a, 9, p]) == [p, a, 9, p]  # nothing is said over what it says
    assert left([p, p, p, p], [p, a, -100, p]) == [p, a, -100, p]
    assert left([p, p, p, p], [p, a, b, p]) == [p, a, b, b]  # nor the next word lost
    assert left([p, p], [p, a]) == [p, a]


def test_padding_is_no_target_where_the_user_is_unknown(tmp_path):
    trainer = run_of(tmp_path)
    trainer.plain.eval()  # in training the 9 is none either: nobody has said anything yet
    text = torch.tensor([[PAD, 9, PAD, PAD, PAD, PAD]])
    codes = torch.zeros(1, 4, 6, dtype=torch.long)
    heard = torch.tensor([[-1, -1, -1, 0, 2, 0]])
    labels = trainer.inputs(Batch(text, codes, codes, torch.tensor([6]), heard))["text_labels"]
    assert labels[0, :7].tolist() == [-100, PAD, 9, -100, -100, PAD, FIRST + 1]


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


def test_text_alone_meets_the_sound_of_other_dialogues(tmp_path):
    texts = text_alone([FIRST + 4, PAD, FIRST + 9, 0, 7, 8, PAD], 8)
    options = dict(share=0.5, frames=56, foreign=0.6)
    trainer = run_of(tmp_path, texts=texts, text_only=options, batch_size=40, micro_batch_size=40)
    assert trainer.batches[0][0].foreign is None
    batch = trainer.batches[1][0]
    assert batch.text_alone and batch.foreign.shape == (2, 40, trainer.plain.config.num_codebooks, 56)
    sounding = (batch.foreign >= 0).flatten(2).all(-1)
    assert torch.equal(sounding[0], sounding[1]) and 0.4 < sounding[0].double().mean() < 0.8
    assert (batch.foreign[:, ~sounding[0]] == -1).all()
    known = {tuple(d.user[:, t]) for d in quiet(6) for t in range(d.user.shape[1])}
    assert all(
        tuple(c) in known for c in batch.foreign[1][sounding[1]].transpose(1, 2).flatten(0, 1).tolist()
    )
    x = trainer.inputs(batch)
    row = int(sounding[0].nonzero()[0])
    assert torch.equal(x["user_audio_codes"][row, 0, 1:57], batch.foreign[1, row, 0])
    assert set(x["text_labels"].unique().tolist()) == {-100, 7, 8} and x["audio_labels"] is None
    assert torch.equal(trainer.batches[1][0].foreign, batch.foreign)
