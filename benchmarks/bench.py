"""What the benchmarks share: the machine and its ceilings, contenders side by side, a file of results.

Contenders of one comparison live in processes of their own, so that each has its own peak memory, and run
in turn, so that a noisy machine is as noisy for each. The machine's ceilings are contenders like others.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sharnn.machine import bound_libraries, wait_briefly

bound_libraries()
wait_briefly()  # before torch is imported, as the command line does

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from sharnn.config import load_recipe_settings, recipe_from_settings  # noqa: E402
from sharnn.files import atomic_file  # noqa: E402
from sharnn.model import AttentionMemory, LanguageModel, RecurrentState  # noqa: E402
from sharnn.ops import REFERENCE  # noqa: E402
from sharnn.ops.lstm import lstm_of_pytorch  # noqa: E402
from sharnn.ops.matmul import product  # noqa: E402
from sharnn.train import start_run  # noqa: E402

#: The structure of the code of 2019 run eagerly: explicit mask, memory concatenated, gated copies of it,
#: an unfused Boom, and PyTorch's own LSTM.
EAGER = dataclasses.replace(REFERENCE, lstm=lstm_of_pytorch)
RESULTS = Path(__file__).with_name("results")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Read by `memory_ceiling`: far more than a cache holds.
_READ_BYTES = 1 << 30
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


# ----------------------------------------------------------------------------------- the machine


def processor(device: torch.device) -> str:
    """Return the name of what computes, with the number of cores of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        found = re.search(r"model name\s*:\s*(.+)", text)
        name = found[1].strip() if found else name
        known = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512"}
        flags = next((f", {label}" for flag, label in known.items() if flag in text), "")
    return f"{name}, {torch.get_num_threads()} cores{flags}"


def trained(budget: str, device: str, folder: Path) -> Path:
    """Train the demo's recipe on Python's own library; return the run folder."""
    settings = load_recipe_settings("demo")
    settings["data"]["texts"] = ["python-stdlib"]
    settings["train"].update(budget=budget, device=device)
    start_run(recipe_from_settings(settings), folder / "run", Console(stderr=True))
    return folder / "run"


# ---------------------------------------------------------------------------------- contenders

#: Makes, in a process of its own, the function whose calls are timed.
Factory = Callable[..., Callable[[], None]]


@dataclass(frozen=True)
class Contender:
    """What is timed: `factory(**settings)` returns the function; one call does `work` tokens."""

    factory: Factory
    settings: Mapping[str, Any]
    work: int


@dataclass(frozen=True)
class Timing:
    """Seconds of each call, and the peak memory of the process or device in bytes."""

    seconds: list[float]
    peak_bytes: int
    work: int

    @property
    def rate(self) -> float:
        """Median work a second."""
        return self.work / statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Slowest to quickest, in work a second."""
        return f"{self.work / max(self.seconds):,.0f} … {self.work / min(self.seconds):,.0f}"


def memory_ceiling(device: str) -> Contender:
    """Return the reading of much memory by all threads; its rate is in bytes a second."""
    return Contender(_sum_of_many, {"device": device}, _READ_BYTES)


def product_ceiling(device: str, dtype: str) -> Contender:
    """Return one large matrix product; its rate is in operations a second."""
    size = 2048 if device == "cpu" else 8192
    return Contender(_large_product, {"device": device, "dtype": dtype, "size": size}, 2 * size**3)


def _sum_of_many(device: str) -> Callable[[], None]:
    numbers = torch.ones(_READ_BYTES // 4, device=device)

    def run() -> None:
        numbers.sum().item()

    return run


def _large_product(device: str, dtype: str, size: int) -> Callable[[], None]:
    matrix = torch.randn(size, size, device=device).to(DTYPES[dtype])

    def run() -> None:
        product(matrix, matrix)[0, 0].item()  # waits for the device

    return run


def race(contenders: Mapping[str, Contender], repeats: int) -> dict[str, Timing]:
    """Run each contender once to warm up, then all in turn."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, contender in contenders.items():
        pipes[name], end = context.Pipe()
        arguments = end, contender.factory, dict(contender.settings)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        end.close()
    for pipe in pipes.values():
        _answer(pipe)  # all are made before the first one runs, so that none disturbs another
    for pipe in pipes.values():
        _ask(pipe, "run")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, pipe in pipes.items():
            seconds[name].append(_ask(pipe, "run"))
    return {
        name: Timing(seconds[name], int(_ask(pipe, "peak")), contenders[name].work)
        for name, pipe in pipes.items()
    }


def _ask(pipe: Connection, question: str) -> float:
    pipe.send(question)
    return _answer(pipe)


def _answer(pipe: Connection) -> float:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit("a contender's process ended; its error stands above") from None


def _serve(pipe: Connection, factory: Factory, settings: dict[str, Any]) -> None:
    """Answer the parent until it is gone."""
    run = factory(**settings)
    pipe.send(0.0)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        if question == "peak":
            pipe.send(peak_bytes())
            continue
        started = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - started)


def best_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of some calls, after two to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[2:])


def peak_bytes() -> int:
    """Return the peak memory of this process; on CUDA, where it was used, that of the device."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def full_state(
    model: LanguageModel, num_lanes: int, rows: int, dtype: torch.dtype
) -> RecurrentState:
    """Return a state with that many rows a lane, of unit variance as a LayerNorm leaves them."""
    layers = []
    for layer in model.initial_state(num_lanes).layers:
        if layer.memory is not None:
            shape = num_lanes, rows, model.config.embed_dim
            filled = torch.randn(shape, device=model.device, dtype=dtype)
            layer = dataclasses.replace(layer, memory=AttentionMemory(filled, (rows,) * num_lanes))
        layers.append(layer)
    return RecurrentState(tuple(layers))


# ------------------------------------------------------------------------------------- results


def make_parser(doc: str | None, repeats: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has, `--repeats` where calls are timed."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats:
        parser.add_argument("--repeats", type=int, default=5, help="timed runs of each contender")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    return parser


def own_command() -> str:
    """Return the command line of this process, as it can be typed again."""
    return shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])


@dataclass
class Report:
    """Prints tables and keeps them as one section of the machine's file of results."""

    title: str
    device: torch.device
    folder: Path

    def __post_init__(self) -> None:
        """Begin the section with where the numbers come from."""
        self.machine = processor(self.device)
        self._parts = [
            f"`{own_command()}`, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, torch "
            f"{torch.__version__}"
        ]
        self._console = Console(width=140, markup=False)

    @property
    def stem(self) -> str:
        """The machine's name, fit for a file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.machine.lower()).strip("-")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; all columns but the first are numbers."""
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
        lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
        markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self._parts.append(f"**{title}**\n\n{markdown}")

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._console.print(text)
        self._parts.append(text)

    def save(self) -> None:
        """Put the section in place of the one of the same title; other sections stay."""
        path = self.folder / f"{self.stem}.md"
        text = path.read_text() if path.exists() else f"# {self.machine}\n"
        section = f"## {self.title}\n\n" + "\n\n".join(self._parts) + "\n"
        old = re.compile(rf"^## {re.escape(self.title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
        if old.search(text):
            text = old.sub(lambda _: section + "\n", text)
        else:
            text = f"{text.rstrip()}\n\n{section}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"{text.rstrip()}\n".encode())
        self._console.print(f"written to {os.path.relpath(path)}")
