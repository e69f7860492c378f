"""Every benchmark runs at a small size and writes its section into the machine's results file."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharnn import kernels
from sharnn.checkpoint import save_model
from sharnn.config import ModelConfig
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--embed-dim", "16", "--repeats", "1"]
TRAINING = ["train_throughput.py", *SIZES, "--window", "20"]
BATCHES = ["--eager-batches", "2x8", "1x4", "--fp32-batches", "2x8", "--bf16-batches", "2x8"]
DECODING = ["--window", "20", "--lanes", "2", "--seconds", "0", "--prompt", "30"]
GRID = ["--repeats", "1", "--seconds", "0", "--lanes", "1", "16", "--dtypes", "fp32", "int8"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Return the folder of a small model."""
    torch.manual_seed(0)
    small = LanguageModel(ModelConfig(embed_dim=16, num_layers=2, window=12)).eval()
    save_model(tmp_path / "model", small, ByteTokenizer(), {})
    return str(tmp_path / "model")


def call(script: str, *arguments: str) -> int:
    """Run a benchmark in this process, which spares a start of PyTorch; return its exit code."""
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(sys, "argv", [str(FOLDER / script), *arguments])
        return importlib.import_module(script.removesuffix(".py")).main() or 0


def run(folder: Path, script: str, *arguments: str) -> str:
    """Run a benchmark; return its machine's file of results."""
    assert call(script, *arguments, "--results", str(folder)) == 0
    (file,) = folder.glob("*.md")
    return file.read_text()


@pytest.mark.parametrize(
    ("command", "contents"),
    [
        (
            [*TRAINING, *BATCHES],
            ["Trial of batches, eager fp32, tokens/s: 2 × 8 ", ", 1 × 4 ", "| fast fp32 | 2 × 8 |"],
        ),
        ([*TRAINING, "--peak", "--peak-batch", "2x8"], ["activation checkpointing"]),
        (
            ["decode_latency.py", *SIZES, *DECODING],
            ["share of memory bandwidth", "int8, 2 lanes / one eager lane: ", "a prompt of 30 bytes"],
        ),
        (["where_time_goes.py", *SIZES, "--window", "20", "--batch", "2x8"], ["| softmax |"]),
        (["split_softmax.py", *SIZES, "--vocab-size", "90000", "--positions", "64"], ["| split, D 16 |"]),
    ],
)  # fmt: skip
def test_a_benchmark_writes_its_section(
    tmp_path: Path, command: list[str], contents: list[str]
) -> None:
    text = run(tmp_path, *command)
    assert all(part in text for part in contents), text
    assert "nan" not in text


@pytest.mark.skipif(kernels.variant() is None, reason="needs kernels")
def test_decoding_is_measured_with_kernels_and_without(tmp_path: Path, model: str) -> None:
    text = run(tmp_path / "results", "decode_shipped.py", model, *GRID)
    assert (
        "| lanes | fp32, kernels | fp32, none | int8, kernels | int8, none | fp32, ratio |" in text
    )
    assert "\n| 16 | " in text
    assert "Kernels are slower than none by more than 5%: " in text
    assert "16 lanes are slower than one: " in text


SMALL_RECALL = [
    "recall_task.py", "--embed-dim", "16", "--layers", "1", "--lanes", "2", "--window", "40",
    "--segments", "16", "--seeds", "1", "--steps", "4", "--score-every", "2", "--lanes-tokens", "32",
]  # fmt: skip


def test_heads_are_compared_on_pairs_to_recall(tmp_path: Path) -> None:
    text = run(tmp_path, *SMALL_RECALL, "--jobs", "1", "--arms", "next", "lstm")
    assert "| next | " in text
    assert "| lstm | " in text
    (kept,) = tmp_path.glob("*-recall-task.json")
    assert [len(run["scores"]) for run in json.loads(kept.read_text())] == [2, 2]
    assert list(tmp_path.glob("*-recall-task.png"))
    easy = ["--name", "easy", "--optim", "adamw", "--pairs", "12", "--key-digits", "1"]
    text = run(tmp_path, *SMALL_RECALL, "--jobs", "1", *easy, "--arms", "next, plain start")
    assert "| next, plain start | " in text
    assert list(tmp_path.glob("*-recall-easy.png"))
    text = run(tmp_path, *SMALL_RECALL, "--reach", "200")
    assert "| 200 | " in text


def test_bytes_are_grouped_by_where_their_context_occurred(tmp_path: Path, model: str) -> None:
    distances = importlib.import_module("recurring_text").distances(b"abcdefgh1abcdefgh2xyz")
    assert distances.tolist() == [0] * 17 + [9] + [0] * 3
    text = write_text(tmp_path, 900)
    found = run(tmp_path / "results", "recurring_text.py", model, "--text", str(text))
    assert "| model | " in found


def test_runs_are_scored_while_they_train(tmp_path: Path) -> None:
    text = str(write_text(tmp_path, 200_000))
    few = ["--budget", "16ktokens", "--every", "8ktokens", "--part-bytes", "600"]
    command = ["head_on_text.py", text, "--runs", str(tmp_path / "runs"), *few]
    assert "| next | 1 | 1" in run(tmp_path / "results", *command)
    (file,) = (tmp_path / "results").glob("*-head-on-text.json")
    none, reads_next = json.loads(file.read_text())
    assert [point["tokens"] for point in none["points"]][-1] >= 16_000
    assert none["points"][-1]["right_share"] is None
    assert 0 < reads_next["points"][-1]["right_share"] < 1
    assert reads_next["points"][-1]["bits"]["all"] < 8


def test_slower_paths_are_reported() -> None:
    grid = {(1, "fp32"): (400.0, 200.0), (16, "fp32"): (300.0, 900.0), (16, "int8"): (99.0, 100.0)}
    assert importlib.import_module("decode_shipped").findings(grid) == [
        "Kernels are slower than none by more than 5%: fp32, 16 lanes (0.33).",
        "16 lanes are slower than one: fp32 (ratios: fp32 0.8).",
    ]


def test_scoring_is_measured_by_the_command(tmp_path: Path, model: str) -> None:
    text = str(write_text(tmp_path, 3_000))
    named = [text, "--model", model, "--num-bytes", "200", "--repeats", "1"]
    dtypes = ["fp32", "int8"] if kernels.variant() else ["fp32"]
    found = run(tmp_path / "results", "score_speed.py", *named, "--dtypes", *dtypes)
    assert "200 bytes of " in found
    command = [sys.executable, "-m", "sharnn", "evaluate", model, "-", "--json"]
    score = subprocess.run(
        command, input=Path(text).read_bytes()[:200], capture_output=True, check=True
    )
    assert f"| {json.loads(score.stdout)['bits_per_byte']:.4f} |" in found
    assert all(f"| {dtype} | " in found for dtype in dtypes)


def test_a_script_at_a_level_names_it(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "products.py"), *SIZES, "--results", str(tmp_path)]
    environment = {**os.environ, "SHARNN_CPU": "portable"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    (file,) = tmp_path.glob("*-level-portable.md")
    text = file.read_text()
    assert text.splitlines()[0].endswith(", level portable")
    assert "`SHARNN_CPU=portable python " in text
    assert ", level portable, kernels " in text
    assert "| inputs × gates |" in text


def test_recipes_are_timed_and_profiled(tmp_path: Path) -> None:
    text = write_text(tmp_path, 30_000)
    small = "--model.embed_dim 16 --model.window 64 --data.num_lanes 2 --data.segment_length 32"
    found = run(
        tmp_path, "recipe_speed.py", str(text), "--contender", f"small=enwik8-hour {small}",
        "--contender", "fitted=demo --data.num_lanes 2", "--budget", "1s", "--steps", "2",
        "--parts", "3",
    )  # fmt: skip
    assert "| 16 × 4 | 2 × 32 |" in found
    assert "| of the fp32 ceiling |" in found
    assert "fitted: the kernels of a step" in found


def test_the_cost_of_the_window_is_drawn(tmp_path: Path) -> None:
    small = ["--windows", "0", "20", "--batch", "2x8", "--prompt", "20", "--steps", "4"]
    text = run(tmp_path, "long_memory.py", *SIZES, *small)
    (plot,) = tmp_path.glob("*.png")
    assert f"({plot.name})" in text


def test_a_section_replaces_its_older_version(tmp_path: Path, model: str) -> None:
    arguments = [model, str(write_text(tmp_path, 400)), "--lanes", "2"]
    results = tmp_path / "results"
    first = run(results, "quantization_cost.py", *arguments)
    (file,) = results.glob("*.md")
    file.write_text(first.replace("| fp32 | fp32 |", "| old |") + "\n## Another\n\nstays\n")
    second = run(results, "quantization_cost.py", *arguments)
    assert second.count("## Cost of fewer bits") == 1
    assert "| old |" not in second
    assert second.rstrip().endswith("## Another\n\nstays")


def test_adaptive_evaluation_is_measured(tmp_path: Path, model: str) -> None:
    named = [model, str(write_text(tmp_path, 2_000))]
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
        (["--contender", "mine"], "no recipe 'mine'"),
        (["--contender", "a=none"], "none"),
        (["--contender", "a=demo", "--steps", "0"], "--steps is 0"),
    ],
)
def test_wrong_calls_of_recipe_speed(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("recipe_speed.py", str(write_text(tmp_path)), *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("recipe_speed: error: ")
    assert message in told


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call("products.py", "--rep", "1")
    assert "unrecognized arguments: --rep" in capsys.readouterr().err
