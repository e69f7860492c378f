"""Time to quality at a small size: contenders of a few steps, and wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import time_to_quality
from texts import write_text

SIZES = "--model.embed_dim 16 --model.num_layers 2 --data.num_lanes 4 --data.segment_length 16"
SMALL = f"demo {SIZES} --model.window 20 --train.validate_every 50%"
SEGMENTED = f"{SMALL} --model.reach segment --model.residual false"


def call(folder: Path, *arguments: str) -> int:
    """Compare on a small text; return the exit code."""
    text = write_text(folder)
    return time_to_quality.main([str(text), "--results", str(folder / "results"), *arguments])


def results(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the tables and the runs; a picture must exist too."""
    (markdown,) = (folder / "results").glob("*-time-to-quality.md")
    assert f"({markdown.stem}.png)" in markdown.read_text()
    assert markdown.with_suffix(".png").stat().st_size > 10_000
    return markdown.read_text(), json.loads(markdown.with_suffix(".json").read_text())["runs"]


def forget_a_setting(folder: Path, runs: list[dict[str, Any]]) -> None:
    """Make the runs look like those of a version of the package that had one setting less."""
    for run in runs:
        del run["settings"]["train"]["tensorboard"]
    (path,) = (folder / "results").glob("*.json")
    path.write_text(json.dumps({"machine": "this", "runs": runs}))


def test_trainings_are_scored_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--budget", "30steps", "--seeds", "1"]
    both = ["--contender", f"a={SMALL}", "--contender", f"b={SEGMENTED}"]
    assert call(tmp_path, *arguments, *both, "--jobs", "2", "--threads", "1") == 0
    table, runs = results(tmp_path)
    assert "**30steps of training" in table
    assert "| a | " in table
    assert "± –" in table
    assert {run["contender"] for run in runs} == {"a", "b"}
    for run in runs:
        assert ", 1 core" in run["machine"]
        assert run["tokens_seen"] == 30 * 4 * 16
        assert run["score"]["num_bytes"] == run["valid_bytes"] == 1_000
        assert len(run["valid_curve"]) == 2
        assert len(run["train_curve"]) == 30
        assert 2 < run["bits_per_byte"] < 8

    assert call(tmp_path, *arguments, *both[:2], "--score-share", "0.4") == 0
    table, shared = results(tmp_path)
    assert "the first 0.4 of the 1,000 of the valid split" in table
    assert shared[-1]["score"]["num_bytes"] == 400
    runs.append(shared[-1])

    forget_a_setting(tmp_path, runs)
    assert call(tmp_path, *arguments, *both) == 0
    assert results(tmp_path)[1] == runs
    assert "2 of 2 runs are in" in capsys.readouterr().err

    assert call(tmp_path, *arguments, "--contender", f"renamed={SMALL}", "--again") == 0
    table, again = results(tmp_path)
    assert [run["contender"] for run in again] == ["b", "a", "renamed"]
    assert "| renamed | " in table
    first = next(run for run in runs if run["contender"] == "a")
    assert again[2]["bits_per_byte"] == pytest.approx(first["bits_per_byte"], rel=1e-3)


def test_a_failure_is_reported_and_keeps_finished_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = f"good={SMALL}", f"bad={SMALL} --data.num_lanes 90000"
    both = ["--contender", good, "--contender", bad]
    assert call(tmp_path, "--budget", "4steps", "--seeds", "1", *both) == 1
    assert "which printed:\nerror: " in capsys.readouterr().err
    table, runs = results(tmp_path)
    assert [run["contender"] for run in runs] == ["good"]
    assert "| good | " in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "90s", "--jobs", "2"], "jobs is 2"),
        (["--budget", "90s", "30steps"], "budget is 90s, 30steps"),
        (["--budget", "soon"], "give a number and a unit"),
        (["--budget", "90s", "--contender", "x=--optim.lr 1"], "the name of a recipe first"),
        (["--budget", "90s", "--contender", "x=demo --train.seed 1"], "the comparison sets it"),
        (["--budget", "90s", "--contender", "x=demo --optim.rate 1"], "did you mean"),
        (["--budget", "90s", "--contenders", "lstm", "--contender", "lstm=demo"], "two recipes"),
    ],
)
def test_wrong_calls_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
