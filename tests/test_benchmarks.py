"""Every benchmark runs, in small, and keeps its section in the machine's file of results."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharnn.checkpoint import save_model
from sharnn.config import ModelConfig
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text

FOLDER = Path(__file__).parents[1] / "benchmarks"
SIZES = ["--embed-dim", "16", "--repeats", "1"]
TRAINING = ["train_throughput.py", *SIZES, "--window", "20"]
DECODING = ["--window", "20", "--lanes", "2", "--steps", "8", "--prompt", "30"]


def run(folder: Path, script: str, *arguments: str) -> str:
    """Run a benchmark; return its machine's file of results."""
    command = [sys.executable, str(FOLDER / script), *arguments, "--results", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (file,) = folder.glob("*.md")
    return file.read_text()


@pytest.mark.parametrize(
    ("command", "contents"),
    [
        ([*TRAINING, "--fp32-batch", "2x8", "--bf16-batch", "2x8"], ["| eager fp32 | 2 × 8 |"]),
        ([*TRAINING, "--peak", "--peak-batch", "2x8"], ["activation checkpointing"]),
        (["decode_latency.py", *SIZES, *DECODING], ["| int8, 2 lanes |", "a prompt of 30 bytes"]),
        (
            ["decode_shipped.py", "--repeats", "1", "--lanes", "2", "--steps", "4"],
            ["| int8, 2 lanes, blocks and look-ups by kernels |"],
        ),
        (["products.py", *SIZES], ["| inputs × gates |"]),
        (["where_time_goes.py", *SIZES, "--window", "20", "--batch", "2x8"], ["| softmax |"]),
        (["split_softmax.py", *SIZES, "--vocab-size", "90000", "--positions", "64"], ["| split, D 16 |"]),
    ],
)  # fmt: skip
def test_it_measures(tmp_path: Path, command: list[str], contents: list[str]) -> None:
    text = run(tmp_path, *command)
    assert all(part in text for part in contents), text
    assert "nan" not in text


def test_recipes_are_timed_and_taken_apart(tmp_path: Path) -> None:
    text = write_text(tmp_path, 30_000)
    small = "--model.embed_dim 16 --model.window 64 --data.num_lanes 2 --data.segment_length 32"
    found = run(
        tmp_path, "recipe_speed.py", str(text), "--contender", f"small=enwik8-hour {small}",
        "--contender", "fitted=demo --data.num_lanes 2", "--budget", "1s", "--steps", "2",
        "--parts", "3",
    )  # fmt: skip
    assert "| 16 × 4 | 2 × 32 |" in found
    assert "fitted: the kernels of a step" in found


def test_the_cost_of_the_window_is_drawn(tmp_path: Path) -> None:
    small = ["--windows", "0", "20", "--batch", "2x8", "--prompt", "20", "--steps", "4"]
    text = run(tmp_path, "long_memory.py", *SIZES, *small)
    (plot,) = tmp_path.glob("*.png")
    assert f"({plot.name})" in text


def test_a_section_takes_the_place_of_its_older_self(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(embed_dim=16, num_layers=2, window=12)).eval()
    save_model(tmp_path / "model", model, ByteTokenizer(), {})
    arguments = [str(tmp_path / "model"), str(write_text(tmp_path, 400)), "--lanes", "2"]
    results = tmp_path / "results"
    first = run(results, "quantization_cost.py", *arguments)
    (file,) = results.glob("*.md")
    file.write_text(first.replace("| fp32 | fp32 |", "| old |") + "\n## Another\n\nstays\n")
    second = run(results, "quantization_cost.py", *arguments)
    assert second.count("## Cost of fewer bits") == 1
    assert "| old |" not in second
    assert second.rstrip().endswith("## Another\n\nstays")


def test_adapting_is_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(embed_dim=16, num_layers=2, window=12)).eval()
    save_model(tmp_path / "model", model, ByteTokenizer(), {})
    named = [str(tmp_path / "model"), str(write_text(tmp_path, 2_000))]
    parts = ["--tune-bytes", "40", "--num-bytes", "95"]
    small = ["--cache", "20", "--statistics-tokens", "64"]
    run(tmp_path / "results", "adaptive_evaluation.py", *named, *parts, *small)
    ideal = ["--ideal", "--strides", "1", "8"]
    text = run(tmp_path / "results", "adaptive_evaluation.py", *named, *parts, *ideal)
    assert "bits per byte of the first 40 bytes**" in text
    assert "the bytes after those: 55 bytes**" in text
    assert all(f"| {row} | " in text for row in ("both, rms", "ideal, context 12, stride 8"))
    assert "nan" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contender", "mine"], "give NAME="),
        (["--contender", "a=none"], "none"),
        (["--contender", "a=demo", "--steps", "0"], "--steps is 0"),
    ],
)
def test_wrong_calls_of_recipe_speed(tmp_path: Path, options: list[str], message: str) -> None:
    command = [sys.executable, str(FOLDER / "recipe_speed.py"), str(write_text(tmp_path)), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("recipe_speed: error: ")
    assert message in result.stderr


def test_documentation_becomes_a_text(tmp_path: Path) -> None:
    games, manual = tmp_path / "usr/share/games", tmp_path / "usr/share/man/man1"
    games.mkdir(parents=True)
    manual.mkdir(parents=True)
    (games / "fortunes").write_bytes(b"a fortune\n" * 100)
    (manual / "a.1.gz").write_bytes(gzip.compress(b"a manual\n" * 100))
    (games / "index.dat").write_bytes(b"\0" * 1_000)
    script, out = FOLDER / "documentation_text.py", tmp_path / "out.txt"
    command = [sys.executable, str(script), str(tmp_path), str(out), "--bytes"]
    assert subprocess.run([*command, "1900"], check=True, capture_output=True).returncode == 0
    assert sorted(out.read_bytes()) == sorted(b"a fortune\n" * 100 + b"a manual\n" * 100)
    short = subprocess.run([*command, "1901"], check=False, capture_output=True, text=True)
    assert short.returncode == 1
    assert "has 1,900 bytes of text" in short.stderr
