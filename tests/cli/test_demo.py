"""`sharnn demo`, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharnn.cli.main import main


def test_demo_goes_the_whole_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--budget", "2steps"]) == 0
    printed = capfd.readouterr().out
    for expected in ("gzip -9", "bzip2 -9", "xz -9", "bits per byte  ", "def read_", "report.html"):
        assert expected in printed
    assert (out / "report.html").is_file()
