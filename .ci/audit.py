"""Audit of what aizuchi depends on: `make audit`.

Offline: every package that the extras bring is installed, in a version that its dependents allow, and pinned in
constraints.txt. With pip-audit and the advisories of PyPI in reach: none has a known vulnerability. Where the
advisories can't be reached this is said plainly and is no failure, unless --require-advisories is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("data", "eval", "serve", "talk", "train")
FREE = ("talk",)  # extras that the tests do not install


def closure(name: str, extras: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Installed versions of all that a package needs, and what is missing or out of range."""
    found: dict[str, str] = {}
    problems: list[str] = []
    todo = [(name, frozenset(extras))]
    seen = set()
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        package, wanted = item
        for text in metadata.requires(package) or ():
            need = Requirement(text)
            if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                continue
            key = canonicalize_name(need.name)
            if key == canonicalize_name(name):
                continue
            try:
                version = metadata.version(need.name)
            except metadata.PackageNotFoundError:
                problems.append(f"{need.name}, which {package} needs, is not installed")
                continue
            if not need.specifier.contains(version, prereleases=True):
                problems.append(f"{package} needs {need.name}{need.specifier}, and {version} is installed")
            found[key] = version
            todo.append((need.name, frozenset(need.extras)))
    return found, problems


def pins(path: Path) -> dict[str, str]:
    """The versions of a constraints file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version.split(";")[0].strip() for name, version in pairs}


def unpinned(found: dict[str, str], pinned: dict[str, str]) -> list[str]:
    """Packages whose version is not the pinned one (builds of one version, such as +cpu, are the same)."""
    return [
        f"{name} {version} is not pinned"
        if name not in pinned
        else f"{name} is {version}, and {pinned[name]} is pinned"
        for name, version in sorted(found.items())
        if name not in pinned or Version(pinned[name]) != Version(Version(version).public)
    ]


def judge(report: dict) -> tuple[int, list[str], list[str]]:
    """Of pip-audit's report: how many packages were looked up, those that were not, and what is known of the others."""
    looked, skipped, known = 0, [], []
    for row in report["dependencies"]:
        if "skip_reason" in row:  # which pip-audit itself takes for success
            skipped.append(row["name"])
            continue
        looked += 1
        for vulnerability in row["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            known.append(f"{row['name']} {row['version']}: {vulnerability['id']} (fixed in {fixed})")
    return looked, skipped, known


def advisories(tool: str, found: dict[str, str]) -> tuple[int, list[str], list[str]] | None:
    """Ask PyPI about these versions; None when it can't be asked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{name}=={Version(version).public}\n" for name, version in found.items()))
        command = [tool, "-r", str(file), "--no-deps", "--disable-pip", "--timeout", "10", "--format", "json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            return judge(json.loads(done.stdout))
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
            return None


def main(argv: list[str] | None = None) -> int:
    """Print what was found; 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pip-audit", default="pip-audit", metavar="PROGRAM")
    parser.add_argument("--require-advisories", action="store_true", help="fail where they can't be reached")
    args = parser.parse_args(argv)
    found, problems = closure("aizuchi", tuple(extra for extra in EXTRAS if extra not in FREE))
    loose = unpinned(found, pins(ROOT / "constraints.txt"))
    for line in problems + loose:
        print(f"audit: {line}")
    print(
        f"audit: {len(found)} packages; {len(problems)} missing or out of range; {len(loose)} not as pinned"
    )
    first = dict([next(iter(found.items()))]) if found else {}
    probe = advisories(
        args.pip_audit, first
    )  # one first: without an answer, asking about all would only wait
    if probe is None or not probe[0]:
        print(
            "audit: known vulnerabilities were NOT looked up: pip-audit or PyPI's advisories are out of reach here"
        )
        return int(bool(problems) or args.require_advisories)
    looked, skipped, known = advisories(args.pip_audit, found) or (0, sorted(found), [])
    for line in known:
        print(f"audit: {line}")
    for name in skipped:
        print(f"audit: {name} was NOT looked up")
    print(f"audit: {looked} packages looked up, {len(skipped)} not; {len(known)} known vulnerabilities")
    return int(bool(problems or known) or (args.require_advisories and bool(skipped)))


if __name__ == "__main__":
    sys.exit(main())
