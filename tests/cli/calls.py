"""Options of small runs, and calls that fail."""

from __future__ import annotations

import pytest

from sharnn.cli.main import main

QUICK = ["--device", "cpu", "--train.dtype", "fp32", "--train.validation_tokens", "300"]
LANES = ["--data.num_lanes", "4", "--data.segment_length", "16"]
MODEL = [
    "--recipe", "demo", "--model.embed_dim", "16", "--model.num_layers", "2", "--model.window", "16"
]  # fmt: skip
TINY = [*MODEL, *LANES, *QUICK]


def fails(argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the exit code and the message of a call; no error is a traceback."""
    capsys.readouterr()
    assert main(argv) == code
    error = capsys.readouterr().err
    assert message in error, error
    assert "Traceback" not in error
