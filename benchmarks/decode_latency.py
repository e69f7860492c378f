"""Tokens per second of sampling one lane: the step path beside the forward pass of the original's way.

    python benchmarks/decode_latency.py
    python benchmarks/decode_latency.py --embed-dim 1024 --memory-rows 5000 --dtype bf16 --threads 1

Both read the same random tokens with the same weights, from a memory that is full:

- reference: `ops.REFERENCE` through the whole model for one token at a time, as the code of 2019
  samples: the memory is concatenated and gated anew for every token, the mask is made, the value
  gate is computed from its matrix, all that the LSTM reads is multiplied by two matrices.
- decoder: `RingDecoder.step`.

Their logits are compared first. Runs alternate in one process, so that both meet the same machine;
medians over the repeats are printed, with the slowest and the quickest. GB/s counts each weight
that a folded model reads once, so it can be held against the memory's bandwidth (or the cache's,
for models that fit in one); memory rows come on top.

Anything else that runs slows the reference far more than the decoder, which leaves a core free: quote
ratios from an idle machine, or with `--threads 1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sharnn.config import ModelConfig
from sharnn.generate import RingDecoder
from sharnn.model import AttentionMemory, LanguageModel, RecurrentState
from sharnn.ops import REFERENCE

WARM_UP_STEPS = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Largest difference of logits that rounding explains, in units of the logits' spread.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}


def make_model(
    dim: int, rows: int, layers: int, attention: str, dtype: torch.dtype
) -> LanguageModel:
    """Return a byte-level SHA-RNN with the paper's proportions and weights that matter."""
    torch.manual_seed(0)
    placement = "all" if attention == "all" else "one"
    config = ModelConfig(
        embed_dim=dim,
        num_layers=layers,
        window=rows,
        attention_layers=placement,  # type: ignore[arg-type]
    )
    model = LanguageModel(config, REFERENCE)
    with torch.no_grad():
        model.embedding.weight.normal_()
    return model.to(dtype).eval()


def full_state(model: LanguageModel, rows: int) -> RecurrentState:
    """Return a state whose memories are full of unit-variance rows, as a LayerNorm leaves them."""
    weight_VD = model.embedding.weight
    layers = []
    for layer in model.initial_state(1).layers:
        if layer.memory is not None:
            filled = torch.randn(1, rows - 1, weight_VD.shape[1]).to(weight_VD)
            layer = dataclasses.replace(layer, memory=AttentionMemory(filled, (rows - 1,)))
        layers.append(layer)
    return RecurrentState(tuple(layers))


@torch.no_grad()
def run_reference(
    model: LanguageModel, state: RecurrentState, tokens: torch.Tensor
) -> torch.Tensor:
    """Read tokens one by one; return the last logits `[1, V]`."""
    logits = torch.empty(0)
    for token in tokens:
        logits, state = model(token[None, None], state)
    return logits[:, 0]


def run_decoder(decoder: RingDecoder, state: RecurrentState, tokens: torch.Tensor) -> torch.Tensor:
    """Read tokens one by one; return the last logits `[1, V]`."""
    logits = torch.empty(0)
    for token in tokens:
        logits = decoder.step(token[None])
    return logits


def tokens_per_second(read: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> float:
    """Return the speed of `read`; every step is awaited, for sampling needs its logits."""
    read(tokens[:WARM_UP_STEPS])
    started = time.perf_counter()
    read(tokens)
    return len(tokens) / (time.perf_counter() - started)


def measure(options: argparse.Namespace, dim: int, table: Table) -> None:
    """Add two rows for a model of one width."""
    model = make_model(
        dim, options.memory_rows, options.layers, options.attention, DTYPES[options.dtype]
    )
    state = full_state(model, options.memory_rows)
    decoder = RingDecoder(model)
    decoder.load(state)
    tokens = torch.randint(256, (max(options.steps, WARM_UP_STEPS),))

    theirs = run_reference(model, state, tokens[:WARM_UP_STEPS]).float()
    ours = run_decoder(decoder, state, tokens[:WARM_UP_STEPS]).float()
    difference = float((ours - theirs).abs().max() / theirs.std())
    if not difference < TOLERANCE[options.dtype]:
        raise SystemExit(f"the decoder's logits differ by {difference:.2g} of their spread")

    speeds: dict[str, list[float]] = {"reference": [], "decoder": []}
    for _ in range(options.repeats):
        speeds["reference"].append(
            tokens_per_second(lambda part: run_reference(model, state, part), tokens)
        )
        speeds["decoder"].append(
            tokens_per_second(lambda part: run_decoder(decoder, state, part), tokens)
        )
    weight_bytes = model.fold().num_parameters() * model.embedding.weight.element_size()
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        table.add_row(
            f"{dim} × {options.layers}",
            name,
            f"{median[name]:,.0f}",
            f"{min(values):,.0f} … {max(values):,.0f}",
            f"{median[name] / median['reference']:.1f}",
            f"{median[name] * weight_bytes / 1e9:.1f}",
            f"{weight_bytes / 1e6:.0f}",
        )


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--embed-dim", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--attention", choices=["one", "all"], default="one")
    parser.add_argument("--memory-rows", type=int, default=2000, help="window, filled")
    parser.add_argument("--steps", type=int, default=100, help="tokens of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    title = f"one lane, {options.memory_rows:,} memory rows, attention {options.attention}"
    table = Table(title=f"{title}, {options.dtype}", title_justify="left")
    table.add_column("embed_dim × layers")
    table.add_column("path")
    for column in ("tokens/s", "slowest … quickest", "ratio", "GB/s of weights", "weights MB"):
        table.add_column(column, justify="right")
    for dim in options.embed_dim:
        measure(options, dim, table)
    console = Console(width=110)
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 if sys.platform == "darwin" else 1e3
    )
    console.print(
        f"{processor()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, medians of {options.repeats} runs of {options.steps} tokens, "
        f"load {os.getloadavg()[0]:.1f}, peak RSS {peak:,.0f} MB (both paths in one process)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
