"""`make audit`: what it finds wrong, and that it never takes "not looked up" for "no vulnerability"."""

import importlib.util
import json
import stat
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pip_audit(folder, rows):
    """A program that answers as pip-audit does: the rows of the packages that it is asked about."""
    path = folder / "pip-audit"
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"rows = json.loads({json.dumps(json.dumps(rows))})\n"
        "asked = [line.split('==')[0] for line in open(sys.argv[2])]\n"
        "print(json.dumps({'dependencies': [rows.get(n, {'version': '1', 'vulns': []}) | {'name': n}"
        " for n in asked]}))\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_what_is_installed_is_pinned_and_in_range(audit, capsys):
    assert audit.main(["--pip-audit", "/nowhere/pip-audit"]) == 0
    said = capsys.readouterr().out
    assert "0 missing or out of range" in said and "NOT looked up" in said
    assert audit.main(["--pip-audit", "/nowhere/pip-audit", "--require-advisories"]) == 1


def test_advisories(audit, capsys, tmp_path):
    found, problems = audit.closure("aizuchi", ("serve",))
    assert {"torch", "uvicorn", "h11", "starlette"} <= set(found) and not problems
    assert audit.main(["--pip-audit", pip_audit(tmp_path, {})]) == 0
    said = capsys.readouterr().out
    assert "looked up, 0 not; 0 known" in said and "NOT" not in said
    bad = {"h11": {"version": "0.16.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.17"]}]}}
    assert audit.main(["--pip-audit", pip_audit(tmp_path, bad)]) == 1
    assert "h11 0.16.0: PYSEC-1 (fixed in 0.17)" in capsys.readouterr().out
    unknown = {"h11": {"skip_reason": "not found on PyPI"}}
    assert audit.main(["--pip-audit", pip_audit(tmp_path, unknown)]) == 0
    assert "h11 was NOT looked up" in capsys.readouterr().out
    assert audit.main(["--pip-audit", pip_audit(tmp_path, unknown), "--require-advisories"]) == 1
    every = {name: {"skip_reason": "not found on PyPI"} for name in audit.closure("aizuchi", audit.EXTRAS)[0]}
    assert audit.main(["--pip-audit", pip_audit(tmp_path, every)]) == 0
    assert "were NOT looked up" in capsys.readouterr().out


def test_versions_beside_the_pins(audit, tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# all\nTorch==2.13.0\nh11==0.16.0 # wire\nx_y==1\n")
    pins = audit.pins(file)
    assert pins == {"torch": "2.13.0", "h11": "0.16.0", "x-y": "1"}
    assert audit.unpinned({"torch": "2.13.0+cpu", "h11": "0.16.0", "x-y": "1.0"}, pins) == []
    assert audit.unpinned({"h11": "0.15.0", "new": "3"}, pins) == [
        "h11 is 0.15.0, and 0.16.0 is pinned",
        "new 3 is not pinned",
    ]


def test_what_is_missing_or_out_of_range_is_named(audit, monkeypatch):
    needs = {
        "aizuchi": ["a>=2", "b; extra == 'serve'", "c; python_version < '3'", "gone"],
        "a": ["b<1"],
        "b": None,
    }
    versions = {"a": "1.0", "b": "1.5", "c": "1"}

    def version(name):
        if name not in versions:
            raise audit.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(audit.metadata, "requires", needs.get)
    monkeypatch.setattr(audit.metadata, "version", version)
    found, problems = audit.closure("aizuchi", ("serve",))
    assert found == {"a": "1.0", "b": "1.5"}
    assert sorted(problems) == [
        "a needs b<1, and 1.5 is installed",
        "aizuchi needs a>=2, and 1.0 is installed",
        "gone, which aizuchi needs, is not installed",
    ]
