"""The record of a run, read from its folder in one pass and with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharnn.checkpoint import RunFolder
from sharnn.errors import CheckpointError
from sharnn.evaluate.score import smoothed

#: Points kept per curve; a picture cannot show more.
MAX_POINTS = 1500
#: Values of a training record that are drawn.
SERIES = ("bits_per_byte", "lr", "grad_norm", "tokens_per_second")


@dataclass
class Curve:
    """Means over stretches of equally many steps; the resolution is halved when there are too many.

    Attributes:
        rows: `[tokens seen, seconds, value]` per point.
    """

    rows: list[list[float]] = field(default_factory=list)
    _stretch: int = 1
    _open: list[list[float]] = field(default_factory=list)

    def add(self, tokens: float, seconds: float, value: float) -> None:
        """Add one record."""
        self._open.append([tokens, seconds, value])
        if len(self._open) == self._stretch:
            self.close()
        if len(self.rows) >= 2 * MAX_POINTS:
            self.rows = [_mean(self.rows[i : i + 2]) for i in range(0, len(self.rows), 2)]
            self._stretch *= 2

    def close(self) -> None:
        """Add the last, incomplete stretch."""
        if self._open:
            self.rows.append(_mean(self._open))
            self._open = []

    def column(self, index: int) -> list[float]:
        """Return tokens (0), seconds (1) or values (2)."""
        return [row[index] for row in self.rows]


def _mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@dataclass
class RunRecord:
    """The record of a run, for a report.

    Attributes:
        folder: Its folder.
        name: A short name, unique in a report.
        facts: The facts recorded at its start.
        recipe: Its settings as YAML.
        curves: By name, see `SERIES`; `smooth` is the smoothed training score.
        valid: `[tokens seen, seconds, bits per byte]` of each validation.
        best: The best of these.
        last: The last training record.
        end: Why it ended; None if it has not.
    """

    folder: Path
    name: str
    facts: dict[str, Any]
    recipe: str
    curves: dict[str, Curve]
    valid: list[list[float]]
    best: list[float] | None
    last: dict[str, Any]
    end: str | None


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        CheckpointError: It is not a run folder, has no training step yet, or has a damaged record.
    """
    on_disk = RunFolder(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no run folder at {folder}: give the folder of a training run"
        )
    if not on_disk.metrics_path.is_file():
        raise CheckpointError(
            f"{folder} has no {on_disk.metrics_path.name}: give a run folder in which training has begun"
        )
    run = RunRecord(
        folder, folder.resolve().name, {}, on_disk.recipe_text(),
        {name: Curve() for name in (*SERIES, "smooth")}, [], None, {}, None,
    )  # fmt: skip
    for record in on_disk.read_metrics():
        _take(run, record)
    if not run.last:
        raise CheckpointError(
            f"{on_disk.metrics_path} has no training step yet: let the run train for a while"
        )
    for curve in run.curves.values():
        curve.close()
    return run


def _take(run: RunRecord, record: dict[str, Any]) -> None:
    kind = record["kind"]
    if kind == "start":
        run.facts = {**record, **({"date": run.facts["date"]} if run.facts else {})}
    elif kind == "end":
        run.end = record.get("reason")
    elif kind == "valid":
        point = [record["tokens_seen"], record["seconds"], record["bits_per_byte"]]
        run.valid.append(point)
        if run.best is None or point[2] < run.best[2]:
            run.best = point
    elif kind == "train":
        if "smooth" not in record:  # records of earlier versions
            bits, before = record["bits_per_byte"], run.last.get("smooth")
            record["smooth"] = before if bits is None else smoothed(before, bits, record["step"])
        run.last = record
        for name, curve in run.curves.items():
            if record.get(name) is not None:
                curve.add(record["tokens_seen"], record["seconds"], record[name])


def tell_apart(runs: list[RunRecord]) -> None:
    """Make names unique: add the parent folder's name, then a number."""
    names = [run.name for run in runs]
    for index, run in enumerate(runs):
        if names.count(names[index]) > 1:
            run.name = f"{run.folder.resolve().parent.name}/{names[index]}"
    longer = [run.name for run in runs]
    for index, run in enumerate(runs):
        if longer.count(longer[index]) > 1:
            run.name = f"{longer[index]} ({index + 1})"
