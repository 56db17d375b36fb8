"""Long signals through convolutions with bfloat16 weights: in AMX tiles where the machine has them, else without."""

import ctypes
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aizuchi.kernels import library
from aizuchi.kernels.convolve import FusedConvolutions, Part, StreamStates

pytestmark = pytest.mark.skipif(library.load() is None, reason="no C++ compiler here")


def past_of(conv, rows):
    """Random past of a convolution: inputs, or what outputs to come have already."""
    rest = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]
    channels = conv.out_channels if conv.transposed else conv.in_channels
    return torch.randn(rows, channels, rest)


def exact(conv, x, past):
    """(output, next past) in float64, with weights rounded to bfloat16."""
    weight, bias = conv.weight.detach().bfloat16().double(), conv.bias.detach().double()
    x, past = x.double(), past.double()
    rest, step = past.shape[-1], conv.stride[0]
    if conv.transposed:
        whole = F.conv_transpose1d(x, weight, stride=step)
        whole[..., :rest] += past
        return whole[..., : x.shape[-1] * step] + bias[:, None], whole[..., x.shape[-1] * step :]
    inputs = torch.cat([past, x], -1)
    return F.conv1d(inputs, weight, bias, step, dilation=conv.dilation), inputs[
        ..., inputs.shape[-1] - rest :
    ]


CONVOLUTIONS = {
    "plain": lambda: nn.Conv1d(64, 96, 3),
    "dilated": lambda: nn.Conv1d(48, 24, 3, dilation=3),
    "strided": lambda: nn.Conv1d(32, 48, 8, stride=4),
    "inputs no multiple of 32": lambda: nn.Conv1d(16, 16, 3),
    "few inputs": lambda: nn.Conv1d(1, 32, 7),
    "one output": lambda: nn.Conv1d(32, 1, 3),
    "transposed": lambda: nn.ConvTranspose1d(64, 32, 8, stride=4),
}


def test_tiles_are_used_where_the_machine_has_them():
    answer = ctypes.c_int64(-1)
    library.load().tiles(ctypes.addressof(answer))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "amx_bf16" not in flags:
        assert answer.value == 0
    elif answer.value == 0:
        pytest.skip("the compiler or the system does not give AMX tiles")


@pytest.mark.parametrize("length", [8, 16, 20, 32, 36, 64])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_long_signal_is_that_of_float64(kind, length):
    torch.manual_seed(length)
    conv = CONVOLUTIONS[kind]()
    x, past = (
        torch.randn(1, conv.in_channels, length * conv.stride[0] if kind == "strided" else length),
        past_of(conv, 1),
    )
    expected, later = exact(conv, x, past)
    kept = past.clone()
    out = FusedConvolutions([Part(conv)], torch.bfloat16).run(x, StreamStates([(kept, None)]), None)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=3e-6)  # as near as float32 is
    torch.testing.assert_close(kept.double(), later, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("kind", ["plain", "inputs no multiple of 32", "transposed"])
def test_rows_and_threads_change_no_bit(kind, monkeypatch):
    torch.manual_seed(0)
    conv = CONVOLUTIONS[kind]()
    fused = FusedConvolutions([Part(conv)], torch.bfloat16)
    x, past = torch.randn(3, conv.in_channels, 20), past_of(conv, 3)
    x[1, :, 7] = float("nan")  # and what is wrong with one stays with it

    def run(rows, threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return fused.run(x[rows], StreamStates([(past[rows].clone(), None)]), None)

    together = run([0, 1, 2], 1)
    assert together[[0, 2]].isfinite().all() and not together[1].isfinite().all()
    for row in (0, 2):
        assert torch.equal(together[row], run([row], 1)[0])
    assert torch.equal(together[[0, 2]], run([0, 1, 2], 2)[[0, 2]])


@pytest.mark.parametrize("length", [36, 64])
def test_workers_that_share_a_row_change_no_bit(length, monkeypatch):
    """Enough work for several threads, and sixteens that overlap at the end."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS["plain"]()
    fused = FusedConvolutions([Part(conv)], torch.bfloat16)
    x, past = torch.randn(1, conv.in_channels, length), past_of(conv, 1)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(fused.run(x, StreamStates([(past.clone(), None)]), None))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
