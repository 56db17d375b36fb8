"""A report: sections of results, and what they are of."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.results import Section, section_from_json
from aizuchi.files import write_text

FORMAT = "aizuchi-report"
VERSION = 1
ORDER = ("turns", "dialogue", "speech", "codec", "latency")


@dataclass
class Report:
    """Results of one system.

    Attributes:
        system: its name.
        about: date, version of aizuchi, machine, seed, ...
        sections: name -> section.
    """

    system: str
    about: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        sections = {name: section.to_json() for name, section in self.sections.items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "system": self.system,
            "about": self.about,
            "sections": sections,
        }


def new_report(system: str, seed: int) -> Report:
    """A report without sections, dated today."""
    from aizuchi import __version__

    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "aizuchi": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": seed,
    }
    return Report(system, about)


def save_section(section: Section, folder: str | Path) -> Path:
    """Write one section's results into a folder, as NAME.json."""
    path = Path(folder) / f"{section.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(section.to_json(), ensure_ascii=False, indent=1) + "\n")
    return path


def collect_sections(folder: str | Path) -> dict[str, Section]:
    """Every section that a folder holds.

    Raises:
        AizuchiError: there is none, or one is damaged.
    """
    found = {}
    for name in ORDER:
        path = Path(folder) / f"{name}.json"
        if path.is_file():
            found[name] = section_from_json(_read(path), str(path))
    if not found:
        raise AizuchiError(
            f"{folder} holds no results: run `aizuchi eval turns`, `codec`, `speech`, ... with this --out first"
        )
    return found


def save_report(report: Report, path: str | Path) -> None:
    """Write a report as JSON."""
    write_text(path, json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n")


def read_report(path: str | Path) -> Report:
    """Read a report's JSON, or the one in a folder.

    Raises:
        AizuchiError: it is none, or of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "report.json"
    data = _read(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise AizuchiError(f"{path} is no report: give a report.json that `aizuchi eval report` wrote")
    if data.get("version") != VERSION:
        raise AizuchiError(
            f"{path} has version {data.get('version')}; this version of aizuchi reads {VERSION}"
        )
    try:
        sections = {
            name: section_from_json(value, f"{path}: {name}") for name, value in data["sections"].items()
        }
        return Report(str(data["system"]), dict(data["about"]), sections)
    except (KeyError, TypeError, AttributeError) as error:
        raise AizuchiError(f"{path} is a damaged report: {type(error).__name__} {error}") from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AizuchiError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AizuchiError(f"can't read {path}: {error}") from error
