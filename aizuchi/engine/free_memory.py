"""How much memory is free: the machine's, the container's share of it, or a GPU's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_LIMIT = 1 << 60  # what the first version of cgroups writes where there is none is near 2**63


def free_memory(device: Any = "cpu") -> int | None:
    """Bytes that are free on a device; None where the system doesn't tell, or there is no such device.

    On a CPU it is what the kernel can give without swapping, and no more than what every control group above this
    process has left: a container's limit is one. File pages that can be dropped count as free in both. On a GPU it is
    what the driver can give, and what torch holds and does not use.
    """
    import torch

    try:
        device = torch.device(device)
    except RuntimeError:
        return None
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            return None
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = [left for left in (_available(Path("/proc")), *_left_in_groups()) if left is not None]
    return min(known) if known else None


def _available(proc: Path) -> int | None:
    """`MemAvailable` of Linux."""
    try:
        lines = dict(
            line.split(":", 1) for line in (proc / "meminfo").read_text(encoding="ascii").splitlines()
        )
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _left_in_groups(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Bytes left in each control group with a limit that this process is in, in either version's files."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":  # the second version: one tree
            root, files = groups, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            root, files = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        here = root / path.lstrip("/")
        while True:  # a limit further up holds too; in a container the path may begin outside of what is seen
            left = _left(here, *files)
            if left is not None:
                yield left
            if here == root or root not in here.parents:
                break
            here = here.parent


def _left(group: Path, limit_file: str, usage_file: str, prefix: str) -> int | None:
    try:
        limit, usage = (int((group / name).read_text(encoding="ascii")) for name in (limit_file, usage_file))
    except (OSError, ValueError):  # no such group, or "max"
        return None
    if limit >= _NO_LIMIT:
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        droppable = sum(int(stat[prefix + name]) for name in ("inactive_file", "active_file"))
    except (OSError, ValueError, KeyError):
        droppable = 0
    return max(0, limit - usage + droppable)
