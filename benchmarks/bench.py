"""What all benchmarks share: contenders that are timed side by side, ceilings, and the file of results.

Each contender of a comparison has a process of its own, so that its peak memory is its own. Contenders
run in turn, so that noise of the machine affects all of them alike. The machine's ceilings are measured
in the same way. `SHARNN_CPU` limits the instruction sets of all of them, and a limit is part of the name
of the file of results.
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

from sharnn import kernels  # noqa: E402
from sharnn.data.prepare import prepare  # noqa: E402
from sharnn.files import atomic_file  # noqa: E402
from sharnn.model import AttentionMemory, LanguageModel, RecurrentState  # noqa: E402
from sharnn.ops import REFERENCE  # noqa: E402
from sharnn.ops.lstm import lstm_of_pytorch  # noqa: E402
from sharnn.ops.matmul import product  # noqa: E402
from sharnn.recipe import load_recipe_settings, recipe_from_settings  # noqa: E402
from sharnn.report import Table  # noqa: E402
from sharnn.train import start_run  # noqa: E402

#: The structure of the 2019 code, run eagerly: an explicit mask, concatenated memory, gated copies of it,
#: an unfused Boom, and PyTorch's LSTM.
EAGER = dataclasses.replace(REFERENCE, lstm=lstm_of_pytorch)
RESULTS = Path(__file__).with_name("results")
#: The default text: every Python has it.
STDLIB = "python-stdlib"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Bytes that `memory_ceiling` reads: far more than a cache holds.
_READ_BYTES = 1 << 30
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


# ------------------------------------------------------------------------------ texts and models


def sample_text(text: Path | None, num_bytes: int) -> bytes:
    """Return the first bytes of a file, by default of the held-out files of Python's library."""
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

#: Returns the function whose calls are timed; it is called in the contender's own process.
Factory = Callable[..., Callable[[], None]]


#: Modules that are imported once, by the process that contenders are forked from; it computes nothing.
#: The first optimiser imports `torch._dynamo`, which takes a second.
_PRELOADED = ("torch._dynamo", "sharnn.checkpoint", "sharnn.generation", "sharnn.train")


@dataclass(frozen=True)
class Contender:
    """What is timed: `factory(**settings)` returns a function; one call of it does `work` units of work.

    A fast function is called repeatedly for `least_seconds`; the result is the mean time of a call.
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
        """Median work per second."""
        return self.work / statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Slowest to fastest call, in work per second."""
        return f"{self.work / max(self.seconds):,.0f} … {self.work / min(self.seconds):,.0f}"


def memory_ceiling(device: str) -> Contender:
    """Return a contender that reads much memory with all threads; its rate is in bytes per second."""
    return Contender(_sum_of_many, {"device": device}, _READ_BYTES)


def product_ceiling(device: str, dtype: str) -> Contender:
    """Return a contender that computes one large matrix product; its rate is in operations per second."""
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
    """Contenders in their processes, each called once to warm up; leaving `with` ends the processes."""

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
            _answer(pipe)  # all are ready before the first one runs, so that none disturbs another
        for name in contenders:
            self.seconds(name)

    def __enter__(self) -> Contest:
        """Return the contest."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes:
            process.join()

    def seconds(self, name: str) -> float:
        """Call a contender and return the seconds of the call."""
        return _ask(self._pipes[name], "run")

    def rate(self, name: str) -> float:
        """Call a contender and return its work per second."""
        return self._contenders[name].work / self.seconds(name)

    def timings(self, repeats: int) -> dict[str, Timing]:
        """Call all contenders in turn, `repeats` times each."""
        seconds: dict[str, list[float]] = {name: [] for name in self._pipes}
        for _ in range(repeats):
            for name, measured in seconds.items():
                measured.append(self.seconds(name))
        return {
            name: Timing(seconds[name], int(_ask(pipe, "peak")), self._contenders[name].work)
            for name, pipe in self._pipes.items()
        }


def race(contenders: Mapping[str, Contender], repeats: int) -> dict[str, Timing]:
    """Call each contender once to warm up, then all in turn, `repeats` times each."""
    with Contest(contenders) as contest:
        return contest.timings(repeats)


def _ask(pipe: Connection, question: str) -> float:
    pipe.send(question)
    return _answer(pipe)


def _answer(pipe: Connection) -> float:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit("a contender's process ended; its error is printed above") from None


def _serve(pipe: Connection, contender: Contender) -> None:
    """Answer the parent process until it closes the pipe."""
    run = contender.factory(**contender.settings)
    pipe.send(0.0)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(peak_bytes() if question == "peak" else _seconds_of(run, contender.least_seconds))


def _seconds_of(run: Callable[[], None], least_seconds: float) -> float:
    """Return the mean seconds of a call over at least `least_seconds`."""
    started, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        seconds = time.perf_counter() - started
        if seconds >= least_seconds:
            return seconds / calls


def best_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the seconds of the fastest call, after two calls to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[2:])


def peak_bytes() -> int:
    """Return the peak memory of this process, or of the CUDA device if it was used."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def full_state(
    model: LanguageModel, num_lanes: int, rows: int, dtype: torch.dtype
) -> RecurrentState:
    """Return a state with `rows` memory rows in each lane, of unit variance as after a LayerNorm."""
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
    """Return a parser with the options of every benchmark; `--repeats` only if calls are timed."""
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if repeats:
        parser.add_argument("--repeats", type=int, default=5, help="timed runs of each contender")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser


def own_command() -> str:
    """Return the command line of this process, in a form that can be typed again."""
    level = machine.level()
    bound = [] if level == "native" else [f"{machine.VARIABLE}={level}"]
    return shlex.join([*bound, "python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])


@dataclass
class Report:
    """Prints tables and writes them as one section of the results file of this machine and level."""

    title: str
    device: torch.device
    folder: Path

    def __post_init__(self) -> None:
        """Begin the section with the command, versions and date."""
        variant, versions = kernels.variant(), machine.versions()
        self.machine = machine.describe(self.device)
        self._parts = [
            f"`{own_command()}`, level {machine.level()}, kernels {variant.name if variant else 'none'}, "
            f"{datetime.now(UTC):%Y-%m-%d}, Python {versions['python']}, torch {versions['torch']}"
        ]
        self._console = Console(width=140, markup=False)

    @property
    def stem(self) -> str:
        """The machine's name in a form for file names."""
        return re.sub(r"[^a-z0-9]+", "-", self.machine.lower()).strip("-")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; all columns except the first are numbers."""
        table = Table(title, columns, rows)
        self._console.print(table.to_rich())
        self._parts.append(table.to_markdown())

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._console.print(text)
        self._parts.append(text)

    def save(self) -> None:
        """Replace the section of the same title in the file, or append it."""
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
