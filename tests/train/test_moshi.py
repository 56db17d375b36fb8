"""The training loop: what a step learns, that a split of its rows changes nothing, exact resume, and its faults."""

import dataclasses
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aizuchi.errors import AizuchiError
from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.train.logs import read_log
from aizuchi.train.tokens import TokenList
from tests.train.tiny import config_of, dialogues, launch, start, trainer_of


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_a_run_learns_and_leaves_a_model_a_log_and_a_picture(tmp_path):
    config = config_of(
        tmp_path, steps=30, save_every=10, eval_every=15, sample_every=30, samples=1, tensorboard=True
    )
    trainer = trainer_of(config, valid=dialogues(2, seed=9))
    folder = trainer.run()
    rows = read_log(tmp_path / "log.csv")
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.5
    evaluated = [row for row in rows if "valid_words_perplexity" in row]
    assert len(evaluated) == 2 and {f"valid_codebook{k}_loss" for k in range(4)} <= evaluated[0].keys()
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert (tmp_path / "samples/step_00000030/0.wav").exists()
    assert [p.name for p in trainer.checkpoints.all()] == ["step_00000020", "step_00000030"]
    model = MoshiForConditionalGeneration.from_pretrained(folder)
    assert_same_weights(dict(model.named_parameters()), dict(trainer.plain.named_parameters()))
    assert model.config.codebook_weights == [100, 1, 1, 1] and model.config.text_padding_weight == 0.5


def test_the_loss_is_the_models_own_over_the_whole_batch(tmp_path):
    """Without a split a step's loss is `forward`'s, and its gradient is that loss's."""
    config = config_of(tmp_path, batch_size=4, micro_batch_size=4, optimizer=dict(clip=0.0))
    trainer = trainer_of(config)
    batches = trainer.batches[0]
    expected = trainer.plain(**trainer.inputs(batches[0]))
    expected.loss.backward()
    norm = torch.stack([p.grad.norm() for p in trainer.plain.parameters() if p.grad is not None]).norm()
    trainer.optimizer.zero_grad()
    values = trainer.train_step(batches)
    assert values["loss"] == pytest.approx(float(expected.loss.detach()), rel=1e-6)
    assert values["text_loss"] == pytest.approx(float(expected.text_loss.detach()), rel=1e-6)
    assert values["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_the_text_counts_as_much_as_it_is_told_to(tmp_path):
    config = config_of(tmp_path, batch_size=4, micro_batch_size=2, optimizer=dict(clip=0.0))
    trainer = trainer_of(dataclasses.replace(config, loss=dataclasses.replace(config.loss, text_weight=7.0)))
    assert len(trainer.batches[0]) == 2
    sums = []
    for batch in trainer.batches[0]:
        x = trainer.inputs(batch)
        outputs = trainer.plain(**x)
        weights = trainer._weights(x).float()
        sums.append((outputs.text_loss * weights[0], outputs.depth_loss * weights[1], weights))
    text, audio, weights = (sum(parts) for parts in zip(*sums))
    (7 * text / weights[0] + audio / weights[1]).backward()
    norm = torch.stack([p.grad.norm() for p in trainer.plain.parameters() if p.grad is not None]).norm()
    trainer.optimizer.zero_grad()
    values = trainer.train_step(trainer.batches[0])
    assert values["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert values["text_loss"] == pytest.approx(float(text.detach() / weights[0]), rel=1e-6)  # not weighted


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulation_equals_one_large_batch(tmp_path, micro):
    """Rows have different lengths and paddings, so that means of means would differ."""
    whole = trainer_of(config_of(tmp_path / "a", micro_batch_size=4, steps=3))
    split = trainer_of(config_of(tmp_path / "b", micro_batch_size=micro, steps=3))
    for step in range(3):
        a, b = whole.train_step(whole.batches[step]), split.train_step(split.batches[step])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert_same_weights(whole.plain.state_dict(), split.plain.state_dict(), 2e-5)


def test_gradient_checkpointing_changes_nothing(tmp_path):
    plain = trainer_of(config_of(tmp_path / "a"))
    saving = trainer_of(config_of(tmp_path / "b", gradient_checkpointing=True))
    a, b = plain.train_step(plain.batches[0]), saving.train_step(saving.batches[0])
    assert saving.plain.decoder.model.gradient_checkpointing
    assert a == b
    assert_same_weights(plain.plain.state_dict(), saving.plain.state_dict(), 1e-7)


def test_parts_learn_at_their_own_rates(tmp_path):
    trainer = trainer_of(config_of(tmp_path, optimizer=dict(text_scale=0.5), schedule=dict(warmup=4)))
    values = trainer.train_step(trainer.batches[0])
    assert (values["lr_temporal"], values["lr_depth"], values["lr_text"]) == pytest.approx(
        (2.5e-3, 5e-3, 1.25e-3)
    )
    counts = {g["part"]: 0 for g in trainer.optimizer.param_groups}
    for group in trainer.optimizer.param_groups:
        counts[group["part"]] += sum(p.numel() for p in group["params"])
        assert (group["weight_decay"] == 0) == all(p.dim() < 2 for p in group["params"])
    model = trainer.plain
    assert counts["depth"] == sum(p.numel() for p in model.depth_decoder.parameters())
    assert (
        counts["text"]
        == model.decoder.lm_head.weight.numel() + model.decoder.model.embed_tokens.weight.numel()
    )
    assert sum(counts.values()) == sum(
        p.numel() for n, p in model.named_parameters() if "audio_encoder" not in n
    )


def test_the_codec_stays_as_it_is(tmp_path):
    trainer = trainer_of(config_of(tmp_path))
    before = {n: p.clone() for n, p in trainer.plain.audio_encoder.state_dict().items()}
    trainer.train_step(trainer.batches[0])
    assert_same_weights(before, dict(trainer.plain.audio_encoder.state_dict()))


def test_masked_text_is_not_learned(tmp_path):
    trainer = trainer_of(config_of(tmp_path, text_mask=1.0))
    values = trainer.train_step(trainer.batches[0])
    assert values["text_loss"] == 0 and values["audio_loss"] > 0
    half = trainer_of(config_of(tmp_path, text_mask=0.5, batch_size=200, micro_batch_size=200))
    hidden = (half.batches[0][0].text[:, 0] < 0).float().mean()
    assert 0.35 < hidden < 0.65


TEXT_ONLY = dict(share=0.4, frames=16, learning_rate=3e-3)


def test_a_share_of_the_steps_learns_from_text_alone(tmp_path):
    trainer = trainer_of(config_of(tmp_path, text_only=TEXT_ONLY, steps=10))
    kinds = [trainer.batches[step][0].text_alone for step in range(10)]
    assert kinds == [False, False, True, False, True, False, False, True, False, True]
    plain = trainer_of(config_of(tmp_path / "plain", steps=10))
    for turn, step in enumerate(n for n, alone in enumerate(kinds) if not alone):
        assert torch.equal(trainer.batches[step][0].model, plain.batches[turn][0].model)
    trainer.train_step(trainer.batches[0])
    before = {name: p.clone() for name, p in trainer.plain.named_parameters()}
    state = {n: s["step"].clone() for n, s in trainer.optimizer.state_dict()["state"].items()}
    trainer.step = 2
    values = trainer.train_step(trainer.batches[2])
    assert values["text_only_loss"] > 0 and "audio_loss" not in values
    for name, parameter in trainer.plain.named_parameters():
        learns = name.startswith("decoder.")
        assert torch.equal(parameter, before[name]) != learns, name
    assert {n: s["step"] for n, s in trainer.optimizer.state_dict()["state"].items()} == state
    # the loss is that of the text without any sound
    batch = trainer.batches[4][0]
    x = trainer.inputs(batch)
    assert (x["moshi_audio_codes"][:, 0, 1:] == -1).all() and (x["user_audio_codes"][:, 0, 1:] == -1).all()
    assert torch.equal(x["input_ids"][:, 1:17], batch.text)
    assert torch.equal(x["text_labels"][:, 1:17], batch.text)


def test_steps_of_text_resume_exactly_and_are_logged_beside_the_others(tmp_path):
    config = config_of(tmp_path / "whole", text_only=TEXT_ONLY, steps=9, save_every=3, log_every=4)
    whole = trainer_of(config).run()
    again = dataclasses.replace(config, output=str(tmp_path / "again"))
    first = trainer_of(again)
    for step in range(6):
        first.train_step(first.batches[step])
    first.save()
    assert_same_weights(weights_of(whole), weights_of(trainer_of(again).run()))
    rows = read_log(tmp_path / "whole/log.csv")
    # steps 3, 5, 8 are of text; of each kind the first one from each fourth step on is logged, and the last step
    assert [(row["step"], "text_only_loss" in row) for row in rows] == [
        ("4", False),
        ("5", True),
        ("8", True),
        ("9", False),
    ]
    assert "text_only_loss" in (tmp_path / "whole/log.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("task", ["tts", "stt"])
def test_synthesis_and_recognition_are_delays_and_streams(tmp_path, task):
    delays = dict(text=6) if task == "stt" else dict(audio=5)
    trainer = trainer_of(config_of(tmp_path, task=task, delays=delays, steps=2), valid=dialogues(1, seed=4))
    config = trainer.plain.config
    if task == "stt":
        assert config.delays == [6, 0, 1, 1, 1] and trainer.plain.depth_decoder is None
    else:
        assert config.delays == [0, 5, 6, 6, 6] and config.num_user_codebooks == 0
    x = trainer.inputs(trainer.batches[0][0])
    heard = x["user_audio_codes"] if task == "stt" else x["moshi_audio_codes"]
    row = trainer.batches[0][0]
    start = 1 + config.delays[1]
    assert torch.equal(
        heard[0, 0, start : start + 5], row.model[0, 0, :5]
    )  # both read the speaker's own voice
    model = MoshiForConditionalGeneration.from_pretrained(trainer.run())
    assert model.config.delays == config.delays
    assert trainer.evaluate()["words_loss"] > 0


def test_the_users_stream_can_be_learned_too(tmp_path):
    trainer = trainer_of(config_of(tmp_path, loss=dict(user_weight=0.5)))
    assert trainer.plain.config.num_generated_codebooks == 8
    assert trainer.plain.config.codebook_weights == [100, 1, 1, 1, 50, 0.5, 0.5, 0.5]
    assert "codebook7_loss" in trainer_result(trainer)


def trainer_result(trainer):
    trainer.valid = trainer.batches.pieces
    return trainer.evaluate()


def test_evaluation_counts_said_text_and_padding_apart(tmp_path):
    trainer = trainer_of(
        config_of(tmp_path, loss=dict(text_padding_weight=1.0, first_codebook_weight=1.0)), valid=dialogues(3)
    )
    result = trainer.evaluate()
    total = trainer.plain.eval()
    sums, count = 0.0, 0
    for i in range(len(trainer.valid)):
        from aizuchi.train.tokens import collate

        x = trainer.inputs(collate([trainer.valid.piece(i)], 4))
        out = total(**x)
        n = int((x["text_labels"][:, 1:] >= 0).sum())
        sums, count = sums + float(out.text_loss.detach()) * n, count + n
    assert result["text_loss"] == pytest.approx(sums / count, rel=1e-5)
    assert result["text_perplexity"] == pytest.approx(np.exp(sums / count), rel=1e-4)
    assert result["words_loss"] != pytest.approx(result["padding_loss"])


def test_killed_and_resumed_ends_in_the_same_bits(tmp_path):
    model = dict(attention_dropout=0.2)  # draws from torch's generator, whose state must come back too
    config = config_of(tmp_path / "whole", steps=12, save_every=3, model=model, text_mask=0.3)
    whole = trainer_of(config).run()
    broken = dataclasses.replace(config, output=str(tmp_path / "broken"))
    process = start(broken, tmp_path)
    log = tmp_path / "broken" / "log.csv"
    rng = np.random.default_rng()
    victim = int(rng.integers(4, 11))
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) <= victim):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [int(p.name[5:]) for p in (tmp_path / "broken/checkpoints").glob("step_*")]
    assert steps and max(steps) < 12, "the run was over before it was killed"
    assert not (tmp_path / "broken/model").exists()
    resumed = trainer_of(broken).run()
    assert_same_weights(weights_of(whole), weights_of(resumed))
    rows = [[r[c] for c in ("step", "loss", "grad_norm")] for r in read_log(log)]
    assert rows == [
        [r[c] for c in ("step", "loss", "grad_norm")] for r in read_log(tmp_path / "whole/log.csv")
    ]


def test_bf16_computes_in_bf16_and_learns_in_fp32(tmp_path):
    plain, half = (trainer_of(config_of(tmp_path / p, precision=p)) for p in ("fp32", "bf16"))
    a, b = plain.train_step(plain.batches[0]), half.train_step(half.batches[0])
    assert a["loss"] == pytest.approx(b["loss"], rel=2e-2) and a["loss"] != b["loss"]
    assert {p.dtype for p in half.plain.parameters()} == {torch.float32}


def test_a_stage_has_delays_of_its_own(tmp_path):
    """Pre-training with the acoustic codes two frames behind, post-training with one."""
    first = trainer_of(config_of(tmp_path / "first", delays=dict(acoustic=2), steps=2))
    assert first.plain.config.delays == [0, 0, 2, 2, 2, 0, 2, 2, 2]
    stage = dict(model=None, checkpoint=str(first.run()), steps=2)
    same = trainer_of(config_of(tmp_path / "same", **stage))
    assert same.plain.config.delays == first.plain.config.delays
    second = trainer_of(config_of(tmp_path / "second", delays=dict(acoustic=1), **stage))
    row = second.batches[0][0]
    x = second.inputs(row)
    assert torch.equal(x["moshi_audio_codes"][0, 0, 1:6], row.model[0, 0, :5])
    assert torch.equal(x["moshi_audio_codes"][0, 1, 2:7], row.model[0, 1, :5])
    model = MoshiForConditionalGeneration.from_pretrained(second.run())
    assert model.config.delays == [0, 0, 1, 1, 1, 0, 1, 1, 1]


def test_the_users_codes_may_be_there_at_once(tmp_path):
    """Every codebook of a frame of the user's stands in one column, the model's later ones a column further on."""
    trainer = trainer_of(config_of(tmp_path, delays=dict(acoustic=1, user_acoustic=0), steps=1))
    assert trainer.plain.config.delays == [0, 0, 1, 1, 1, 0, 0, 0, 0]
    row = trainer.batches[0][0]
    x = trainer.inputs(row)
    assert torch.equal(x["user_audio_codes"][0, :, 1:6], row.user[0, :, :5])
    assert torch.equal(x["moshi_audio_codes"][0, 1, 2:7], row.model[0, 1, :5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copies", "shards", "copies with text", "shards with text"])
def test_two_processes_equal_one(tmp_path, kind):
    shard = "shards" in kind
    config = config_of(
        tmp_path / "two",
        steps=4,
        batch_size=8,
        optimizer=dict(learning_rate=1e-3, depth_learning_rate=1e-3),
        shard=shard,
        eval_every=4,
        # Adam's first step has the rate's size however small a gradient is, and the text's own first step comes late:
        # what rounds apart there differs by a share of this rate
        text_only=dict(TEXT_ONLY, learning_rate=1e-4) if "text" in kind else None,
    )
    assert f"holds {'0.5' if shard else '1.0'}" in launch(config, tmp_path)
    valid = dialogues(3, seed=9)
    one = trainer_of(dataclasses.replace(config, output=str(tmp_path / "one")), valid=valid).run()
    assert_same_weights(weights_of(one), weights_of(tmp_path / "two/model"), 1e-6)
    rows = [read_log(tmp_path / name / "log.csv") for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 5
    for a, b in zip(*rows):
        for name in ("loss", "grad_norm", "valid_audio_loss", "valid_words_loss"):
            assert (name in a) == (name in b)
            assert float(a.get(name, 0)) == pytest.approx(float(b.get(name, 0)), rel=1e-5), name
    # a checkpoint does not say how many processes wrote it: one goes on from it, and so do two
    for name in ("by_one", "by_two"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        shutil.copytree(
            tmp_path / "two/checkpoints/step_00000002", tmp_path / name / "checkpoints/step_00000002"
        )
        again = dataclasses.replace(config, output=str(tmp_path / name))
        if name == "by_one":
            trainer_of(again, valid=valid).run()
        else:  # what accelerate launch --use_fsdp sets says the same as `shard`
            fsdp = {"ACCELERATE_USE_FSDP": "true"} if shard else {}
            said = launch(dataclasses.replace(again, shard=False), tmp_path, **fsdp)
            assert f"holds {'0.5' if shard else '1.0'}" in said
        assert [row["step"] for row in read_log(tmp_path / name / "log.csv") if "grad_norm" in row] == [
            "3",
            "4",
        ]
        assert_same_weights(weights_of(one), weights_of(tmp_path / name / "model"), 1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(task="song"), "task must be one of"),
        (dict(checkpoint="x"), "either `checkpoint`"),
        (dict(model=dict(hiden_size=3)), "did you mean 'hidden_size'"),
        (dict(model=dict(ffn_dim=33)), "model: .*must be even"),
        (dict(batch_size=5), "must be a multiple of micro_batch_size"),
        (dict(text_only=dict(share=1.0)), "text_only.share must lie between 0 and 1"),
        (dict(text_only={}, task="tts"), "text_only is for task: dialogue"),
        (dict(lora={}), "lora adapts a `checkpoint`"),
        (dict(schedule=dict(kind="line")), "schedule.kind"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, message):
    with pytest.raises(AizuchiError, match=message):
        trainer_of(config_of(tmp_path, **changes))


def test_data_with_too_few_codebooks_is_refused(tmp_path):
    trainer = trainer_of(config_of(tmp_path), train=dialogues(codebooks=2))
    with pytest.raises(AizuchiError, match="the data has 2 codebooks, the model 4"):
        trainer.batches[0]


def test_resuming_with_another_batch_size_is_refused(tmp_path):
    config = config_of(tmp_path, steps=2)
    trainer_of(config).run()
    with pytest.raises(AizuchiError, match="made with batch_size 4"):
        trainer_of(dataclasses.replace(config, batch_size=8)).run()


def test_sources_are_drawn_by_their_weights(tmp_path):
    from aizuchi.train.tokens import Pieces

    a, b = dialogues(3, seed=1), dialogues(5, seed=2)
    for d in b:
        d.text[:] = 7
    pieces = Pieces([(TokenList(a), 3.0), (TokenList(b), 1.0)], 20, seed=0)
    from_b = [bool((pieces.draw(p).text == 7).all()) for p in range(1000)]
    assert sum(from_b) == 250
