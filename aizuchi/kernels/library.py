"""The compiled library: built with the system's compiler the first time it is needed, kept in the user's cache.

It is optional. Without a compiler, or with AIZUCHI_KERNELS=0, everything runs on torch's own operators.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

SWITCH = "AIZUCHI_KERNELS"
_HERE = Path(__file__).parent
_COMMON = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-Wno-psabi"]
# The first that the compiler takes.
_FLAGS = [
    ["-march=native", "-fopenmp"],
    ["-mcpu=native", "-fopenmp"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
]
_log = logging.getLogger(__name__)
_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p
_SIGNATURES = {
    "linear": [_POINTER, _POINTER, _INT, _POINTER, _INT, _INT, _INT],
    "embed": [_POINTER, _INT, _INT, _POINTER, _POINTER, _INT],
    "stack": [_POINTER, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT],
    "depth_step": [_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _INT],
    "choose": [_POINTER, _INT, *[_POINTER] * 5, _INT, _POINTER, _INT],
    "convolve": [_POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT],
    "tiles": [_POINTER],
    "quantize": [_POINTER, _INT, _POINTER, _INT, _POINTER, _INT],
    "dequantize": [_POINTER, _INT, _POINTER, _INT, _POINTER],
    "shape_text": [_POINTER, _INT, _INT, _INT, _POINTER, _INT, *[_POINTER] * 4, _INT],
}


class Library:
    """The functions of library.cpp, by their names without the prefix."""

    linear: Callable[..., None]
    embed: Callable[..., None]
    stack: Callable[..., None]
    depth_step: Callable[..., None]
    choose: Callable[..., None]
    convolve: Callable[..., None]
    tiles: Callable[..., None]
    quantize: Callable[..., None]
    dequantize: Callable[..., None]
    shape_text: Callable[..., None]

    def __init__(self, path: Path):
        handle = ctypes.CDLL(str(path))
        for name, arguments in _SIGNATURES.items():
            function = getattr(handle, f"aizuchi_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)


@functools.cache
def load() -> Library | None:
    """The library, compiled if need be (some ten seconds, once a machine); None where there is none."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "c++", "clang++"))), None
    )
    if compiler is None:
        _log.info("no C++ compiler: the engine runs on torch's own operators")
        return None
    try:
        return Library(_compiled(compiler))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _log.warning("the engine's kernels did not compile, it runs on torch's own operators: %s", error)
        return None


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aizuchi" / "kernels"


def _compiled(compiler: str) -> Path:
    sources = sorted([*_HERE.glob("*.h"), *_HERE.glob("*.cpp")])
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(f"{version}{_processor()}{_COMMON}{_FLAGS}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    target = cache_folder() / f"{digest.hexdigest()[:24]}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home: for this process only
        target = Path(tempfile.mkdtemp(prefix="aizuchi-")) / target.name
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "library.so"
        errors = []
        for flags in _FLAGS:
            command = [compiler, *_COMMON, *flags, str(_HERE / "library.cpp"), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if result.returncode == 0:
                os.replace(built, target)
                return target
            errors.append(result.stderr.strip()[-2000:])
    raise OSError(f"{compiler}: {errors[0]}")


def _processor() -> str:
    """What the compiler's "native" depends on."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features", "model name"))]
        return "".join(sorted(set(lines)))
    except OSError:
        return platform.platform() + platform.processor()
