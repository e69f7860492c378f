"""Speed of `sharnn evaluate`, by default with the shipped model on files of Python's library.

    python benchmarks/score_speed.py
    python benchmarks/score_speed.py my.txt --model my-run --num-bytes 300000

Runs the command itself, in one lane. It reports the seconds of scoring; the rest of the command's time is
its start: loading PyTorch, the model and the text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import Report, make_parser, sample_text
from sharnn import kernels
from sharnn.checkpoint import BASE
from sharnn.ops.matmul import has_fast_bf16
from sharnn.train.precision import resolve_device


def quick_dtypes(device: torch.device) -> list[str]:
    """Return the dtypes that the command accepts here: it refuses those that would not be faster."""
    on_kernels = device.type == "cpu" and kernels.variant() is not None
    return [
        "fp32", *(["bf16"] if has_fast_bf16(device) else []), *(["int8"] if on_kernels else [])
    ]  # fmt: skip


def evaluate(options: argparse.Namespace, text: Path, *more: str) -> dict[str, Any]:
    """Return the command's report on a text, with its whole duration as `command_seconds`."""
    command = [sys.executable, "-m", "sharnn", "evaluate", options.model, str(text), "--json"]
    started = time.perf_counter()
    output = subprocess.run(
        [*command, "--device", options.device, *more], stdout=subprocess.PIPE, check=True
    ).stdout
    return {**json.loads(output), "command_seconds": time.perf_counter() - started}


def measure(options: argparse.Namespace) -> None:
    """Score the text with each dtype in turn and write the section."""
    device = resolve_device(options.device)
    report = Report(f"Scoring with {options.model}", device, options.results)
    dtypes = options.dtypes or quick_dtypes(device)
    scores: dict[str, list[dict[str, Any]]] = {dtype: [] for dtype in dtypes}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_bytes(sample_text(options.text, options.num_bytes))
        for _ in range(options.repeats):
            for dtype, found in scores.items():
                found.append(evaluate(options, text, "--dtype", dtype))
    rows = []
    for dtype, found in scores.items():
        rates = [score["num_bytes"] / score["seconds"] for score in found]
        command = statistics.median(score["command_seconds"] for score in found)
        rows.append([
            dtype, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} … {max(rates):,.0f}",
            f"{command:.1f}", f"{found[0]['bits_per_byte']:.4f}",
        ])  # fmt: skip
    named = options.text.name if options.text else "files of Python's library"
    report.table(
        f"{found[0]['num_bytes']:,} bytes of {named}, one lane, median of {options.repeats} in turn",
        ["", "bytes/s", "slowest … quickest", "whole command, s", "bits per byte"], rows,
    )  # fmt: skip
    report.save()


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("text", type=Path, nargs="?", help="a file; default: of Python's library")
    parser.add_argument("--model", default=BASE, help="model or run folder (base)")
    parser.add_argument("--num-bytes", type=int, default=100_000, help="bytes of the text (100000)")
    parser.add_argument(
        "--dtypes", nargs="+", help="dtypes of the products; default: all that are fast here"
    )
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
