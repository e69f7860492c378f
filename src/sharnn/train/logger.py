"""Loggers of a run: metrics.jsonl, the terminal and TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from sharnn.errors import ConfigError, TrainingError
from sharnn.files import explain_os_error

#: Seconds between two lines if the output is not a terminal.
_LINE_SECONDS = 15.0


class RunLogger(Protocol):
    """Receives the records of a run: dicts with `kind`, `step` and the values of that kind."""

    def log(self, record: dict[str, Any]) -> None:
        """Receive one record."""
        ...

    def note(self, doing: str, lasting: bool = False) -> None:
        """Show what the run is doing, if this logger shows anything; `lasting` keeps it in view."""
        ...

    def close(self) -> None:
        """Write what is pending, and close."""
        ...


class MetricsFile:
    """Appends records to metrics.jsonl, one JSON object a line, which readers see at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as failure:
            raise TrainingError(explain_os_error(failure, path, "write")) from failure

    def log(self, record: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            TrainingError: It cannot be written, because the disk is full for example.
        """
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as failure:
            raise TrainingError(explain_os_error(failure, self.path, "write")) from failure

    def note(self, doing: str, lasting: bool = False) -> None:
        """Do nothing: only records are written."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLogger:
    """Writes scalars by step for TensorBoard."""

    _KINDS = ("train", "valid")

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as failure:
            raise ConfigError(
                "train.tensorboard needs TensorBoard: install it with pip install 'sharnn[track]'"
            ) from failure
        self._writer = SummaryWriter(str(folder))

    def log(self, record: dict[str, Any]) -> None:
        """Write the numbers of a record as scalars named after its kind."""
        if record["kind"] not in self._KINDS:
            return
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def note(self, doing: str, lasting: bool = False) -> None:
        """Do nothing: only records are written."""

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class TerminalLogger:
    """Shows bits per byte, speed, memory and time left: as a bar on a terminal, else as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> TerminalLogger:
        """Show the bar."""
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.percentage:>3.0f}%", table_column=Column(min_width=4)),
                BarColumn(bar_width=None, table_column=Column(width=16, min_width=16)),
                # Only the description is cut off on a narrow terminal.
                TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
                console=self.console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self.close()

    def log(self, record: dict[str, Any]) -> None:
        """Show a record."""
        if record["kind"] == "train":
            self._show_step(record)
        elif record["kind"] == "valid":
            self._print_valid(record)
        elif record["kind"] == "plan":
            self.console.print(describe_plan(record), highlight=False)
        elif record["kind"] == "end":
            self._print_end(record)

    def note(self, doing: str, lasting: bool = False) -> None:
        """Show it in the bar, or if it is `lasting` as a line."""
        if lasting:
            self.console.print(doing, highlight=False)
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=doing, refresh=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_step(self, record: dict[str, Any]) -> None:
        left, text = f"{format_seconds(record['seconds_left'])} left", self._describe(record)
        if self._bar is not None and self._task is not None:
            # The end of the line is cut off on a narrow terminal, so the time left goes first.
            text = f"{left} · {text}"
            self._bar.update(self._task, completed=record["budget_used"], description=text)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(f"{record['budget_used']:4.0%}  {text} · {left}", highlight=False)

    def _describe(self, record: dict[str, Any]) -> str:
        parts = [f"step {record['step']:,}"]
        if record["smooth"] is not None:
            parts.append(f"{record['smooth']:.3f} bits/byte")
        if record["best_bits_per_byte"] is not None:
            parts.append(f"best valid {record['best_bits_per_byte']:.3f}")
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        parts.append(f"{record['memory_bytes'] / 2**30:.1f} GiB")
        if record["skipped_steps"]:
            parts.append(f"{record['skipped_steps']} skipped")
        return " · ".join(parts)

    def _print_valid(self, record: dict[str, Any]) -> None:
        bits, best = record["bits_per_byte"], record["best_bits_per_byte"]
        mark = "  best so far" if bits == best else ""
        score = "not finite" if bits is None else f"{bits:.4f} bits/byte{mark}"
        self.console.print(
            f"step {record['step']:>7,}  {format_seconds(record['seconds']):>7}  valid {score}",
            highlight=False,
        )

    def _print_end(self, record: dict[str, Any]) -> None:
        validating, saving = record["seconds_validating"], record["seconds_saving"]
        whole = record["seconds"]
        share = (validating + saving) / whole if whole > 0 else 0.0
        self.console.print(
            f"{whole:.1f}s, of which {validating:.1f}s validating and {saving:.1f}s saving ({share:.1%})",
            highlight=False,
        )


def describe_plan(record: dict[str, Any]) -> str:
    """Return a sentence: how often a run will validate and save, and the share of the budget."""
    tokens, times = record["validation_tokens"], record["validations"]
    parts = []
    if times:
        text = "" if tokens is None else f" {tokens:,} tokens"
        parts.append(f"validate{text} {_times(times)}")
    parts.append(f"save {_times(record['checkpoints'])}")
    fixed = f" ({', '.join(record['fixed'])} as given)" if record["fixed"] else ""
    return f"plan: {' and '.join(parts)}, about {record['share']:.1%} of the budget{fixed}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def format_seconds(seconds: float | None) -> str:
    """Return a duration as `42s`, `3m05s` or `2h10m`; `?` if it is unknown."""
    if seconds is None:
        return "?"
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
