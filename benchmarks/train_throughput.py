"""Training speed and memory: the fast paths against the original's structure, run eagerly.

    python benchmarks/train_throughput.py
    python benchmarks/train_throughput.py --embed-dim 256
    python benchmarks/train_throughput.py --eager-batches 8x128 16x256 --fp32-batches 16x256 32x128
    python benchmarks/train_throughput.py --peak          memory at the paper's configuration

Each contender runs at its own best batch (lanes × tokens): the fastest of the batches that are given for
it, by a trial. Memories are full before timing begins. A step is forward, backward, clipping and AdamW.
GFLOP/s counts what the mathematics needs (`train.estimate.flops_per_token`), so it is the same for all
contenders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench import DTYPES, EAGER, Contender, Report, full_state, make_parser, product_ceiling, race
from sharnn.config import DataConfig, ModelConfig, Recipe
from sharnn.model import LanguageModel
from sharnn.ops import FAST
from sharnn.ops.matmul import has_fast_bf16
from sharnn.train.estimate import flops_per_token
from sharnn.train.precision import Precision, resolve_device

#: Timed steps of each batch in a trial.
TRIALS = 2


def recipe_of(dim: int, window: int, batch: tuple[int, int]) -> Recipe:
    """Return the settings that determine what a step computes."""
    return Recipe(
        ModelConfig(embed_dim=dim, num_layers=4, window=window),
        DataConfig(num_lanes=batch[0], segment_length=batch[1]),
    )


def training_step(
    fast: bool,
    dtype: str,
    batch: tuple[int, int],
    dim: int,
    window: int,
    device: str,
    recompute: bool = False,
) -> Callable[[], None]:
    """Return a function that takes one training step on random bytes."""
    torch.manual_seed(0)
    precision = Precision(resolve_device(device), DTYPES[dtype])
    if fast:
        precision.prepare()
    model = LanguageModel(recipe_of(dim, window, batch).model, FAST if fast else EAGER).to(
        precision.device
    )
    model.recompute = recompute
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fast)
    tokens_BT = torch.randint(256, batch, device=precision.device)
    state = full_state(model, batch[0], max(window - 1, 0), precision.dtype)

    def step() -> None:
        nonlocal state
        with precision.autocast():
            nats_BT, after = model.nats(tokens_BT, tokens_BT, state)
        nats_BT.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25).item()  # waits for the device
        optimizer.step()
        optimizer.zero_grad()
        state = after.detach()

    return step


def contender(options: argparse.Namespace, name: str, batch: tuple[int, int]) -> Contender:
    """Return a contender of a kind, such as `fast bf16`, at a batch size."""
    kind, dtype = name.split()
    settings = {
        "fast": kind == "fast", "dtype": dtype, "batch": batch, "dim": options.embed_dim,
        "window": options.window, "device": options.device,
    }  # fmt: skip
    return Contender(training_step, settings, batch[0] * batch[1])


def at_best_batch(
    options: argparse.Namespace, name: str, batches: Sequence[tuple[int, int]], report: Report
) -> Contender:
    """Return a contender at the fastest of some batch sizes, and report their speeds if several."""
    trials = {written(batch): contender(options, name, batch) for batch in batches}
    if len(trials) == 1:
        return next(iter(trials.values()))
    timings = race(trials, TRIALS)
    speeds = (f"{batch} {timing.rate:,.0f}" for batch, timing in timings.items())
    report.say(f"Trial of batches, {name}, tokens/s: {', '.join(speeds)}")
    return trials[max(timings, key=lambda batch: timings[batch].rate)]


def speed(options: argparse.Namespace) -> None:
    """Time all contenders and write the section."""
    device, dim, window = resolve_device(options.device), options.embed_dim, options.window
    report = Report(f"Training, D {dim} × 4, window {window:,}", device, options.results)
    kinds = {"eager fp32": options.eager_batches, "fast fp32": options.fp32_batches}
    if has_fast_bf16(device):
        kinds["fast bf16"] = options.bf16_batches
    contenders = {
        name: at_best_batch(options, name, batches, report) for name, batches in kinds.items()
    }
    dtypes = sorted({name.split()[1] for name in kinds}, reverse=True)
    limits = {f"ceiling {dtype}": product_ceiling(options.device, dtype) for dtype in dtypes}
    timings, rows = race({**contenders, **limits}, options.repeats), []
    ceilings = {dtype: timings.pop(f"ceiling {dtype}").rate / 1e9 for dtype in dtypes}
    for name, timing in timings.items():
        batch, dtype = contenders[name].settings["batch"], name.split()[1]
        gflops = timing.rate * flops_per_token(recipe_of(dim, window, batch)) / 1e9
        rows.append([
            name, written(batch), f"{timing.rate:,.0f}", timing.spread,
            f"{timing.rate / timings['eager fp32'].rate:.2f}", f"{gflops:,.0f}",
            f"{gflops / ceilings[dtype]:.0%}", f"{timing.peak_bytes / 2**20:,.0f}",
        ])  # fmt: skip
    columns = ["", "lanes × tokens", "tokens/s", "slowest … quickest", "ratio", "GFLOP/s",
               "of the ceiling", "peak MiB"]  # fmt: skip
    report.table(
        f"Training, one attention layer, median of {options.repeats} in turn", columns, rows
    )
    report.say(
        "Ceilings: "
        + ", ".join(f"{name} {gflops:,.0f} GFLOP/s" for name, gflops in ceilings.items())
    )
    report.save()


def peaks(options: argparse.Namespace) -> None:
    """Measure the peak memory of each contender alone, in two steps of a process of its own."""
    device, window, batch = resolve_device(options.device), options.window, options.peak_batch
    title = f"Peak memory of training, D {options.embed_dim} × 4, {batch[0]} lanes × {batch[1]}"
    report = Report(f"{title}, window {window:,}", device, options.results)
    kinds: dict[str, dict[str, Any]] = {
        "eager fp32": {"fast": False, "dtype": "fp32"},
        "fast fp32": {"fast": True, "dtype": "fp32"},
        "fast bf16": {"fast": True, "dtype": "bf16"},
        "fast bf16, activation checkpointing": {"fast": True, "dtype": "bf16", "recompute": True},
    }
    rows = []
    for name, kind in kinds.items():
        settings = {**kind, "batch": batch, "dim": options.embed_dim, "window": window,
                    "device": options.device}  # fmt: skip
        contender = Contender(training_step, settings, batch[0] * batch[1])
        timing = race({name: contender}, 1)[name]
        rows.append([name, f"{timing.peak_bytes / 2**20:,.0f}", f"{timing.seconds[0]:.1f}"])
    report.table("Peak memory, in two steps", ["", "peak MiB", "seconds of the second step"], rows)
    report.save()


def batch_of(text: str) -> tuple[int, int]:
    """Return lanes and tokens of `16x256`."""
    lanes, tokens = text.split("x")
    return int(lanes), int(tokens)


def written(batch: tuple[int, int]) -> str:
    """Return a batch as tables show it."""
    return f"{batch[0]} × {batch[1]}"


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, default=1024)
    parser.add_argument("--window", type=int, default=5000)
    for name, default in (("eager", (16, 256)), ("fp32", (16, 256)), ("bf16", (32, 256))):
        parser.add_argument(
            f"--{name}-batches", type=batch_of, nargs="+", default=[default], metavar="BATCH",
            help=f"lanes x tokens to choose from ({default[0]}x{default[1]})",
        )  # fmt: skip
    parser.add_argument("--peak", action="store_true", help="measure memory only, at --peak-batch")
    parser.add_argument("--peak-batch", type=batch_of, default=(16, 1024))
    options = parser.parse_args()
    (peaks if options.peak else speed)(options)


if __name__ == "__main__":
    main()
