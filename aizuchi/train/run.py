"""What every training run does: its loop, its log, its checkpoints, and its place in the data."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aizuchi.errors import AizuchiError, require

from .checkpoints import CheckpointFolder, random_state, read_state, restore_random_state
from .config import check, output_folder, to_dict
from .logs import RunLog, plot_curves
from .memory import keep_freed_memory
from .stopping import Stop, leave_signals_to_the_parent

Values = dict[str, float]


class TrainingRun(ABC):
    """A run that can be killed at any time and ends in the same weights all the same.

    A subclass sets ``steps_data`` (a dataset whose item n is what step n learns from), trains one step at a time,
    and reads and writes its state.
    """

    kind: str
    steps_data: Any
    panels: list[list[str]]  # curves to draw, a list of columns a panel

    def __init__(self, config: Any, some_unused: bool = False):
        """``some_unused``: there are steps that some of the parameters take no part in."""
        accelerate = require("accelerate", "train")
        self.config = config
        # A process has one state of accelerate's, which would hold a second run to the precision of the first.
        accelerate.state.AcceleratorState._reset_state()
        self.accelerator = accelerate.Accelerator(
            # said outright: on a machine without a GPU, processes that were not told so do not find each other
            cpu=config.device == "cpu" or not torch.accelerator.is_available(),
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            kwargs_handlers=[accelerate.DistributedDataParallelKwargs(find_unused_parameters=some_unused)],
        )
        started = int(os.environ.get("WORLD_SIZE", 1))
        check(
            started == self.accelerator.num_processes,
            f"{started} processes were started, but this one finds {self.accelerator.num_processes}: start them with "
            "`torchrun` or `accelerate launch`, which say to each where the others are",
        )
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        self.folder = output_folder(config.output)
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", config.keep)
        self.step = 0
        self.log: RunLog | None = None
        self._waited = 0.0

    # -- of each kind of run ---------------------------------------------------------------------------------
    @abstractmethod
    def train_step(self, batch: Any) -> Values:
        """One optimizer step; returns what it measured, with ``frames`` that all processes learned from."""

    @abstractmethod
    def speed(self, frames: float, seconds: float) -> Values:
        """How fast it went, to log."""

    @abstractmethod
    def evaluate(self) -> Values:
        """Measures on the validation data."""

    @abstractmethod
    def write_samples(self) -> None:
        """Write something to listen to."""

    @abstractmethod
    def write_state(self, folder: Path) -> None:
        """Write model and optimizers."""

    @abstractmethod
    def read_state(self, folder: Path) -> None:
        """Read what `write_state` wrote."""

    @abstractmethod
    def export(self) -> Path:
        """Write the model to ``model/`` and return that folder."""

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to evaluate on."""
        return False

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    # -- the loop --------------------------------------------------------------------------------------------
    def run(self) -> Path:
        """Train to the last step (from the newest checkpoint, if there is one) and export the model.

        Returns:
            the folder of the finished model
        Raises:
            AizuchiError: a loss that is not finite, a checkpoint that can't be written
            KeyboardInterrupt: told to stop (SIGINT, SIGTERM); once: after a checkpoint of the step it was at
        """
        config = self.config
        self.resume()
        if self.main:
            self.log = RunLog(self.folder, self.step, config.tensorboard)
        quiet = None if self.main else True
        bar = tqdm(total=config.steps, initial=self.step, desc="training", unit="step", disable=quiet)
        started, frames, waited = time.perf_counter(), 0.0, 0.0
        stop = Stop(self.main)
        try:
            with bar, stop.listening():
                for batch in self._batches():
                    waited += self._waited
                    values = self.train_step(batch)
                    frames += values.pop("frames")
                    bar.update()
                    if self.is_logged(self.step):
                        seconds = time.perf_counter() - started
                        values |= self.speed(frames, seconds)
                        values["waiting_for_data"] = waited / seconds
                        loss = next(value for name, value in values.items() if name.endswith("loss"))
                        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                        self.write_log(values)
                        started, frames, waited = time.perf_counter(), 0.0, 0.0
                    paused = time.perf_counter()
                    saved = self._after_step()
                    if self.step < config.steps and stop.everywhere(self.accelerator):
                        if not saved:
                            self.save()
                        raise KeyboardInterrupt
                    started += time.perf_counter() - paused
        except KeyboardInterrupt:
            if self.main:
                self.checkpoints.clean()
                last = self.checkpoints.latest()
                left = f"{last} is the newest checkpoint; " if last else "no checkpoint was written yet; "
                tqdm.write(f"stopped at step {self.step}: {left}the same command goes on from there")
            raise
        finally:
            if self.log is not None:
                self.log.close()
        if self.main:
            self.plot()
        return self.export()

    def _after_step(self) -> bool:
        """Evaluate, write samples and save where it is time for it; returns whether a checkpoint was written."""
        config = self.config
        last = self.step == config.steps

        def due(every: int) -> bool:
            return bool(every) and (last or self.step % every == 0)

        if self.has_validation and due(config.eval_every):
            self.write_log({f"valid_{name}": value for name, value in self.evaluate().items()})
        if due(config.sample_every):
            self.write_samples()
        if saving := due(config.save_every) or last:
            self.save()
        return saving

    def _batches(self) -> Iterator[Any]:
        """The steps still to do, read ahead by workers if there are any; notes how long each was waited for."""
        config = self.config
        loader = torch.utils.data.DataLoader(
            self.steps_data,
            batch_size=None,
            sampler=range(self.step, config.steps),
            num_workers=config.data.workers,
            worker_init_fn=leave_signals_to_the_parent,
            generator=torch.Generator(),  # or the loader would draw from the generator that dropout draws from
        )
        start = time.perf_counter()
        for batch in loader:
            self._waited = time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def is_logged(self, step: int) -> bool:
        """Whether a step (counted from 1) gets a row of the log."""
        return step % self.config.log_every == 0 or step == self.config.steps

    def write_log(self, values: Values) -> None:
        """Add a row to the log."""
        if self.log is not None:
            self.log.write(self.step, values)

    def plot(self) -> None:
        """Draw the curves to ``curves.png`` in the run's folder."""
        plot_curves(self.folder / "log.csv", self.folder / "curves.png", self.panels)

    # -- checkpoints -----------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write a checkpoint of this step."""
        accelerator = self.accelerator
        state = {"kind": self.kind, "config": to_dict(self.config), "processes": accelerator.num_processes}
        with self.checkpoints.writing(self.step, state, accelerator) as folder:
            self.write_state(folder)
            torch.save(random_state(), folder / f"random_{accelerator.process_index}.pt")

    def resume(self) -> None:
        """Go on from the newest checkpoint, if the run has one."""
        found = self.checkpoints.latest()
        if found is None:
            return
        state = read_state(found)
        if state["kind"] != self.kind:
            raise AizuchiError(f"{found} is of a {state['kind']} run: give another output folder")
        for name in ("batch_size", "seed"):
            if state["config"].get(name) != getattr(self.config, name):
                raise AizuchiError(
                    f"{found} was made with {name} {state['config'].get(name)}, and its data can't be continued "
                    f"with {getattr(self.config, name)}: take the same, or give another output folder"
                )
        self.read_state(found)
        own = found / f"random_{self.accelerator.process_index}.pt"
        if own.exists():  # more processes than before: the new ones keep their fresh generators
            restore_random_state(torch.load(own, weights_only=False))
        self.step = state["step"]
        if self.main:
            tqdm.write(f"going on from {found}")

    def not_finite(self, what: str) -> AizuchiError:
        """The error of a step whose loss or gradient is NaN or infinite."""
        last = self.checkpoints.latest()
        return AizuchiError(
            f"step {self.step + 1}: the loss or its gradient is not finite ({what}). "
            + (f"The last good checkpoint is {last}. " if last else "")
            + "Lower the learning rate, lengthen schedule.warmup, or use precision: fp32"
        )
