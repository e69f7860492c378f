"""A text, a run on it, and a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.calls import TINY
from sharnn.cli.main import main
from texts import write_text


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 9,000 bytes."""
    return write_text(tmp_path_factory.mktemp("text"), 9_000)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> Path:
    """A finished run of 25 steps; tests that write into it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    options = ["--budget", "25steps", "--model.overparam_value_gate", "true", *TINY]
    assert main(["train", str(tiny_text), "--out", str(folder), *options]) == 0
    return folder


class Terminal(io.StringIO):
    """Standard input that is a terminal, so that no prompt is read from it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let standard input be a terminal."""
    monkeypatch.setattr("sys.stdin", Terminal())
