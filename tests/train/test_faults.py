"""What ends a training in the middle: NaN, Ctrl-C, a full disk. The last good checkpoint is left, and said."""

import contextlib
import multiprocessing
import os
import resource
import signal

import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train import stopping
from aizuchi.train.stopping import Stop
from tests.train import tiny, tiny_codec
from tests.train.test_moshi import assert_same_weights, weights_of
from tests.train.tiny import config_of, trainer_of


def test_a_loss_that_is_not_finite_stops_the_run_and_harms_no_checkpoint(tmp_path):
    trainer = trainer_of(config_of(tmp_path, save_every=2))
    true_step = trainer.train_step

    def poisoned(batches):
        if trainer.step == 3:
            with torch.no_grad():
                trainer.plain.decoder.lm_head.weight[5] = float("nan")
        return true_step(batches)

    trainer.train_step = poisoned
    with pytest.raises(AizuchiError, match=r"step 4: .*not finite.*last good checkpoint is .*step_00000002"):
        trainer.run()
    assert [p.name for p in trainer.checkpoints.all()] == ["step_00000002"]
    assert all(t.isfinite().all() for t in weights_of(trainer.checkpoints.latest()).values())


def test_an_interrupted_run_says_how_to_go_on_and_leaves_nothing_half_written(tmp_path, capsys):
    trainer = trainer_of(config_of(tmp_path, save_every=2))
    true_step = trainer.train_step

    def interrupted(batches):
        if trainer.step == 3:
            trainer.checkpoints.temporary(4).mkdir()  # as if it had come while a checkpoint was written
            raise KeyboardInterrupt
        return true_step(batches)

    trainer.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert (
        "stopped at step 3: " in (said := capsys.readouterr().out) and "step_00000002 is the newest" in said
    )
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_told_to_stop_saves_and_goes_on_to_the_same_weights(tmp_path, capsys, number, workers):
    whole = trainer_of(config_of(tmp_path / "whole", steps=5, save_every=100))
    whole.run()
    config = config_of(tmp_path / "run", steps=5, save_every=100)
    config.data.workers = workers
    handler = signal.getsignal(number)
    told = trainer_of(config)
    true_step = told.train_step

    def step(batches):
        if told.step == 2:
            for process in multiprocessing.active_children():  # as a terminal and some schedulers do
                os.kill(process.pid, number)
            os.kill(os.getpid(), number)
        return true_step(batches)

    told.train_step = step
    with pytest.raises(KeyboardInterrupt):
        told.run()
    said = capsys.readouterr().out
    assert (
        "stopping: this step is finished" in said
        and "stopped at step 3: " in said
        and "step_00000003" in said
    )
    assert [p.name for p in told.checkpoints.all()] == ["step_00000003"]
    assert signal.getsignal(number) is handler
    again = trainer_of(config)
    again.run()
    assert_same_weights(whole.plain.state_dict(), again.plain.state_dict(), 0.0)


def test_told_twice_a_run_ends_within_its_step(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "REPEATED", 0.0)
    trainer = trainer_of(config_of(tmp_path, steps=5, save_every=2))
    true_step = trainer.train_step

    def step(batches):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return true_step(batches)

    trainer.train_step = step
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def test_all_processes_hear_of_what_one_was_told():
    class Two:
        """What `Stop` asks of accelerate, of two processes of which this one may have been told nothing."""

        num_processes, triggered = 2, False

        def set_trigger(self):
            self.triggered = True

        def check_trigger(self):
            return self.triggered

    stop, processes = Stop(), Two()
    assert not stop.everywhere(processes)
    stop(signal.SIGTERM, None)
    stop(signal.SIGTERM, None)  # passed on by who started it
    assert stop.everywhere(processes) and processes.triggered


@contextlib.contextmanager
def full_disk():
    """No file can grow beyond 20 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


TRAINERS = {
    "moshi": lambda folder: tiny.trainer_of(tiny.config_of(folder)),
    "codec": lambda folder: tiny_codec.trainer_of(tiny_codec.config_of(folder)),
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, kind):
    trainer = TRAINERS[kind](tmp_path)
    batches = trainer.batches if kind == "moshi" else trainer.steps_data
    trainer.train_step(batches[0])
    trainer.save()
    good = weights_of(trainer.checkpoints.latest())
    trainer.train_step(batches[1])
    message = "can't write the checkpoint of step 2.*step_00000001 is the last good"
    with full_disk(), pytest.raises(AizuchiError, match=message):
        trainer.save()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert_same_weights(good, weights_of(trainer.checkpoints.latest()))
    trainer.save()
    assert trainer.checkpoints.latest().name == "step_00000002"


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_full_disk_leaves_the_finished_model(tmp_path, kind):
    trainer = TRAINERS[kind](tmp_path)
    good = weights_of(trainer.export())
    trainer.train_step((trainer.batches if kind == "moshi" else trainer.steps_data)[0])
    with full_disk(), pytest.raises(AizuchiError, match="can't write the model.*checkpoints are untouched"):
        trainer.export()
    assert_same_weights(good, weights_of(tmp_path / "model"))
    assert not list(tmp_path.glob(".tmp-*"))
