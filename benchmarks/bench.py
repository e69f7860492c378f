"""What the benchmarks share: the machine and its ceilings, contenders side by side, a file of results.

Contenders of one comparison live in processes of their own, so that each has its own peak memory, and run
in turn, so that a noisy machine is as noisy for each. The machine's ceilings are contenders like others.
`SHARNN_CPU` bounds what all of them use, and names the file of results.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
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

from sharnn import machine

machine.bound_libraries()
machine.wait_briefly()  # before torch is imported, as the command line does

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from sharnn import kernels  # noqa: E402
from sharnn.data.prepare import prepare  # noqa: E402
from sharnn.files import atomic_file  # noqa: E402
from sharnn.model import AttentionMemory, LanguageModel, RecurrentState  # noqa: E402
from sharnn.ops import REFERENCE  # noqa: E402
from sharnn.ops.lstm import lstm_of_pytorch  # noqa: E402
from sharnn.ops.matmul import product  # noqa: E402
from sharnn.recipe import load_recipe_settings, recipe_from_settings  # noqa: E402
from sharnn.train import start_run  # noqa: E402

#: The structure of the code of 2019 run eagerly: explicit mask, memory concatenated, gated copies of it,
#: an unfused Boom, and PyTorch's own LSTM.
EAGER = dataclasses.replace(REFERENCE, lstm=lstm_of_pytorch)
RESULTS = Path(__file__).with_name("results")
#: The text that is read where none is given: every Python has it.
STDLIB = "python-stdlib"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Read by `memory_ceiling`: far more than a cache holds.
_READ_BYTES = 1 << 30
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


# ------------------------------------------------------------------------------ texts and models


def sample_text(text: Path | None, num_bytes: int) -> bytes:
    """Return the first bytes of a file; of the held-out files of Python's library when not given."""
    name, split = (STDLIB, "valid") if text is None else (str(text), "all")
    return prepare([name]).split(split).tokens[:num_bytes].astype("uint8").tobytes()


def trained(budget: str, device: str, folder: Path) -> Path:
    """Train the demo's recipe on Python's own library; return the run folder."""
    settings = load_recipe_settings("demo")
    settings["data"]["texts"] = [STDLIB]
    settings["train"].update(budget=budget, device=device)
    start_run(recipe_from_settings(settings), folder / "run", Console(stderr=True))
    return folder / "run"


# ---------------------------------------------------------------------------------- contenders

#: Makes, in a process of its own, the function whose calls are timed.
Factory = Callable[..., Callable[[], None]]


#: What contenders import is imported once, by a process that they are forked from; it computes nothing.
#: `torch._dynamo` comes with the first optimiser, and takes a second.
_PRELOADED = ("torch._dynamo", "sharnn.checkpoint", "sharnn.generation", "sharnn.train")


@dataclass(frozen=True)
class Contender:
    """What is timed: `factory(**settings)` returns the function; one call does `work` tokens.

    A function that is quick is called again until `least_seconds` are over, and what is told is the
    time of one call.
    """

    factory: Factory
    settings: Mapping[str, Any]
    work: int
    least_seconds: float = 0.0


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


class Contest:
    """Contenders in their processes, all made and each called once; `with` ends the processes."""

    def __init__(self, contenders: Mapping[str, Contender]) -> None:
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            context.set_forkserver_preload(list(_PRELOADED))
        self._contenders = dict(contenders)
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for name, contender in contenders.items():
            self._pipes[name], end = context.Pipe()
            process = context.Process(target=_serve, args=(end, contender), daemon=True)
            process.start()
            self._processes.append(process)
            end.close()
        for pipe in self._pipes.values():
            _answer(pipe)  # all are made before the first one runs, so that none disturbs another
        for name in contenders:
            self.seconds(name)

    def __enter__(self) -> Contest:
        """Return the contest."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let all processes end."""
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes:
            process.join()

    def seconds(self, name: str) -> float:
        """Return what a call of a contender takes now."""
        return _ask(self._pipes[name], "run")

    def rate(self, name: str) -> float:
        """Return the work a second that a contender does now."""
        return self._contenders[name].work / self.seconds(name)

    def timings(self, repeats: int) -> dict[str, Timing]:
        """Call all in turn."""
        seconds: dict[str, list[float]] = {name: [] for name in self._pipes}
        for _ in range(repeats):
            for name, measured in seconds.items():
                measured.append(self.seconds(name))
        return {
            name: Timing(seconds[name], int(_ask(pipe, "peak")), self._contenders[name].work)
            for name, pipe in self._pipes.items()
        }


def race(contenders: Mapping[str, Contender], repeats: int) -> dict[str, Timing]:
    """Run each contender once to warm up, then all in turn."""
    with Contest(contenders) as contest:
        return contest.timings(repeats)


def _ask(pipe: Connection, question: str) -> float:
    pipe.send(question)
    return _answer(pipe)


def _answer(pipe: Connection) -> float:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit("a contender's process ended; its error stands above") from None


def _serve(pipe: Connection, contender: Contender) -> None:
    """Answer the parent until it is gone."""
    run = contender.factory(**contender.settings)
    pipe.send(0.0)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(peak_bytes() if question == "peak" else _seconds_of(run, contender.least_seconds))


def _seconds_of(run: Callable[[], None], least_seconds: float) -> float:
    """Return the seconds of a call, the mean of as many as are needed."""
    started, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        seconds = time.perf_counter() - started
        if seconds >= least_seconds:
            return seconds / calls


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
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if repeats:
        parser.add_argument("--repeats", type=int, default=5, help="timed runs of each contender")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    return parser


def own_command() -> str:
    """Return the command line of this process, as it can be typed again."""
    level = machine.level()
    bound = [] if level == "native" else [f"{machine.VARIABLE}={level}"]
    return shlex.join([*bound, "python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])


@dataclass
class Report:
    """Prints tables and keeps them as one section of the file of results of machine and level."""

    title: str
    device: torch.device
    folder: Path

    def __post_init__(self) -> None:
        """Begin the section with where the numbers come from."""
        variant, versions = kernels.variant(), machine.versions()
        self.machine = machine.describe(self.device)
        self._parts = [
            f"`{own_command()}`, level {machine.level()}, kernels {variant.name if variant else 'none'}, "
            f"{datetime.now(UTC):%Y-%m-%d}, Python {versions['python']}, torch {versions['torch']}"
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
