"""Reading a training configuration: YAML into dataclasses, every wrong key and value named."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from aizuchi.errors import AizuchiError, require

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into a dataclass, after ``key.inner=value`` overrides.

    Raises:
        AizuchiError: the file can't be read, or a key or value in it is wrong; the message names it.
    """
    yaml = require("yaml", "train")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AizuchiError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AizuchiError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise AizuchiError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return build(cls, _override(values, overrides), str(path))


def build(cls: type[Config], values: dict[str, Any], where: str = "config") -> Config:
    """Make a dataclass of nested plain values; unknown keys and wrong types raise AizuchiError."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    made = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise AizuchiError(f"{where}: unknown key {name!r}: {hint}")
        made[name] = _convert(hints[name], value, f"{where}: {name}")
    missing = [
        n
        for n, f in fields.items()
        if n not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise AizuchiError(f"{where}: {missing[0]!r} must be given")
    return cls(**made)


def to_dict(config: Any) -> dict[str, Any]:
    """The whole configuration, defaults included, as plain values."""
    return dataclasses.asdict(config)


def check(condition: bool, message: str) -> None:
    """Raise AizuchiError with this message unless the condition holds."""
    if not condition:
        raise AizuchiError(message)


def output_folder(path: str) -> Path:
    """The run's folder, made if it is not there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AizuchiError(f"output: can't make the folder {folder} ({error.strerror})") from error
    return folder


def _override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    yaml = require("yaml", "train")
    values = copy.deepcopy(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise AizuchiError(f"--set {text!r}: expected key=value, or section.key=value")
        *path, last = key.strip().split(".")
        node = values
        for name in path:
            node[name] = node.get(name) or {}
            node = node[name]
            if not isinstance(node, dict):
                raise AizuchiError(f"--set {text!r}: {name!r} is not a section")
        node[last] = yaml.safe_load(value)
    return values


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A plain value as its field's type; where YAML reads `1e-4` as text, it is a number all the same."""
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise AizuchiError(f"{where} is a section of its own, not {value!r}")
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise AizuchiError(f"{where} must be a list, not {value!r}")
        (inner,) = typing.get_args(hint)
        return [_convert(inner, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise AizuchiError(f"{where} is a section of its own, not {value!r}")
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif hint is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, (float, str)):
            try:
                if float(value) == int(float(value)):
                    return int(float(value))
            except (ValueError, OverflowError):
                pass
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    kinds = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise AizuchiError(f"{where} must be {kinds.get(hint, hint)}, not {value!r}")


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, where)
            except AizuchiError as error:
                errors.append(error)
    raise errors[0]
