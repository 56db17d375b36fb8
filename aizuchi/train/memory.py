"""Keep memory that tensors have freed, on CPUs under glibc.

glibc maps every large block anew and gives it back when it is freed, so that each step of training faults in all of
its activations again, page by page and zeroed by the kernel. A Mimi training step on two cores spends half of its
time there.
"""

from __future__ import annotations

import ctypes
import os

# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_SETTINGS = (
    (_MMAP_MAX, 0),  # no block gets a mapping of its own, which would end with it
    (_TRIM_THRESHOLD, 2**31 - 1),  # the heap does not shrink
    (_TOP_PAD, 256 << 20),  # and grows in large pieces
)
_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, for the rest of this process: its size stays that of the fullest moment.

    Does nothing elsewhere than under glibc, nor where the environment sets malloc's options itself.

    Returns:
        whether anything was changed
    """
    if any(name in os.environ for name in _VARIABLES) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError, TypeError):  # another C library, another system
        return False
    return glibc and all(mallopt(option, value) for option, value in _SETTINGS)
