"""Training speed: the fast paths beside the eager float32 definition, in one run.

    python benchmarks/train_throughput.py
    python benchmarks/train_throughput.py --embed-dim 1024 --num-lanes 16 --segment-length 128

Contenders alternate, so that a noisy machine is as noisy for each; the table shows the median of the
repeats. `reference` is `ops/reference.py`: explicit mask, concatenated memory, separate gates, an LSTM
that steps through the segment, as the code of 2019 but for its cuDNN; `original's LSTM` is the same
with PyTorch's own LSTM, as the code of 2019 ran on a CPU, with its unfused Boom. Attention memories
are full before anything is timed. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sharnn.config import ModelConfig
from sharnn.model import LanguageModel, RecurrentState
from sharnn.ops import FAST, REFERENCE, Ops
from sharnn.train.precision import Precision, has_fast_bf16, resolve_device

ORIGINAL = dataclasses.replace(REFERENCE, lstm=FAST.lstm)


class Contender:
    """A model that trains on random bytes, one timed step at a time."""

    def __init__(self, name: str, ops: Ops, dtype: str, arguments: argparse.Namespace) -> None:
        self.name = name
        torch.manual_seed(0)
        device = resolve_device(arguments.device)
        self.precision = Precision.resolve(device, dtype)
        config = ModelConfig(
            embed_dim=arguments.embed_dim, num_layers=4, window=arguments.window, vocab_size=256
        )
        self.model = LanguageModel(config, ops).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=ops is FAST)
        shape = (arguments.num_lanes, arguments.segment_length)
        self.tokens = torch.randint(256, shape, device=device)
        self.state = self._full_memory(arguments.num_lanes)
        self.seconds: list[float] = []

    @torch.no_grad()
    def _full_memory(self, num_lanes: int) -> RecurrentState:
        state = self.model.initial_state(num_lanes)
        for _ in range(-(-(self.model.config.window or 0) // self.tokens.shape[1])):
            with self.precision.autocast():
                _, state = self.model.hidden(self.tokens, state)
        return state

    def step(self) -> float:
        """Return the seconds of one training step."""
        started = time.perf_counter()
        with self.precision.autocast():
            nats_BT, state = self.model.nats(self.tokens, self.tokens, self.state)
        loss: Tensor = nats_BT.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = state.detach()
        loss.item()  # wait for the device
        return time.perf_counter() - started

    @property
    def rate(self) -> float:
        """Median tokens per second."""
        return self.tokens.numel() / statistics.median(self.seconds)


CONTENDERS: dict[str, tuple[Ops, str]] = {
    "reference fp32": (REFERENCE, "fp32"),
    "original's LSTM fp32": (ORIGINAL, "fp32"),
    "fast fp32": (FAST, "fp32"),
    "fast bf16": (FAST, "bf16"),
}


def peak_memory_bytes(name: str, argv: list[str]) -> int | None:
    """Return the peak of a process that takes three steps; None where /proc does not tell."""
    command = [sys.executable, __file__, *argv, "--only", name]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"peak (\d+)", result.stdout)
    return int(found[1]) * 1024 if found else None


def main() -> None:
    """Run the contenders in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--embed-dim", type=int, default=256)
    parser.add_argument("--num-lanes", type=int, default=16)
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--window", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        contender = Contender(arguments.only, *CONTENDERS[arguments.only], arguments)
        for _ in range(3):
            contender.step()
        status = Path("/proc/self/status")
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
        print(f"peak {found[1]}" if found else "")
        return
    fast_bf16 = has_fast_bf16(resolve_device(arguments.device))
    names = [name for name in CONTENDERS if fast_bf16 or "bf16" not in name]
    peaks = {name: peak_memory_bytes(name, sys.argv[1:]) for name in names}
    contenders = [Contender(name, *CONTENDERS[name], arguments) for name in names]
    for contender in contenders:
        contender.step()
    for _ in range(arguments.repeats):
        for contender in contenders:
            contender.seconds.append(contender.step())
    print_table(contenders, peaks, arguments)


def print_table(
    contenders: list[Contender], peaks: dict[str, int | None], arguments: argparse.Namespace
) -> None:
    """Print rates, ratios to the first contender, and peaks."""
    title = (
        f"E {arguments.embed_dim} × 4 layers, one attention, window {arguments.window} full, "
        f"B {arguments.num_lanes} × T {arguments.segment_length}, median of {arguments.repeats}"
    )
    table = Table("contender", "tokens/s", "ratio", "slowest", "quickest", "peak MiB", title=title)
    tokens = contenders[0].tokens.numel()
    for contender in contenders:
        peak = peaks[contender.name]
        table.add_row(
            contender.name,
            f"{contender.rate:,.0f}",
            f"{contender.rate / contenders[0].rate:.2f}",
            f"{tokens / max(contender.seconds):,.0f}",
            f"{tokens / min(contender.seconds):,.0f}",
            "?" if peak is None else f"{peak / 2**20:,.0f}",
        )
    Console(width=110).print(table)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.platform()}")


if __name__ == "__main__":
    main()
