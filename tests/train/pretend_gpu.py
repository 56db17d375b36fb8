"""A GPU that is not there: tensors are told to lie on `cuda:0`, and what a real one would refuse raises.

Everything is computed on the CPU. What is found is where a tensor lies: one of the CPU among those of the GPU, or
`numpy()` of the latter. Kernels, precision and speed are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
# Copies across devices are what these are for.
_COPIES = {"copy_", "set_", "_has_compatible_shallow_copy_type"}


class Misplaced(RuntimeError):
    """A tensor lies where the operation's other ones do not."""


class PretendGpu(TorchFunctionMode):
    """Within it, what is moved to or made on `cuda` counts as lying there, and so does what comes of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # wrappers of slots are equal, not the same
            return CUDA if is_there(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return is_there(args[0])
        if func == Tensor.grad.__get__:
            return _put(func(*args), is_there(args[0]))
        if name == "__set__":
            if func == Tensor.data.__set__:
                _put(args[0], is_there(args[1]))
            return func(*args)
        if func in (Tensor.numpy, Tensor.__array__) and is_there(args[0]):
            raise Misplaced("numpy() of a tensor on the GPU")
        if func in (Tensor.to, Tensor.cpu):
            return _moved(func, args, kwargs)
        made = None if kwargs.get("device") is None else _is_cuda(kwargs["device"])
        if made:
            kwargs["device"] = "cpu"
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(map(is_there, given))
        if there and name not in _COPIES:
            _check(name, args, given)
        result = func(*args, **kwargs)
        if name not in _COPIES and (there or made is not None):
            for x in tree_leaves(result):
                if not any(x is one for one in given):
                    _put(x, there if made is None else made)
        return result


def is_there(x: Any) -> bool:
    """Whether a tensor counts as lying on the GPU."""
    return getattr(x, "_on_pretend_gpu", False)


def _put(x: Any, there: bool) -> Any:
    if isinstance(x, Tensor):
        x._on_pretend_gpu = there  # type: ignore[attr-defined]
    return x


def _is_cuda(device: Any) -> bool:
    return torch.device(device).type == "cuda"


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    source, *rest = args
    there = is_there(source) and func != Tensor.cpu
    plain = []
    for x in rest:
        if isinstance(x, Tensor):
            there, x = is_there(x), x.dtype
        elif isinstance(x, (str, torch.device)):
            there, x = _is_cuda(x), "cpu"
        plain.append(x)
    if kwargs.get("device") is not None:
        there, kwargs["device"] = _is_cuda(kwargs["device"]), "cpu"
    result = func(source, *plain, **kwargs)
    if result is source and there != is_there(source):
        result = source.clone()  # on another device it would be another tensor
    return _put(result, there)


def _check(name: str, args: Any, given: list[Tensor]) -> None:
    if name in ("__getitem__", "__setitem__"):  # an index may lie on the CPU, and slices are copied to
        wrong = [] if is_there(args[0]) else [args[0]]
    else:
        wrong = [x for x in given if not is_there(x) and Tensor.dim(x) > 0]  # a scalar goes with anything
    if wrong:
        raise Misplaced(f"{name}: a tensor {tuple(wrong[0].shape)} lies on the CPU, others on the GPU")
