"""docs/architecture.md as far as a test can hold it: imports go one way, and its table of rooms is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aizuchi"

# A room may import itself, what stands in lower rows, and the small modules that belong to no room.
ROWS = [{"cli"}, {"serve", "train", "evaluate"}, {"engine", "data"}, {"checkpoints"}, {"models"}, {"kernels"}]
LEVEL = {room: len(ROWS) - i for i, row in enumerate(ROWS) for room in row}

modules = sorted(PACKAGE.rglob("*.py"))


def imported_rooms(path):
    """(line, room) of everything in the package that a file imports, at any depth."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "aizuchi" and len(parts) > 1 and parts[1] in LEVEL:
                yield node.lineno, parts[1]


@pytest.mark.parametrize("path", modules, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    room = parts[0]
    if path in (PACKAGE / "__init__.py", PACKAGE / "__main__.py"):
        return  # the two doors of the house lead everywhere
    for line, other in imported_rooms(path):
        if len(parts) == 1:
            pytest.fail(f"{path}:{line} belongs to no room and imports {other}")
        assert other == room or LEVEL[other] < LEVEL[room], f"{path}:{line}: {room} imports {other}"


def test_the_import_reader_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "aizuchi" / "models" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import aizuchi.cli\nfrom aizuchi import serve\nfrom aizuchi.train.lora import x\n"
        "from .. import engine\nfrom ..data import frames\nfrom . import y\n"
        "def f():\n  import aizuchi.evaluate.text\n"
    )
    rooms = [room for _, room in sorted(imported_rooms(path))]
    assert rooms == ["cli", "serve", "train", "engine", "data", "models", "evaluate"]


def test_the_page_lists_what_exists_and_nothing_else():
    rows = re.findall(
        r"^\| `([^`]+)` \|.*\| *(\w*[\w ]*?) *\|$", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    assert len(rows) > 15
    for name, status in rows:
        assert status in ("", "in work", "planned")
        if status != "in work":  # it may or may not be there yet
            assert (ROOT / name).exists() == (status == ""), f"{name} is marked {status or 'as existing'!r}"
    listed = [name for name, _ in rows]
    for path in PACKAGE.iterdir():
        name = f"aizuchi/{path.name}" + ("/" if path.is_dir() else "")
        if path.name not in ("__pycache__", "__main__.py"):
            assert name in listed or any(row.startswith(name) for row in listed), f"{name} is not on the page"
