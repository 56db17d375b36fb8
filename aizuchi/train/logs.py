"""What a run writes down: a plain CSV, tensorboard events, and a picture of the curves."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError, require
from aizuchi.files import atomic_path


class RunLog:
    """One row a logged step, in ``log.csv`` and in tensorboard.

    The columns grow as new names come; the file is then written anew. A resumed run drops the rows behind its
    checkpoint, which it is about to write again.

    Args:
        folder: of the run. step: rows after this step are dropped. tensorboard: write events too.
    """

    def __init__(self, folder: str | os.PathLike[str], step: int = 0, tensorboard: bool = True):
        self.path = Path(folder) / "log.csv"
        self.rows = [row for row in read_log(self.path) if int(row["step"]) <= step]
        self.columns = list(dict.fromkeys(k for row in self.rows for k in row)) or ["step"]
        self._rewrite()
        self._events: Any = None
        if tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a row."""
        row = {"step": str(step)} | {name: f"{value:.8g}" for name, value in values.items()}
        new = [name for name in row if name not in self.columns]
        self.rows.append(row)
        if new:
            self.columns += new
            self._rewrite()
        else:
            with open(self.path, "a", newline="", encoding="utf-8") as handle:
                csv.DictWriter(handle, self.columns).writerow(row)
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def audio(self, step: int, name: str, wave: Any, rate: int) -> None:
        """A sound for tensorboard: (samples,)."""
        if self._events is not None:
            self._events.add_audio(name, wave, step, rate)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()

    def _rewrite(self) -> None:
        with (
            atomic_path(self.path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.DictWriter(handle, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a log, names to text; what a row does not have is left out. No file: no rows."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        rows = [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(handle)]
    return [row for row in rows if row.get("step", "").isdigit()]  # a kill may cut the last line


def plot_curves(log: str | os.PathLike[str], picture: str | os.PathLike[str], names: list[list[str]]) -> None:
    """Draw curves of a log, one panel a list of names; names that the log lacks are left out."""
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot

    rows = read_log(log)
    panels = []
    for group in names:
        curves = {}
        for name in group:
            points = [(int(r["step"]), float(r[name])) for r in rows if name in r]
            points = [p for p in points if math.isfinite(p[1])]
            if points:
                curves[name] = points
        if curves:
            panels.append(curves)
    if not panels:
        raise AizuchiError(f"{log} holds none of the curves to draw")
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 3 * len(panels)), squeeze=False)
    for axis, curves in zip(axes[:, 0], panels):
        for name, points in curves.items():
            axis.plot(*zip(*points), label=name, linewidth=1, marker="." if len(points) < 20 else None)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.tight_layout()
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
