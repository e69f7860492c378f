"""A small experiment with real trainings, done once."""

from __future__ import annotations

import pytest
from rich.console import Console

from experiments.attack.small import SMALL, WORDED, Done
from sharnn.experiments.attack.runs import run_attack


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("attack")
    text = folder / "text.txt"
    text.write_text(WORDED)
    quiet = Console(quiet=True)
    return (
        text,
        folder / "out",
        run_attack(SMALL, str(text), folder / "out", "cpu", "a command", quiet),
    )
