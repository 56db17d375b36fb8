"""FSDP2: weights, gradients and optimizer states cut up over the processes, gathered layer by layer when they are used.

A process holds 1 / world of every tensor. What is written to disk is gathered first, so that a checkpoint of sharded
processes is that of one process, and goes on with any number of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aizuchi.models.moshi.decoder import MoshiDecoderLayer


def shard(model: Any, device: torch.device, world: int, bf16: bool = False) -> None:
    """Shard a model in place: each layer of the temporal transformer and of the depth decoder, and what is left.

    Args:
        device: where it computes. world: processes, of one group. bf16: weights are gathered in bf16; gradients are
            added up in fp32.

    The codec, which is not trained, stays whole on every process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    codec = model.audio_encoder.to(device)
    options: dict[str, Any] = dict(mesh=init_device_mesh(device.type, (world,)))
    if bf16:
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for module in model.modules():
        if isinstance(module, MoshiDecoderLayer):
            fully_shard(module, **options)
    fully_shard(model, **options, ignored_params=set(codec.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its cuts; all processes have to come here. One that is not sharded is given back as it is."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def whole_state(items: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU. All processes gather them; those with ``keep`` False throw them away one by one."""
    state = {}
    for name, tensor in items:
        value = whole(tensor.detach())
        if keep:
            state[name] = value.cpu().contiguous()
    return state


def cut_like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, which every process has, cut up as ``target`` is."""
    if not hasattr(target, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(target.device, target.dtype)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)  # type: ignore[attr-defined]


@torch.no_grad()
def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy whole weights, which every process has, into a model that is sharded."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.copy_(cut_like(state[name], tensor))


def optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors on the CPU; empty without ``keep``, see `whole_state`."""
    state = optimizer.state_dict()
    values = {number: whole_state(entry.items(), keep) for number, entry in state["state"].items()}
    return {"state": values, "param_groups": state["param_groups"]} if keep else {}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The counterpart of `optimizer_state`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = {
        number: {
            name: cut_like(value, parameters[number]) if value.shape == parameters[number].shape else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({"state": values, "param_groups": state["param_groups"]})
