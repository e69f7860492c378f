"""A real process, killed with SIGKILL at any point, also in the middle of a checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharnn.cli.main import main
from texts import write_text
from train.runs import losses

STEPS = 60
SETTINGS = [
    "--recipe", "demo", "--budget", f"{STEPS}steps", "--device", "cpu", "--train.dtype", "fp32",
    "--model.embed_dim", "32", "--model.window", "24", "--model.hidden_dropout", "0.1",
    "--data.num_lanes", "4", "--data.segment_length", "12", "--data.random_segments", "true",
    "--train.checkpoint_every", "3steps", "--train.validate_every", "10steps",
    "--train.validation_tokens", "300",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sharnn", *arguments]


def wait_for(condition: object, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not condition():
        time.sleep(0.002)


def kill_after_steps(process: subprocess.Popen[bytes], run: Path, steps: int) -> None:
    """Kill once some more steps are in the metrics."""
    metrics = run / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > size + 250 * steps, process)
    process.send_signal(signal.SIGKILL)
    process.wait()


def kill_in_a_checkpoint(process: subprocess.Popen[bytes], run: Path) -> bool:
    """Kill while a half-written checkpoint lies there; return whether one was left behind."""
    folder = run / "checkpoints"
    seen = set(folder.glob("step-*")) if folder.exists() else set()
    wait_for(lambda: folder.exists() and set(folder.glob("step-*")) - seen, process)
    wait_for(lambda: list(folder.glob(".step-*partial/*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return bool(list(folder.glob(".step-*partial")))


def test_killed_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    text = str(write_text(tmp_path, 4_000))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", text, "--out", str(whole), *SETTINGS]) == 0
    expected = losses(whole)
    assert len(expected) == STEPS

    rng = random.Random(0)
    first = command("train", text, "--out", str(killed), *SETTINGS)
    process = subprocess.Popen(first, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kill_after_steps(process, killed, 1)
    halves_left = 0
    again = command("train", "--resume", str(killed))
    for round_ in range(6):
        process = subprocess.Popen(again, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if round_ % 2:
            kill_after_steps(process, killed, rng.randint(1, 6))
        else:
            halves_left += kill_in_a_checkpoint(process, killed)
    assert halves_left, "no kill hit the middle of a checkpoint"
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0
    assert losses(killed) == expected
    assert not list((killed / "checkpoints").glob(".*")), "half-written files were left behind"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    text, run = str(write_text(tmp_path, 4_000)), tmp_path / "run"
    settings = [*SETTINGS, "--train.checkpoint_every", "1h", "--budget", "100000steps"]
    process = subprocess.Popen(
        command("train", text, "--out", str(run), *settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 2000, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"sharnn train --resume {run}" in output.decode()
    steps = losses(run)
    assert main(["train", "--resume", str(run), "--budget", f"{steps[-1][0] + 3}steps"]) == 0
    assert len(losses(run)) == steps[-1][0] + 3
