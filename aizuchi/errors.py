"""The errors that aizuchi raises on purpose, each written for the person who has to act on it."""

from __future__ import annotations

import importlib
from types import ModuleType


class AizuchiError(ValueError):
    """Something about the input is wrong; the message names it and says what to do."""


class MissingDependencyError(AizuchiError, ImportError):
    """An optional package is needed and can't be imported; the message names the extra that brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name as it is imported, for instance `"pesq"` or `"tensorboard.summary"`.
        extra: the extra of aizuchi that installs it, for instance `"eval"`.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: it is not installed, or it is and fails to load (its own reason is kept).
    """
    install = f"pip install 'aizuchi[{extra}]'"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] == top:
            message = f"{top} is needed for this and is not installed: {install}"
        else:
            message = f"{module} is installed but needs {error.name}, which is not: {install}"
        raise MissingDependencyError(message) from error
    except (ImportError, OSError) as error:
        # OSError: wrappers of system libraries (sounddevice) raise it when the library itself is absent.
        message = f"{module} (extra {extra!r}) is installed but does not load: {error}"
        raise MissingDependencyError(message) from error
