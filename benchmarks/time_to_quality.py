"""What a budget buys: bits per byte of contenders that train equally long on the same text.

    python benchmarks/time_to_quality.py --budget 90s 600s --seeds 3
    python benchmarks/time_to_quality.py my.txt --budget 90s --contenders sha-rnn transformer
    python benchmarks/time_to_quality.py --budget 1Mtokens --jobs 2 --threads 1 \\
        --contender low='demo --optim.lr 0.003' --contender high='demo --optim.lr 0.01'

Every run is `sharnn train` in a process of its own, as a user would start it; its best model then reads
the whole valid split once (protocol `strict`, docs/evaluation_protocol.md). Contenders take turns, so
that a noisy machine is as noisy for each. Budgets in time allow one run at a time, for two would share
the machine; budgets in tokens or steps can run side by side.

The results are a table for each budget (.md), a picture (.png) and every figure (.json). The JSON file
is written after every run, and a run that it holds (the same settings, budget, seed, threads, device and
text) is not run again without --again: a long comparison can be cut into several commands, or stopped
and started again. What the package's code was at the time is not compared. Table and picture show what
the last command named, so let the last one name everything. Without --contenders all built-in ones run,
or none of them where --contender or --outside names others.

Trainers from elsewhere (--outside, budgets in time only) are command lines in which {train} and {valid}
stand for files with the bytes of the splits, {seconds} for the budget, {seed} for the seed and {out} for
an empty folder. They print JSON lines on standard output; anything else there is ignored:

    {"seconds": 84.2, "bits_per_byte": 2.013, "parameters": 10700000, "tokens_per_second": 21000}

The last line is the score, which must be that of all of {valid}; the last two keys may be left out. So
nanoGPT, say, would be called through a script of one's own,

    --outside nanogpt='python with_nanogpt.py {train} {valid} --seconds {seconds} --seed {seed}'

that takes GPT and GPTConfig (vocab_size 256) from nanoGPT's model.py, cuts batches from {train}, draws
its learning rate from the share of {seconds} that is gone, leaves its loop when they are, and prints
loss / ln 2 over consecutive windows of {valid} with the seconds since it began. What such a script takes
in all is timed from outside too, and an overrun of more than a fifth is told below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator
from rich.console import Console

from bench import Report, make_parser, own_command
from sharnn.checkpoint import load_model
from sharnn.config import Amount, Recipe, to_dict
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError, SharnnError, TrainingError
from sharnn.evaluate import SEGMENT_LENGTH, evaluate_static
from sharnn.files import atomic_file, explain_os_error, read_json
from sharnn.report import RunRecord, read_run, write_png
from sharnn.train import resolve_device
from sharnn.train.logger import format_seconds

# ---------------------------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Contender:
    """A recipe, and what is set otherwise.

    Attributes:
        recipe: Its name or file.
        options: Of `sharnn train`, as typed.
        about: One line for the results.
        long_recipe: The recipe of budgets from `LONG_SECONDS` on, where that is another.
    """

    recipe: str
    options: str = ""
    about: str = ""
    long_recipe: str | None = None

    def arguments(self, budget: Budget) -> list[str]:
        """Return what `sharnn train` is told, but for what the comparison decides."""
        long = budget.timed and budget.amount.value >= LONG_SECONDS
        recipe = self.long_recipe if long and self.long_recipe else self.recipe
        return ["--recipe", recipe, *shlex.split(self.options)]


LONG_SECONDS = 300
_TRANSFORMER = (
    "--model.architecture transformer --model.num_layers 4 --model.window 256 --data.num_lanes 16 "
    "--data.segment_length 256 --optim.lr 0.003"
)
CONTENDERS = {
    "sha-rnn": Contender(
        recipe="demo",
        long_recipe="desktop",
        about="the package's own recipe, nothing changed",
    ),
    "paper": Contender(
        recipe="paper-enwik8-one",
        options="--model.embed_dim 256 --model.boom_dim 1024 --model.window 512 "
        "--data.num_lanes 16 --data.segment_length 128 --optim.warmup 5% "
        "--train.validate_every 20% --train.validation_tokens 32768",
        about="the paper's blocks and optimiser (LAMB with a minimum trust), smaller",
    ),
    "lstm": Contender(
        recipe="demo",
        long_recipe="desktop",
        options="--model.architecture lstm --model.residual true --model.forget_bias 1",
        about="LSTM layers alone, trained as sha-rnn",
    ),
    "transformer": Contender(
        recipe="demo",
        long_recipe="desktop",
        options=_TRANSFORMER,
        about="pre-norm Transformer with rotary positions and a sliding memory",
    ),
    "transformer-ngrams": Contender(
        recipe="demo",
        long_recipe="desktop",
        options=f"{_TRANSFORMER} --model.longest_ngram 6",
        about="the same with sha-rnn's n-grams",
    ),
}
#: What the comparison decides, and no contender.
_DECIDED = (
    "--recipe", "--budget", "--train.budget", "--train.seed", "--device", "--train.device", "--out",
    "--resume", "--print-recipe",
)  # fmt: skip
_DECIDED_SETTINGS = {"data": ("texts", "digest"), "train": ("budget", "seed", "device")}


@dataclass(frozen=True)
class Outside:
    """A trainer from elsewhere: its command line in words, see the top of this file."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """How long each contender may train."""

    text: str
    amount: Amount

    @property
    def timed(self) -> bool:
        """Whether it is in time, which runs side by side would take from each other."""
        return self.amount.unit == "seconds"


@dataclass(frozen=True)
class Plan:
    """A run that the command asks for.

    Attributes:
        name: The contender's.
        contender: What trains.
        budget: How long.
        seed: Of its weights.
        key: All that makes its figures, as JSON values: runs of the same key need not be repeated.
    """

    name: str
    contender: Contender | Outside
    budget: Budget
    seed: int
    key: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} · {self.budget.text} · seed {self.seed}"


def make_plans(
    contenders: dict[str, Contender | Outside], corpus: Corpus, options: argparse.Namespace
) -> list[Plan]:
    """Return all runs: a budget after the other, seeds one after the other, contenders in turn.

    Raises:
        ConfigError: A contender has settings that do not exist or do not go together.
    """
    plans = []
    for budget in options.budgets:
        settings = {
            name: settings_of(name, contender, budget, options.text)
            for name, contender in contenders.items()
        }
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name, contender in contenders.items():
                key = {
                    "text_digest": corpus.digest,
                    "budget": {"value": budget.amount.value, "unit": budget.amount.unit},
                    "seed": seed,
                    "threads": options.used_threads,
                    "device": options.device,
                    "settings": settings[name],
                }
                plans.append(Plan(name, contender, budget, seed, key))
    return plans


def settings_of(
    name: str, contender: Contender | Outside, budget: Budget, text: str
) -> dict[str, Any]:
    """Return what a contender is, every setting resolved by `sharnn train` itself.

    Raises:
        ConfigError: It refuses them.
    """
    if isinstance(contender, Outside):
        return {"command": shlex.join(contender.words)}
    arguments = [*contender.arguments(budget), "--budget", budget.text, "--print-recipe"]
    result = subprocess.run(train_command(text, arguments), capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no recipe"]
        raise ConfigError(f"contender {name}: {lines[-1].removeprefix('sharnn: error: ')}")
    settings = yaml.safe_load(result.stdout)
    if settings["data"]["texts"] != [text]:
        raise ConfigError(f"contender {name}: its text is the comparison's, name settings alone")
    for section, decided in _DECIDED_SETTINGS.items():
        for setting in decided:
            del settings[section][setting]
    return settings


def train_command(text: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line of a training."""
    return [sys.executable, "-m", "sharnn", "train", text, *arguments]


# ------------------------------------------------------------------------------------ processes


class Processes:
    """Processes whose output goes to files, and of which none outlives this one's work."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self, command: Sequence[str], log: Path, environment: dict[str, str], out: Path | None
    ) -> float:
        """Wait for a process; return how many seconds it took.

        Args:
            command: In words.
            log: Takes what it prints.
            environment: Of the process.
            out: Takes its standard output apart from the errors.

        Raises:
            TrainingError: It cannot be started or failed; with the last lines it printed.
        """
        started = time.monotonic()
        with contextlib.ExitStack() as files:
            errors = files.enter_context(log.open("wb"))
            stdout = errors if out is None else files.enter_context(out.open("wb"))
            try:
                process = subprocess.Popen(
                    command, stdout=stdout, stderr=errors, stdin=subprocess.DEVNULL, env=environment
                )
            except OSError as failure:
                raise TrainingError(explain_os_error(failure, Path(command[0]), "run")) from failure
            self._running.add(process)
            if self._stopped:
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        if code:
            raise TrainingError(
                f"exit code {code} of {shlex.join(command)}, which said:\n{_last_lines(log)}"
            )
        return time.monotonic() - started

    def stop(self) -> None:
        """Ask all to end, and those to come."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()

    def check(self) -> None:
        """Let work in this process end too, once all was asked to.

        Raises:
            TrainingError: It was.
        """
        if self._stopped:
            raise TrainingError("stopped")


def _last_lines(log: Path, count: int = 12) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-count:]) or "nothing"


class Countdown:
    """How many runs are left, and how long they will take by those that are done."""

    def __init__(self, plans: Sequence[Plan], jobs: int) -> None:
        self.total, self._jobs = len(plans), jobs
        self._waiting, self._unfinished = list(plans), list(plans)
        self._done: list[tuple[Plan, float]] = []

    def begin(self, plan: Plan) -> str:
        """Say what begins."""
        self._waiting.remove(plan)
        number = self.total - len(self._waiting)
        seconds = self.seconds_left()
        left = "" if seconds is None else f", all done in about {format_seconds(seconds)}"
        return f"run {number} of {self.total}: {plan} · {len(self._waiting)} to follow{left}"

    def end(self, plan: Plan, seconds: float) -> None:
        """Take the time of a run that ended, its scoring included."""
        self._unfinished.remove(plan)
        self._done.append((plan, seconds))

    def seconds_left(self) -> float | None:
        """Return the expected seconds of all that has not ended; None where nothing tells."""
        expected = [self._expected(plan) for plan in self._unfinished]
        known = [seconds for seconds in expected if seconds is not None]
        return sum(known) / self._jobs if len(known) == len(expected) else None

    def _expected(self, plan: Plan) -> float | None:
        value = plan.budget.amount.value
        if plan.budget.timed:
            extra = [seconds - done.budget.amount.value for done, seconds in self._done]
            return value + (statistics.mean(extra) if extra else 0.0)
        alike = [(done, s) for done, s in self._done if done.budget.amount.unit == _unit(plan)]
        own = [(done, s) for done, s in alike if done.name == plan.name] or alike
        if not own:
            return None
        return value * statistics.mean(s / done.budget.amount.value for done, s in own)


def _unit(plan: Plan) -> str:
    return plan.budget.amount.unit


# ----------------------------------------------------------------------------------------- runs

#: Points of a training curve that are kept.
_CURVE_POINTS = 200


@dataclass
class Workshop:
    """Where runs take place, and what they have in common."""

    corpus: Corpus
    text: str
    device: str
    environment: dict[str, str]
    folder: Path
    keeps: bool
    processes: Processes = field(default_factory=Processes)

    def measure(self, plan: Plan) -> dict[str, Any]:
        """Run a plan; return all its figures as JSON values.

        Raises:
            SharnnError: It failed.
        """
        train, valid = self.corpus.split("train"), self.corpus.split("valid")
        facts = {
            "contender": plan.name,
            **plan.key,
            "text": self.corpus.name,
            "train_bytes": train.num_bytes,
            "valid_bytes": valid.num_bytes,
            "command": own_command(),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "torch": torch.__version__,
        }
        folder = self._new_folder(plan)
        try:
            if isinstance(plan.contender, Outside):
                return {**facts, **self._measure_outside(plan, plan.contender, folder)}
            return {**facts, **self._measure_own(plan, plan.contender, folder)}
        except SharnnError as failure:
            raise TrainingError(f"{plan}: {failure}") from failure
        finally:
            if not self.keeps:
                shutil.rmtree(folder, ignore_errors=True)

    def _new_folder(self, plan: Plan) -> Path:
        """Make an empty folder; one that an earlier command kept stays as it is."""
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{plan.name}-{plan.budget.text}-seed{plan.seed}")
        number = 1
        while True:
            folder = self.folder / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except OSError as failure:
                raise DataError(explain_os_error(failure, folder, "write")) from failure

    def _measure_own(self, plan: Plan, contender: Contender, folder: Path) -> dict[str, Any]:
        decided = ["--budget", plan.budget.text, "--train.seed", str(plan.seed)]
        arguments = [*contender.arguments(plan.budget), *decided, "--device", self.device]
        command = train_command(self.text, [*arguments, "--out", str(folder)])
        took = self.processes.run(command, _beside(folder, ".log"), self.environment, None)
        run = read_run(folder)
        return {
            "arguments": arguments,
            "wall_seconds": round(took, 1),
            **figures_of(run),
            **self._score(folder, run, plan.key["settings"]),
        }

    def _score(self, folder: Path, run: RunRecord, settings: dict[str, Any]) -> dict[str, Any]:
        """Score a run's best model on the valid split of the text that it was trained on.

        A model whose reach depends on where segments begin is read in segments as long as those it
        was trained with, for longer ones would leave it next to no memory.
        """
        corpus = Corpus.find(run.facts["corpus_digest"])
        if corpus is None:
            raise DataError(f"{run.facts['corpus']} is gone from the cache: run the command again")
        loaded = load_model(folder, resolve_device(self.device))
        segmented = settings["model"]["reach"] == "segment"
        score = evaluate_static(
            loaded.model,
            loaded.tokenizer,
            corpus.split("valid"),
            segment_length=settings["data"]["segment_length"] if segmented else SEGMENT_LENGTH,
            report=lambda *_: self.processes.check(),
        )
        return {
            "bits_per_byte": score.bits_per_byte,
            "best_step": loaded.card["steps"],
            "score": score.to_dict(),
        }

    def _measure_outside(self, plan: Plan, contender: Outside, folder: Path) -> dict[str, Any]:
        seconds = plan.budget.amount.value
        values = {
            "{train}": str(self._bytes_of("train")),
            "{valid}": str(self._bytes_of("valid")),
            "{seconds}": str(int(seconds) if seconds.is_integer() else seconds),
            "{seed}": str(plan.seed),
            "{out}": str(folder),
        }
        place = re.compile("|".join(map(re.escape, values)))
        command = [place.sub(lambda name: values[name[0]], word) for word in contender.words]
        out = _beside(folder, ".out")
        took = self.processes.run(command, _beside(folder, ".log"), self.environment, out)
        return {"wall_seconds": round(took, 1), **figures_told(out.read_text(errors="replace"))}

    def _bytes_of(self, split_name: str) -> Path:
        """Return a file with the bytes of a split."""
        path = self.folder / f"{split_name}-{self.corpus.digest[:12]}.bytes"
        if not path.exists():
            tokens, step = self.corpus.split(split_name).tokens, 1 << 20
            with atomic_file(path, DataError) as file:
                for start in range(0, len(tokens), step):
                    file.write(self.corpus.tokenizer.decode(tokens[start : start + step]))
        return path


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def figures_of(run: RunRecord) -> dict[str, Any]:
    """Return the figures of a training and its curves, each point `[tokens, seconds, bits]`."""
    train = run.curves["smooth"].rows
    step = max(math.ceil(len(train) / _CURVE_POINTS), 1)
    return {
        "machine": run.facts["machine"],
        "dtype": run.facts["dtype"],
        "parameters": run.facts["num_parameters"],
        "steps": run.last["step"],
        "tokens_seen": run.last["tokens_seen"],
        "seconds": run.last["seconds"],
        "tokens_per_second": statistics.median(run.curves["tokens_per_second"].column(2)),
        "end": run.end,
        "valid_curve": [_rounded(point) for point in run.valid],
        "train_curve": [_rounded(point) for point in train[::-1][::step][::-1]],
    }


def _rounded(point: Sequence[float]) -> list[float]:
    tokens, seconds, bits = point
    return [round(tokens), round(seconds, 2), round(bits, 4)]


def figures_told(output: str) -> dict[str, Any]:
    """Return the figures in the JSON lines of a trainer from elsewhere.

    Raises:
        TrainingError: There is no score in it.
    """
    told: dict[str, Any] = {}
    curve = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            seconds, bits = float(record["seconds"]), float(record["bits_per_byte"])
            told.update(record)
            curve.append((seconds, bits))
    if not curve or not math.isfinite(curve[-1][1]):
        raise TrainingError(
            'it must print JSON lines such as {"seconds": 84.2, "bits_per_byte": 2.013} on standard '
            "output, the last one with its score: none was found, or it is not finite"
        )
    return {
        "bits_per_byte": curve[-1][1],
        "seconds": curve[-1][0],
        "parameters": _number(told.get("parameters")),
        "tokens_per_second": _number(told.get("tokens_per_second")),
        "tokens_seen": None,
        "valid_curve": [[None, round(s, 2), round(bits, 4)] for s, bits in curve],
        "train_curve": [],
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def run_all(
    plans: Sequence[Plan], jobs: int, workshop: Workshop, store: Store, console: Console
) -> None:
    """Run what is planned and store each as it ends; after a failure nothing new is begun.

    Raises:
        SharnnError: A run failed. Those beside it have been waited for.
    """
    countdown, lock, failed = Countdown(plans, jobs), threading.Lock(), threading.Event()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    def run(plan: Plan) -> None:
        if failed.is_set():
            return
        with lock:
            say(countdown.begin(plan))
        started = time.monotonic()
        try:
            figures = workshop.measure(plan)
        except BaseException:
            failed.set()  # at once: the main thread would hear of it when the next run has begun
            raise
        with lock:
            store.add(figures)
            countdown.end(plan, time.monotonic() - started)
            say(f"  {plan}: {figures['bits_per_byte']:.4f} bits per byte")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(run, plan) for plan in plans]):
                future.result()
        except BaseException as failure:
            failed.set()
            if isinstance(failure, KeyboardInterrupt):
                workshop.processes.stop()
            raise


# -------------------------------------------------------------------------------------- results


@dataclass
class Store:
    """The JSON file of all runs on a machine; each stands on a line of its own."""

    path: Path
    machine: str
    added: int = 0

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs.

        Raises:
            DataError: The file is no such file.
        """
        if not self.path.exists():
            return []
        content = read_json(self.path, DataError)
        try:
            return list(content["runs"])
        except (KeyError, TypeError) as failure:
            raise DataError(f"{self.path} holds no runs: move it out of the way") from failure

    def add(self, figures: dict[str, Any]) -> None:
        """Write a run, in place of one of the same key."""
        key = {name: figures[name] for name in KEY_NAMES}
        runs = [run for run in self.runs() if not is_of(run, key)]
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in [*runs, figures])
        with atomic_file(self.path, DataError) as file:
            file.write(
                f'{{"machine": {json.dumps(self.machine)}, "runs": [\n{lines}\n]}}\n'.encode()
            )
        self.added += 1

    def find(self, plan: Plan) -> dict[str, Any] | None:
        """Return the run that a plan asks for, under the plan's name."""
        found = next((run for run in self.runs() if is_of(run, plan.key)), None)
        return found and {**found, "contender": plan.name}


KEY_NAMES = ("text_digest", "budget", "seed", "threads", "device", "settings")


def is_of(run: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a run has that key."""
    plain = all(run.get(name) == value for name, value in key.items() if name != "settings")
    return plain and _chosen_settings(run["settings"]) == _chosen_settings(key["settings"])


def _chosen_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what has its default, so that a setting new to the package makes no old run another."""
    defaults = to_dict(Recipe())
    return {
        section: values
        if isinstance(values, str)
        else {k: v for k, v in values.items() if (k, v) not in defaults.get(section, {}).items()}
        for section, values in settings.items()
    }


class Comparison(Report):
    """The machine's file of this benchmark alone."""

    @property
    def stem(self) -> str:
        """Name of the files, without their endings."""
        return f"{super().stem}-time-to-quality"


#: What is shown: runs by contender, by budget.
Shown = dict[Budget, dict[str, list[dict[str, Any]]]]


def publish(report: Comparison, plans: Sequence[Plan], store: Store) -> None:
    """Write tables and picture of those plans that have run."""
    shown: Shown = {}
    for plan in plans:
        if (run := store.find(plan)) is not None:
            shown.setdefault(plan.budget, {}).setdefault(plan.name, []).append(run)
    if not shown:
        return
    for budget, runs in shown.items():
        add_table(report, budget, runs)
    report.say(describe_contenders(plans))
    report.say(describe_origin(shown))
    picture = report.folder / f"{report.stem}.png"
    report.say(f"![Bits per byte against the budget]({picture.name})")
    text = next(_all_runs(shown))["text"]
    write_png(draw(shown, f"{text} on {report.machine}"), picture)
    report.save()


def add_table(report: Comparison, budget: Budget, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Add the table of a budget, and who has overrun it."""
    first = next(iter(runs.values()))[0]
    report.table(
        f"{budget.text} of training on {first['text']}: {first['train_bytes']:,} bytes to train on, "
        f"all {first['valid_bytes']:,} of the valid split scored",
        ["contender", "bits per byte (strict)", "n", "tokens/s", "tokens seen", "parameters"],
        [row_of(name, of_contender) for name, of_contender in runs.items()],
    )
    overrun = [
        f"{name} took {most:,.1f} seconds"
        for name, of_contender in runs.items()
        if budget.timed
        and (most := max(map(clock_seconds, of_contender))) > 1.2 * budget.amount.value
    ]
    if overrun:
        report.say(f"Overrun of more than 20% of the budget: {', '.join(overrun)}.")


def clock_seconds(run: dict[str, Any]) -> float:
    """Return what a run took of its budget.

    For this package's that is its own clock with validation; a stranger's is not taken at its word.
    """
    if "command" in run["settings"]:
        return run["wall_seconds"]
    return max([run["seconds"], *(point[1] for point in run["valid_curve"])])


def row_of(name: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a contender's row over its seeds; a dash stands for what is not known."""
    bits, spread = mean_and_spread(runs)

    def cell(key: str, average: Callable[[Sequence[float]], float]) -> str:
        values = [run[key] for run in runs if run[key] is not None]
        return f"{average(values):,.0f}" if values else "–"

    return [
        name,
        f"{bits:.4f} ± {'–' if spread is None else f'{spread:.4f}'}",
        str(len(runs)),
        cell("tokens_per_second", statistics.median),
        cell("tokens_seen", statistics.mean),
        cell("parameters", max),
    ]


def mean_and_spread(runs: Sequence[dict[str, Any]]) -> tuple[float, float | None]:
    """Return mean and standard deviation of the score over seeds; None for the spread of one."""
    bits = [run["bits_per_byte"] for run in runs]
    return statistics.mean(bits), statistics.stdev(bits) if len(bits) > 1 else None


def describe_contenders(plans: Sequence[Plan]) -> str:
    """Return a list of what each contender is, a line for each way it is called."""
    lines = []
    for plan in plans:
        if isinstance(plan.contender, Outside):
            line = f"- {plan.name}: `{shlex.join(plan.contender.words)}`, scored by itself"
        else:
            about = f", {plan.contender.about}" if plan.contender.about else ""
            arguments = shlex.join(plan.contender.arguments(plan.budget))
            line = f"- {plan.name}{about}: `sharnn train {arguments}`"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def describe_origin(shown: Shown) -> str:
    """Return when and with what the runs shown were measured, for they may be of several commands."""
    runs = list(_all_runs(shown))
    days = sorted({run["date"][:10] for run in runs})
    versions = sorted({run["torch"] for run in runs})
    threads, device = runs[0]["threads"], runs[0]["device"]
    return (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}, torch {', '.join(versions)}, "
        f"{device}, {threads} {'thread' if threads == 1 else 'threads'} a run. Mean ± standard "
        "deviation over n seeds; tokens/s is the median over steps and seeds. Of each run the model that "
        "did best on the beginning of the valid split while training is scored on all of it."
    )


def _all_runs(shown: Shown) -> Iterator[dict[str, Any]]:
    for of_budget in shown.values():
        for runs in of_budget.values():
            yield from runs


# ----------------------------------------------------------------------------------- the picture

_TOKENS, _SECONDS, _BITS = 0, 1, 2


def draw(shown: Shown, title: str) -> Figure:
    """Return curves and scores against seconds, or against tokens where budgets are not in time."""
    x = _SECONDS if next(iter(shown)).timed else _TOKENS
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for of_budget in shown.values() for name in of_budget))
    for index, name in enumerate(names):
        by_budget = [of_budget[name] for of_budget in shown.values() if name in of_budget]
        _draw_contender(axes, name, by_budget, x, f"C{index % 10}")
    _frame(axes, list(_all_runs(shown)), x)
    _dress(axes, title, x)
    figure.legend(handles=_legend(axes), frameon=False, fontsize=9, loc="outside right upper")
    return figure


def _draw_contender(
    axes: Axes, name: str, by_budget: Sequence[Sequence[dict[str, Any]]], x: int, colour: str
) -> None:
    for run in (run for runs in by_budget for run in runs):
        train, valid = run["train_curve"], run["valid_curve"]
        axes.plot(*_columns(train, x), color=colour, linewidth=0.7, linestyle="--", alpha=0.3)
        axes.plot(*_columns(valid, x), color=colour, linewidth=0.9, alpha=0.55)
    ends = [statistics.mean(_end(run, x) for run in runs) for runs in by_budget]
    scores = [mean_and_spread(runs) for runs in by_budget]
    axes.errorbar(
        ends, [mean for mean, _ in scores], [spread or math.nan for _, spread in scores],
        color=colour, marker="o", markersize=6, markeredgecolor="white", linewidth=2.0,
        elinewidth=1.5, capsize=4, label=name, zorder=5,
    )  # fmt: skip


def _columns(curve: Sequence[Sequence[float]], x: int) -> tuple[list[float], list[float]]:
    return [point[x] for point in curve], [point[_BITS] for point in curve]


def _end(run: dict[str, Any], x: int) -> float:
    return run["seconds"] if x == _SECONDS else run["tokens_seen"]


def _frame(axes: Axes, runs: Sequence[dict[str, Any]], x: int) -> None:
    """Show what tells contenders apart: all validations and scores, without the steep beginning."""
    points = [point for run in runs for point in run["valid_curve"]]
    ends = [_end(run, x) for run in runs]
    bits = [run["bits_per_byte"] for run in runs] + [point[_BITS] for point in points]
    low = min(bits + [point[_BITS] for run in runs for point in run["train_curve"]])
    margin = 0.06 * (max(bits) - low) + 0.01
    axes.set_ylim(low - margin, max(bits) + margin)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * min([point[x] for point in points] + ends), 1.15 * max(ends))


def _dress(axes: Axes, title: str, x: int) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("seconds of training" if x == _SECONDS else "tokens of training")
    axes.set_ylabel("bits per byte")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    seconds = FuncFormatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_major_formatter(seconds if x == _SECONDS else EngFormatter(sep=""))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> list[Any]:
    """Return the contenders, and what each kind of line is; it stands beside the curves, not on them."""
    handles, _ = axes.get_legend_handles_labels()
    return [
        *handles,
        Line2D([], [], color="0.35", linewidth=2, marker="o", label="valid, strict: mean ± sd"),
        Line2D([], [], color="0.35", linewidth=0.9, label="valid, while training"),
        Line2D([], [], color="0.35", linewidth=0.7, linestyle="--", label="training, smoothed"),
    ]


# --------------------------------------------------------------------------------- command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked.

    Raises:
        ConfigError: Some do not go together.
    """
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument(
        "text", nargs="?", default="python-stdlib", metavar="TEXT",
        help="known corpus, or a file that is cut 90/5/5 (default python-stdlib)",
    )  # fmt: skip
    parser.add_argument("--budget", nargs="+", required=True, help="such as 90s 10m, or 1Mtokens")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="built-in ones")
    parser.add_argument(
        "--contender", action="append", default=[], metavar="NAME='RECIPE OPTIONS'",
        help="another one: a recipe and options of 'sharnn train'",
    )  # fmt: skip
    parser.add_argument(
        "--outside", action="append", default=[], metavar="NAME='COMMAND LINE'",
        help="a trainer from elsewhere, see above",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side, not with time budgets"
    )
    parser.add_argument(
        "--threads", type=int, help="of each run (default: all, shared by the jobs)"
    )
    parser.add_argument(
        "--again", action="store_true", help="run what the results hold already, too"
    )
    parser.add_argument("--keep", type=Path, help="folder that run folders and logs are left in")
    options = parser.parse_args(argv)
    options.budgets = [parse_budget(text) for text in dict.fromkeys(options.budget)]
    check(options)
    return options


def parse_budget(text: str) -> Budget:
    """Return the budget that a text names.

    Raises:
        ConfigError: It names none.
    """
    amount = Amount.parse(text, "--budget", share=False)
    if amount.value <= 0:
        raise ConfigError(f"--budget is '{text}': it must be more than nothing")
    return Budget(text, amount)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be compared, and what would do nothing.

    Raises:
        ConfigError: Says what to change.
    """
    timed = {budget.timed for budget in options.budgets}
    if len(timed) > 1:
        raise ConfigError("--budget mixes time with tokens or steps: compare one of them at a time")
    if options.jobs > 1 and timed == {True}:
        raise ConfigError(
            f"--jobs is {options.jobs} and the budget is in time: runs side by side would take it from "
            "each other, leave --jobs out or give a budget in tokens or steps"
        )
    if options.outside and timed == {False}:
        raise ConfigError("--outside is for budgets in time: others have no common unit with it")
    if options.text == "-":
        raise ConfigError("TEXT is read again by every run, so it cannot be -: give a file")
    for name in ("jobs", "seeds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: it must be at least 1")
    if options.first_seed < 0:
        raise ConfigError(f"--first-seed is {options.first_seed}: it must be 0 or more")


def chosen(options: argparse.Namespace) -> dict[str, Contender | Outside]:
    """Return who takes part, by name.

    Raises:
        ConfigError: One is not given as it should be, or has another's name.
    """
    others = options.contender or options.outside
    names = options.contenders or ([] if others else list(CONTENDERS))
    contenders: dict[str, Contender | Outside] = {name: CONTENDERS[name] for name in names}
    for option, texts in (("--contender", options.contender), ("--outside", options.outside)):
        for text in texts:
            name, equals, line = text.partition("=")
            words = _words(option, line)
            if not (name and equals and words):
                raise ConfigError(f"{option} is '{text}': give NAME='…'")
            if name in contenders:
                raise ConfigError(f"{option}: there is a contender '{name}' already, rename one")
            own = option == "--contender"
            contenders[name] = _contender(name, words) if own else Outside(tuple(words))
    return contenders


def _words(option: str, line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as failure:
        raise ConfigError(
            f"{option} has '{line}', which is no command line: {failure}"
        ) from failure


def _contender(name: str, words: Sequence[str]) -> Contender:
    recipe, *overrides = words
    if recipe.startswith("-"):
        raise ConfigError(f"contender {name} begins with {recipe}: a recipe's name comes first")
    for word in overrides:
        if word.split("=", 1)[0] in _DECIDED:
            raise ConfigError(f"contender {name} has {word}: the comparison decides that for all")
    return Contender(recipe, shlex.join(overrides))


def environment_for(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of runs, and let this process's scoring use no more threads than they.

    Where nothing is asked for it is this process's own, so that what is measured is what a user gets.
    """
    share = max(torch.get_num_threads() // options.jobs, 1)
    options.used_threads = options.threads or share
    if options.threads is None and options.jobs == 1:
        return dict(os.environ)
    torch.set_num_threads(options.used_threads)
    threads = str(options.used_threads)
    return {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def compare(options: argparse.Namespace) -> None:
    """Run what has not run yet, and show it all.

    Raises:
        SharnnError: A call that cannot be meant, or a run that failed.
    """
    contenders, device = chosen(options), resolve_device(options.device)
    report = Comparison("Time to quality", device, options.results)
    store = Store(options.results / f"{report.stem}.json", report.machine)
    environment = environment_for(options)  # after the report, which counts the machine's cores
    corpus = prepare([options.text])
    if corpus.split("valid").num_tokens < 2:
        raise DataError(f"{options.text} is too short: its valid split has nothing to score")
    plans = make_plans(contenders, corpus, options)
    todo = [plan for plan in plans if options.again or store.find(plan) is None]
    console = Console(stderr=True, soft_wrap=True)
    if len(todo) < len(plans):
        held = f"{len(plans) - len(todo)} of {len(plans)} runs are in {store.path} already"
        console.print(held, highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="time-to-quality-") as temporary:
        folder = options.keep or Path(temporary)
        workshop = Workshop(
            corpus, options.text, options.device, environment, folder, options.keep is not None
        )
        try:
            run_all(todo, options.jobs, workshop, store, console)
        finally:
            if store.added or not todo:  # a call that came to nothing leaves the table as it was
                publish(report, plans, store)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 for a failure, 2 for a wrong call, 130 for Ctrl-C."""
    try:
        compare(parse(argv))
        return 0
    except KeyboardInterrupt:
        print("time_to_quality: stopped; the same command goes on", file=sys.stderr)
        return 130
    except SharnnError as failure:
        print(f"time_to_quality: error: {failure}", file=sys.stderr)
        return failure.exit_code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
