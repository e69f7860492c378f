"""Training speed of recipes: the trainer's own steps on a text, and the slowest kernels in them.

    python benchmarks/recipe_speed.py                    the recipe demo at D 128 × 2
    python benchmarks/recipe_speed.py my.txt --contender mine=desktop
    python benchmarks/recipe_speed.py my.txt --device cuda --parts 25 \\
        --contender hour=enwik8-hour --contender wide='enwik8-hour --data.num_lanes 256'

Memories are full before timing begins. A step is everything that `sharnn train` does in one: cutting the
segment, forward, backward, clipping, optimiser. GFLOP/s counts what the mathematics needs
(`train.estimate.flops_per_token`), without look-ups and optimiser. The ceilings are one large product, in
turn with the steps: on a CPU in float32 and, where the hardware has it, in bf16. With --parts, a step is
profiled and its slowest kernels are listed.
"""

from __future__ import annotations

import argparse
import gc
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from bench import STDLIB, Contest, Report, make_parser, product_ceiling
from sharnn.checkpoint import RunFolder
from sharnn.config import Recipe
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, SharnnError
from sharnn.experiments.comparison.contenders import Budget, named_contenders
from sharnn.train import Trainer, resolve_device
from sharnn.train.autosize import fit
from sharnn.train.estimate import flops_per_token, used_memory_bytes
from sharnn.train.precision import Precision
from sharnn.train.probe import StepTimes
from sharnn.train.trainer import train_tokens

#: The default contender.
DEMO = "demo-128x2=demo --model.embed_dim 128 --model.num_layers 2"
#: Steps between two measurements of the ceilings.
STEPS_IN_A_ROW = 5


def make_trainer(recipe: Recipe, corpus: Corpus, device: torch.device, folder: Path) -> Trainer:
    """Return a trainer whose fitted settings are resolved; nothing is written."""
    precision = Precision.resolve(device, recipe.train.dtype)
    times = StepTimes(precision, recipe.train.budget)
    recipe = fit(recipe, times, len(train_tokens(corpus, recipe.data)))
    return Trainer(recipe, corpus, RunFolder(folder), precision)


def fill_memories(trainer: Trainer) -> None:
    """Train until all memories are full, and three steps more."""
    recipe = trainer.recipe
    for _ in range(math.ceil((recipe.model.window or 0) / recipe.data.segment_length) + 3):
        trainer.step()


def seconds_of_steps(trainer: Trainer, count: int) -> list[float]:
    """Return the seconds of each of `count` steps.

    A step waits for the device before it updates the weights, so the update is counted with the next
    step.
    """
    seconds, before = [], time.perf_counter()
    for _ in range(count):
        trainer.step()
        seconds.append(time.perf_counter() - before)
        before = time.perf_counter()
    return seconds


def parts_of_step(trainer: Trainer, count: int) -> list[list[str]]:
    """Return the slowest kernels of a step: name, calls, milliseconds."""
    cuda = trainer.precision.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        trainer.step()
        if cuda:
            torch.cuda.synchronize()
    wanted, parts = DeviceType.CUDA if cuda else DeviceType.CPU, []
    for event in profiled.key_averages():
        # The profile also has the optimiser's step as a whole, which would count its kernels twice.
        if event.device_type == wanted and not event.key.startswith("Optimizer.step"):
            micros = event.self_device_time_total if cuda else event.self_cpu_time_total
            parts.append((micros / 1e3, event.count, event.key))
    parts.sort(reverse=True)
    return [[short(name), f"{calls:,}", f"{ms:.2f}"] for ms, calls, name in parts[:count]]


def short(name: str) -> str:
    """Return a kernel's name without the words that occur in every one."""
    return re.sub(r"\(anonymous namespace\)::|at::native::|^void ", "", name)[:72]


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time the contenders one after the other, and add the tables.

    Raises:
        SharnnError: A contender or an option is wrong.
    """
    if options.steps < 1:
        raise ConfigError(f"--steps is {options.steps}: it must be at least 1")
    device = report.device
    budget = Budget.parse(options.budget)
    recipes = {
        name: contender.resolve(name, budget, texts=[options.text])
        for name, contender in named_contenders(options.contender or [DEMO]).items()
    }
    corpus = prepare([options.text])
    own = Precision.resolve(device, "auto").name
    dtypes = [own] if device.type == "cuda" else sorted({"fp32", own}, reverse=True)
    rows = []
    with Contest({dtype: product_ceiling(options.device, dtype) for dtype in dtypes}) as ceilings:
        for name, recipe in recipes.items():
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(recipe, corpus, device, Path(folder))
                rows.append([name, *row_of(trainer, options.steps, ceilings, dtypes)])
                if options.parts:
                    parts = parts_of_step(trainer, options.parts)
                    title = f"{name}: the kernels of a step that took longest"
                    report.table(title, ["", "calls", "ms"], parts)
                del trainer
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    shares = (f"of the {dtype} ceiling" for dtype in dtypes)
    columns = ["", "parameters", "size", "lanes × tokens", "ms a step", "slowest … quickest",
               "tokens/s", "GFLOP/s", *shares, "MiB"]  # fmt: skip
    report.table(f"Training on {corpus.name}, median of {options.steps} steps", columns, rows)
    report.say("\n".join(f"- `{contender}`" for contender in options.contender or [DEMO]))


def row_of(trainer: Trainer, steps: int, ceilings: Contest, dtypes: Sequence[str]) -> list[str]:
    """Return the figures of a contender."""
    model, data = trainer.recipe.model, trainer.recipe.data
    fill_memories(trainer)
    seconds: list[float] = []
    limits: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    while len(seconds) < steps:
        seconds += seconds_of_steps(trainer, min(STEPS_IN_A_ROW, steps - len(seconds)))
        for dtype, rates in limits.items():
            rates.append(ceilings.rate(dtype))
    rate = data.num_lanes * data.segment_length / statistics.median(seconds)
    flops = rate * flops_per_token(trainer.recipe)
    tops = [statistics.median(rates) for rates in limits.values()]
    return [
        f"{trainer.model.num_parameters():,}", f"{model.embed_dim} × {model.num_layers}",
        f"{data.num_lanes} × {data.segment_length}", f"{1e3 * statistics.median(seconds):,.1f}",
        f"{1e3 * max(seconds):,.1f} … {1e3 * min(seconds):,.1f}", f"{rate:,.0f}",
        f"{flops / 1e9:,.0f}", *(f"{flops / top:.0%} of {top / 1e9:,.0f}" for top in tops),
        f"{used_memory_bytes(trainer.precision.device) / 2**20:,.0f}",
    ]  # fmt: skip


def main() -> int:
    """Return the exit code: 0, 1 for a failure, 2 for a wrong call."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument("text", nargs="?", default=STDLIB, help=f"a file ({STDLIB})")
    parser.add_argument(
        "--contender", action="append", help=f"a recipe, or NAME='RECIPE OPTIONS' (default {DEMO})"
    )
    parser.add_argument("--budget", default="1h", help="budget that sizes are fitted to (1h)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (20)")
    parser.add_argument("--parts", type=int, default=0, help="number of kernels to list (0)")
    options = parser.parse_args()
    try:
        report = Report("Recipes' training speed", resolve_device(options.device), options.results)
        measure(options, report)
        report.save()
        return 0
    except SharnnError as failure:
        print(f"recipe_speed: error: {failure}", file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
