"""A training run of the recipe's own: one module, AdamW, averaged weights, the kit's loop and checkpoints."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aizuchi.train.averages import move_average
from aizuchi.train.checkpoints import writing_model
from aizuchi.train.run import TrainingRun, Values
from aizuchi.train.schedule import lr_scale

DECAY = 0.99  # of the averaged weights


@dataclass
class Workers:
    """workers: processes that read ahead."""

    workers: int = 0


@dataclass
class StageConfig:
    """Of a run: the fields of `aizuchi train`'s that mean the same here."""

    output: str
    steps: int = 1000
    batch_size: int = 4
    learning_rate: float = 1e-3
    warmup: int = 100
    final: float = 0.05
    seed: int = 1
    precision: str = "bf16"
    device: str = "cpu"  # batches are made there, and stay
    data: Workers = field(default_factory=Workers)
    log_every: int = 20
    eval_every: int = 250
    save_every: int = 100
    sample_every: int = 0
    keep: int = 1
    tensorboard: bool = False


class Steps(torch.utils.data.Dataset):
    """Batches by the number of the step."""

    def __init__(self, make: Callable[[int], Any]):
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)


class Stage(TrainingRun):
    """A run that trains ``module`` on ``batches(step)`` by the loss that `measure` gives."""

    kind = "stage"
    panels: list[list[str]] = [["loss"]]

    def __init__(self, config: StageConfig, module: nn.Module, batches: Callable[[int], Any]):
        super().__init__(config, some_unused=True)
        self.steps_data = Steps(batches)
        decaying = [p for p in module.parameters() if p.requires_grad and p.dim() == 2]
        others = [p for p in module.parameters() if p.requires_grad and p.dim() != 2]
        groups = [{"params": decaying, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98)
        )
        self.averages = copy.deepcopy(module).requires_grad_(False)
        self.model, self.optimizer = self.accelerator.prepare(module.train(), optimizer)
        self.averages.to(self.accelerator.device)

    @abstractmethod
    def measure(self, batch: Any) -> tuple[Tensor, Values, float]:
        """The loss of a batch, what else to log of it, and its frames."""

    @property
    def module(self) -> Any:
        """What is trained."""
        return self.accelerator.unwrap_model(self.model)

    def train_step(self, batch: Any) -> Values:
        """One step of the optimizer."""
        config = self.config
        rate = config.learning_rate * lr_scale("cosine", self.step, config.steps, config.warmup, config.final)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, values, frames = self.measure(batch)
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0))
        told = float(loss.detach())
        if not (math.isfinite(norm) and math.isfinite(told)):
            raise self.not_finite(f"loss {told:g}, gradient norm {norm:g}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        move_average(self.averages, self.module, DECAY, self.step)
        return {"loss": told, **values, "grad_norm": norm, "lr": rate, "frames": frames}

    def speed(self, frames: float, seconds: float) -> Values:
        """Seconds of audio learned from in a second."""
        return {"audio_seconds_per_second": frames * 0.08 / seconds}

    @property
    def has_validation(self) -> bool:
        return True

    def write_samples(self) -> None:
        """There is nothing to listen to."""

    def write_state(self, folder: Path) -> None:
        if self.main:
            state = {
                "module": self.module.state_dict(),
                "averages": self.averages.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, folder / "stage.pt")

    def read_state(self, folder: Path) -> None:
        state = torch.load(folder / "stage.pt", map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["module"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])

    def export(self) -> Path:
        """Write the averaged weights to ``model/weights.pt``."""
        target = self.folder / "model"
        with writing_model(target, self.accelerator) as folder:
            if self.main:
                torch.save(self.averages.state_dict(), folder / "weights.pt")
        return target
