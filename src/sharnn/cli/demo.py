"""`sharnn demo`: train, score and sample a small model on the standard library of this Python."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import error_console, make_parser, named, progress_bar
from sharnn.recipe import load_recipe_settings

if TYPE_CHECKING:
    from sharnn.evaluate import Score

HELP = "train, score and sample a small model on Python's standard library"

_DESCRIPTION = """\
Train the recipe 'demo' on the standard library of this Python. Then score the model on held-out files,
beside gzip, bzip2 and xz, sample it, and plot its learning curves."""

_CORPUS, _RECIPE, _PROMPT = "python-stdlib", "demo", "def read_"


def run(argv: list[str]) -> int:
    """Run all steps."""
    parser = make_parser("demo", "[--out RUN] [--budget 90s]", _DESCRIPTION, "")
    parser.add_options({
        "--out": (str, "run folder (default: a new one in runs/)", "RUN"),
        "--budget": (str, f"length of training (default: {_budget()})"),
    })  # fmt: skip
    options = parser.parse_args(argv)
    out = Path(options.out) if options.out else _new_folder()

    from sharnn.cli import generate, report, train

    budget = ["--budget", options.budget] if options.budget else []
    code = train.run([_CORPUS, "--recipe", _RECIPE, "--out", str(out), *budget])
    if code:
        return code
    _score(out)
    print(f"\nsample, continuing {_PROMPT!r}:\n", flush=True)
    generate.run([str(out), "--prompt", _PROMPT, "--max-bytes", "400", "--temperature", "0.7"])
    print()
    return report.run([str(out)])


def _budget() -> str:
    return str(load_recipe_settings(_RECIPE)["train"]["budget"])


def _new_folder() -> Path:
    number = 1
    while (folder := Path("runs") / f"demo-{number}").exists():
        number += 1
    return folder


def _score(out: Path) -> None:
    """Score the held-out files with protocol 'strict', and print the score beside three compressors."""
    from sharnn.checkpoint import load_model
    from sharnn.data.prepare import prepare
    from sharnn.evaluate import evaluate_static
    from sharnn.train import resolve_device

    loaded, split = load_model(out, resolve_device("auto")), prepare([_CORPUS]).split("test")
    with progress_bar(error_console()) as progress:
        score = evaluate_static(
            loaded.model, loaded.tokenizer, split, report=named(progress, "scoring held-out files")
        )
    _print_scores(score, split.tokens.tobytes())


def _print_scores(score: Score, data: bytes) -> None:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip -9": lambda text: gzip.compress(text, 9),
        "bzip2 -9": lambda text: bz2.compress(text, 9),
        "xz -9": lambda text: lzma.compress(text, preset=9),
    }
    print(f"\nheld-out files, {score.num_bytes:,} bytes, each scored once:\n")
    for name, compress in compressors.items():
        print(f"{name:<14}  {8 * len(compress(data)) / len(data):.4f} bits per byte")
    print(f"{'this model':<14}  {score.bits_per_byte:.4f} bits per byte")
    print(f"\nbits per byte  {score.bits_per_byte:.4f}")
    sys.stdout.flush()
