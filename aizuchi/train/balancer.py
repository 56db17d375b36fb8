"""Balancing losses by their gradients at the output, not by their values (EnCodec, arXiv 2210.13438, 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Balancer:
    """Each loss's gradient with respect to the model's output is scaled to its share of a fixed norm.

    Args:
        weights: share of each loss. decay: of the moving averages of the gradients' norms. norm: of the sum.
        reduce: means a tensor over processes.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        decay: float = 0.999,
        norm: float = 1.0,
        reduce: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        self.weights = dict(weights)
        self.decay, self.norm, self.reduce = decay, norm, reduce
        self.norms: dict[str, float] = {}  # moving averages, with their own weight
        self.counts: dict[str, float] = {}

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient of the output (B, channels, S)."""
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
            if self.weights.get(name)
        }
        # a row's norm, so that it does not depend on how many rows there are
        rows = {name: g.flatten(1).norm(dim=1).mean() for name, g in gradients.items()}
        means = self.reduce(torch.stack(list(rows.values()))).tolist()
        for name, value in zip(rows, means):
            self.norms[name] = self.decay * self.norms.get(name, 0.0) + (1 - self.decay) * value
            self.counts[name] = self.decay * self.counts.get(name, 0.0) + (1 - self.decay)
        share = sum(self.weights[name] for name in gradients)
        total = torch.zeros_like(output)
        for name, gradient in gradients.items():
            average = self.norms[name] / self.counts[name]
            total += gradient * (self.norm * self.weights[name] / share / max(average, 1e-12))
        # each row has the norm; the mean over rows is what is learned from
        return total / output.shape[0]

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"norms": dict(self.norms), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self.norms, self.counts = dict(state["norms"]), dict(state["counts"])
