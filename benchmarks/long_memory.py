"""Cost of a long memory: time per token against the window, for training, prompts and decoding.

    python benchmarks/long_memory.py
    python benchmarks/long_memory.py --embed-dim 1024 --windows 0 1000 5000 20000

Memories are full. Writes a table and a plot. Only the attention may become slower with the window: the
table's last column is the time that its products take at the machine's ceiling.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from bench import Contender, Report, full_state, make_parser, product_ceiling, race
from decode_latency import decoder_steps, make_model
from sharnn.generation import RingDecoder
from sharnn.ops import FAST
from sharnn.ops.matmul import has_fast_bf16
from sharnn.report import write_png
from sharnn.train.estimate import attention_flops_per_token
from sharnn.train.precision import resolve_device
from train_throughput import batch_of, recipe_of, training_step


def prompt_after_memory(
    dim: int, window: int, device: str, count: int, dtype: str
) -> Callable[[], None]:
    """Return a function that reads a prompt with a full memory."""
    model = make_model(dim, window, device)
    model.ops = FAST
    decoder = RingDecoder(model, 1, dtype)
    decoder.load(full_state(model, 1, max(window - 1, 0), torch.float32))
    tokens_BT = torch.arange(count, device=model.device)[None] % 256

    def read() -> None:
        decoder.prefill(tokens_BT).argmax().item()

    return read


def contenders_for(window: int, options: argparse.Namespace, dtype: str) -> dict[str, Contender]:
    """Return the contenders at one window, by the names of their columns."""
    place = {"dim": options.embed_dim, "window": window, "device": options.device}
    batch = options.batch
    train = {**place, "fast": True, "dtype": dtype, "batch": batch}
    contenders = {
        "training": Contender(training_step, train, batch[0] * batch[1]),
        "prompt": Contender(
            prompt_after_memory, {**place, "count": options.prompt, "dtype": dtype}, options.prompt
        ),
    }
    for memory in ("fp32", "bf16", "int8"):
        steps = {**place, "count": options.steps, "dtype": "int8", "lanes": 1, "memory": memory}
        contenders[f"decoding, {memory} memory"] = Contender(decoder_steps, steps, options.steps)
    return contenders


def measure(options: argparse.Namespace) -> None:
    """Time every window, and write the section and the plot."""
    device, dim = resolve_device(options.device), options.embed_dim
    dtype = "bf16" if has_fast_bf16(device) else "fp32"
    report = Report(
        f"Cost of the window, D {dim} × 4, one attention layer", device, options.results
    )
    ceiling = {"ceiling": product_ceiling(options.device, dtype)}
    gflops = race(ceiling, options.repeats)["ceiling"].rate / 1e9
    micros: dict[str, list[float]] = {}
    for window in options.windows:
        timings = race(contenders_for(window, options, dtype), options.repeats)
        for name, timing in timings.items():
            micros.setdefault(name, []).append(1e6 / timing.rate)
    columns = [
        "window",
        *(f"{name}, µs/token" for name in micros),
        "attention in training, µs/token",
    ]
    rows = [
        [
            f"{window:,}",
            *(f"{micros[name][i]:,.1f}" for name in micros),
            f"{attention_flops_per_token(recipe_of(dim, window, options.batch)) / gflops / 1e3:,.1f}",
        ]
        for i, window in enumerate(options.windows)
    ]
    batch = options.batch
    report.table(
        f"Training {dtype} with {batch[0]} lanes × {batch[1]}, prompts of {options.prompt:,} bytes "
        f"({dtype}), decoding one lane with int8 weights; medians of {options.repeats}",
        columns, rows,
    )  # fmt: skip
    plot = options.results / f"{report.stem}-window-{dim}.png"
    report.say(f"![Cost of the window]({plot.name})")
    report.save()
    draw(options.windows, micros, plot, report.machine)


def draw(windows: list[int], micros: dict[str, list[float]], path: Path, machine: str) -> None:
    """Plot µs per token against the window, both logarithmic; a window of 0 is at the left end."""
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, values in micros.items():
        axes.plot(windows, values, marker="o", label=name)
    least = min((w for w in windows if w), default=1)
    axes.set_xscale("symlog", linthresh=least, linscale=0.5)
    axes.set_yscale("log")
    axes.set_xticks(windows, [f"{w // 1000}k" if w >= 1000 else str(w) for w in windows])
    axes.minorticks_off()
    axes.set(xlabel="window (rows)", ylabel="µs a token", title=machine)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_png(figure, path)


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, default=256)
    parser.add_argument(
        "--windows", type=int, nargs="+", default=[0, 1_000, 5_000, 20_000, 100_000]
    )
    parser.add_argument("--batch", type=batch_of, default=(4, 256), help="lanes x tokens")
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=32)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
