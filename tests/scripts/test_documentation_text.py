"""The text of Debian's documentation: which files it has, and its length."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import documentation_text


def test_documentation_is_joined_into_a_text(tmp_path: Path) -> None:
    games, manual = tmp_path / "usr/share/games", tmp_path / "usr/share/man/man1"
    games.mkdir(parents=True)
    manual.mkdir(parents=True)
    (games / "fortunes").write_bytes(b"a fortune\n" * 100)
    (manual / "a.1.gz").write_bytes(gzip.compress(b"a manual\n" * 100))
    (games / "index.dat").write_bytes(b"\0" * 1_000)
    script, out = Path(documentation_text.__file__), tmp_path / "out.txt"
    command = [sys.executable, str(script), str(tmp_path), str(out), "--bytes"]
    assert subprocess.run([*command, "1900"], check=True, capture_output=True).returncode == 0
    assert sorted(out.read_bytes()) == sorted(b"a fortune\n" * 100 + b"a manual\n" * 100)
    short = subprocess.run([*command, "1901"], check=False, capture_output=True, text=True)
    assert short.returncode == 1
    assert "has 1,900 bytes of text" in short.stderr
