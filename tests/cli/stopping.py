"""Stopping a command that trains many models, as a user does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def stop_in_training(argv: list[str], run: Path) -> None:
    """Call a verb, and press Ctrl-C once its run has taken a step, and before it is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sharnn", *argv], stderr=subprocess.PIPE, text=True
    )
    with process:
        while '"kind": "train"' not in read(run / "metrics.jsonl"):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "the same command resumes" in process.stderr.read()
    assert process.returncode == 130
    records = [json.loads(line) for line in read(run / "metrics.jsonl").splitlines()]
    assert records[-1]["reason"] == "interrupted"


def kill_in_training(argv: list[str], run: Path) -> None:
    """Call a verb, and kill it and its processes once its run has taken a step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sharnn", *argv], stderr=subprocess.DEVNULL, start_new_session=True
    )
    with process:
        while '"kind": "train"' not in read(run / "metrics.jsonl"):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
