"""`sharnn report`: the page lies in the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.calls import fails
from sharnn.cli.main import main


def test_the_report_goes_into_the_run(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run", symlinks=True)
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


def test_failures_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["report", str(tmp_path / "no")], 1, "there is no run folder", capsys)
