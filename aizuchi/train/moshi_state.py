"""What a run of Moshi leaves on disk: checkpoints to go on from, and the model; sharded weights are gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from aizuchi.checkpoints.adapters import ADAPTER
from aizuchi.models.adapters import load_trained, trained

from . import sharding
from .checkpoints import save_model, writing_model
from .lora import adapter_state, save_adapters


class MoshiState:
    """The part of `MoshiTrainer` that writes and reads files; its attributes are the trainer's."""

    accelerator: Any
    config: Any
    folder: Path
    main: bool
    model: Any
    optimizers: dict[str, Any]
    plain: Any
    sharded: bool
    tokenizer: Any

    def write_state(self, folder: Path) -> None:
        """The model as `from_pretrained` reads it, and the optimizer; sharded ones are gathered."""
        self._save_model(folder)
        for name, optimizer in self.optimizers.items():
            if self.sharded:
                state = sharding.optimizer_state(optimizer, keep=self.main)
            elif self.main:
                state = optimizer.state_dict()
            if self.main:
                torch.save(state, folder / f"{name}.pt")

    def read_state(self, folder: Path) -> None:
        """Read what `write_state` wrote."""
        self._load_model(folder)
        for name, optimizer in self.optimizers.items():
            path = folder / f"{name}.pt"
            if name != "optimizer" and not path.exists():
                continue  # text alone was added to the run after this checkpoint
            state = torch.load(path, map_location="cpu", weights_only=True)
            for group in state["param_groups"]:  # of whatever optimizer this was
                group.update(fused=True, foreach=None)
            if self.sharded:
                sharding.load_optimizer_state(optimizer, state)
            else:
                optimizer.load_state_dict(state)

    def export(self) -> Path:
        """Write the model as `from_pretrained` reads it, to ``model/`` in the run's folder."""
        target = self.folder / "model"
        with writing_model(target, self.accelerator) as folder:
            self._save_model(folder)
        return target

    def _save_model(self, folder: Path) -> None:
        """The model, or the adapters alone. Every process comes here: sharded weights are gathered."""
        model, adapters = self.plain, self.config.lora is not None
        if self.sharded:
            items = trained(model) if adapters else model.state_dict().items()
            weights = sharding.whole_state(items, keep=self.main)
        else:
            weights = adapter_state(model) if adapters else self.accelerator.get_state_dict(self.model)
        if not self.main:
            return
        if adapters:
            save_adapters(model, folder, self.config.checkpoint, weights)
        else:
            model.config.use_cache = True
            try:
                save_model(model, folder, state_dict=weights)
            finally:
                model.config.use_cache = False
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def _load_model(self, folder: Path) -> None:
        from safetensors.torch import load_file, load_model

        if self.config.lora is not None:
            load_trained(self.plain, load_file(folder / ADAPTER), sharding.cut_like)
        elif self.sharded:
            sharding.load_weights(self.plain, load_file(folder / "model.safetensors"))
        else:
            load_model(self.plain, folder / "model.safetensors")
