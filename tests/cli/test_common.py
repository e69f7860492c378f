"""What verbs share: the model where none is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from models import ship, write_model
from sharnn.cli.common import chosen_model
from sharnn.cli.main import VERBS, main
from sharnn.errors import CheckpointError


@pytest.mark.parametrize("terminal", [True, False])
def test_the_shipped_model_is_named_on_a_terminal(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(tmp_path / "shipped", monkeypatch)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with pytest.raises(CheckpointError, match="comes without the model 'base'"):
        chosen_model(None, console)
    write_model(tmp_path / "shipped")
    assert chosen_model(None, console) == tmp_path / "shipped"
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert written == ("\x1b[2mmodel: base, shipped with sharnn\x1b[0m\n" if terminal else "")
    assert chosen_model("mine", console) == "mine"
    assert console.file.getvalue() == written


@pytest.mark.parametrize("verb", ["generate", "evaluate", "info", "train"])
def test_help_tells_of_the_shipped_model(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb in VERBS
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "comes with sharnn" in " ".join(capsys.readouterr().out.split())
