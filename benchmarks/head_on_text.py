"""Gain of a head on real text over a long training: parallel runs, scored while they train.

    python scripts/documentation_text.py unpacked docs.txt
    python benchmarks/head_on_text.py docs.txt --runs runs/head --budget 60Mtokens
    python benchmarks/head_on_text.py docs.txt --runs runs/head --arms none rows --seeds 0 1

Every run trains on one thread with the recipe `one-head`, except for its heads: residual connections, D
128 × 4, window 1,024, 32 lanes × 128 tokens, Muon at 0.003, no n-grams, no recall. Each checkpoint of a
run is scored on 16 parts of the valid split: bits of all bytes; bits of the bytes whose eight previous
bytes last occurred 129 to 1,024 bytes back, which only a memory can predict; and `right_share`, the share
of the head's weight on earlier rows that lies on rows followed by the correct next token
(docs/attention.md). The last point of a run is its best model, with averaged weights. After Ctrl-C the
same command resumes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bench import Report, make_parser
from recurring_text import Bands, bits
from sharnn.checkpoint import LoadedModel, RunFolder, is_checkpoint, load_model, read_counters
from sharnn.data.prepare import prepare
from sharnn.errors import INTERRUPTED, CheckpointError
from sharnn.evaluate import read_attention
from sharnn.experiments.comparison.contenders import Budget, Contender
from sharnn.experiments.comparison.processes import Processes, StoppedError, interrupted_by_kill
from sharnn.files import atomic_file
from sharnn.report import write_png
from sharnn.report.tables import mean_cell
from sharnn.train.worker import resume_command, start_command

RECIPE = "one-head"
#: Settings of each arm that differ from the recipe.
ARMS: dict[str, dict[str, Any]] = {
    "none": {"model.attention_layers": "none", "model.reads_next": False},
    "rows": {"model.reads_next": False},
    "rows, all": {"model.reads_next": False, "model.attention_layers": "all"},
    "next": {},
    "next, all": {"model.attention_layers": "all"},
}
#: Number of parts of the valid split that are scored, each from an empty memory, and number of these (the
#: first ones) that give `right_share`.
_PARTS, _ATTENTION_PARTS = 16, 2
_POLL_SECONDS = 10.0
#: Arm and seed.
Key = tuple[str, int]


@dataclass(frozen=True)
class Point:
    """The scores of a run at one point of its training.

    Attributes:
        tokens: Number of tokens read so far.
        bits: Bits per byte in each band of distances; the band `all` has all bytes.
        right_share: Share of the head's weight on right rows, mean over heads; None without a head.
    """

    tokens: int
    bits: dict[str, float]
    right_share: float | None


class Judge:
    """Scores models on parts of a text."""

    def __init__(self, text: bytes, num_bytes: int) -> None:
        starts = np.linspace(0, len(text) - num_bytes, _PARTS).astype(int)
        self.parts = [text[start : start + num_bytes] for start in starts]
        self.bands = Bands.of(self.parts)

    def judge(self, loaded: LoadedModel, tokens: int) -> Point:
        """Score a model on the parts."""
        found = bits(loaded.model, self.parts, loaded.tokenizer.start_token)
        return Point(tokens, self.bands.means(found), self._right_share(loaded))

    def _right_share(self, loaded: LoadedModel) -> float | None:
        if not loaded.model.config.attention_layers:
            return None
        text = b"".join(self.parts[:_ATTENTION_PARTS])
        reading = read_attention(loaded.model, loaded.tokenizer, loaded.tokenizer.encode(text))
        shares = [head.sums.right_share for head in reading.heads]
        return statistics.mean(share for share in shares if share is not None)


class Watched:
    """A run in a folder of its own, with its points so far."""

    def __init__(
        self, folder: Path, text: str, arm: str, seed: int, budget: str, every: str
    ) -> None:
        self.run = folder / f"{arm.replace(', ', '-')}-seed{seed}"
        self._file = self.run.with_suffix(".json")
        contender = Contender(RECIPE, {**ARMS[arm], "train.checkpoint_every": every})
        self._recipe = contender.resolve(arm, Budget.parse(budget), texts=[text], seed=seed)
        kept = json.loads(self._file.read_text()) if self._file.exists() else []
        self.points = [Point(**point) for point in kept]

    def train(self, processes: Processes) -> None:
        """Start or resume the training, and wait for its end."""
        if RunFolder(self.run).exists():
            command = resume_command(self.run)
        else:
            recipe = self.run.with_suffix(".yaml")
            with atomic_file(recipe) as file:
                file.write(self._recipe.to_yaml().encode())
            command = start_command(recipe, self.run)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes.run(command, self.run.with_suffix(".log"), environment)

    def look(self, judge: Judge) -> None:
        """Add a point if the run has saved a checkpoint since the last one."""
        last = RunFolder(self.run).last
        if not is_checkpoint(last):
            return
        try:
            tokens = int(read_counters(last.resolve())["tokens_seen"])
            if not self.points or tokens > self.points[-1].tokens:
                self._take(judge.judge(load_model(last.resolve()), tokens))
        except (CheckpointError, FileNotFoundError):
            return  # it was replaced meanwhile; the next look finds the new one

    def end(self, judge: Judge) -> None:
        """Replace the last point by that of the best model, which has averaged weights."""
        best = judge.judge(load_model(self.run), self.points[-1].tokens)
        self.points.pop()
        self._take(best)

    def _take(self, point: Point) -> None:
        self.points.append(point)
        print(f"{self.run.name}: {point}", file=sys.stderr, flush=True)
        with atomic_file(self._file) as file:
            file.write(json.dumps([asdict(p) for p in self.points], indent=1).encode())


def watch(runs: list[Watched], judge: Judge, jobs: int) -> None:
    """Train all runs, `jobs` at a time, and look at them in turn until they end."""
    processes = Processes()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run.train, processes): run for run in runs}
        try:
            while waiting:
                time.sleep(_POLL_SECONDS)
                for run in waiting.values():
                    run.look(judge)
                for future in [future for future in waiting if future.done()]:
                    finish(future, waiting.pop(future), judge)
        except BaseException:
            processes.stop()
            raise


def finish(future: Future[None], run: Watched, judge: Judge) -> None:
    """Add the last point of a run that has ended.

    Raises:
        TrainingError: The run failed.
    """
    future.result()
    run.look(judge)
    run.end(judge)


# ------------------------------------------------------------------------------------- results


def tell(runs: dict[Key, Watched], report: Report, budget: str) -> None:
    """Write the table, the picture and all points."""
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    points = {key: run.points for key, run in runs.items() if run.points}
    names = list(next(iter(points.values()))[-1].bits)
    rows = []
    for arm in arms:
        last = [of_run[-1] for (name, _), of_run in points.items() if name == arm]
        shares = [point.right_share for point in last if point.right_share is not None]
        rows.append([
            arm, str(len(last)), f"{statistics.mean(point.tokens for point in last):,.0f}",
            *(mean_cell([point.bits[name] for point in last], 4) for name in names),
            f"{statistics.mean(shares):.1%}" if shares else "-",
        ])  # fmt: skip
    title = (
        f"Bits per byte of the valid split, by how far back the last eight bytes occurred; {budget}"
    )
    report.table(title, ["arm", "seeds", "tokens", *names, "right share"], rows)
    path = report.folder / f"{report.stem}-head-on-text"
    kept = [
        {"arm": arm, "seed": seed, "points": [asdict(p) for p in of_run]}
        for (arm, seed), of_run in points.items()
    ]
    with atomic_file(path.with_suffix(".json")) as file:
        file.write(json.dumps(kept, indent=1).encode())
    draw(points, names, path.with_suffix(".png"))
    report.say(f"![Gain over none against tokens]({path.name}.png)")


def gains(points: dict[Key, list[Point]], name: str) -> dict[Key, tuple[list[int], list[float]]]:
    """Return tokens and gained bits: against the run of the same seed without a head, at equal tokens."""
    found = {}
    for (arm, seed), of_run in points.items():
        base = {point.tokens: point.bits[name] for point in points.get(("none", seed), [])}
        common = [point for point in of_run if point.tokens in base]
        if arm != "none" and common:
            gained = [base[point.tokens] - point.bits[name] for point in common]
            found[arm, seed] = ([point.tokens for point in common], gained)
    return found


def draw(points: dict[Key, list[Point]], names: list[str], path: Path) -> None:
    """Draw the gain against tokens: of all bytes, and of those that only a memory can predict."""
    figure = Figure(figsize=(11, 4), dpi=110, layout="tight")
    axes = figure.subplots(1, 2)
    colours = {arm: f"C{index}" for index, arm in enumerate(ARMS)}
    titles = {names[0]: "all bytes", names[2]: f"bytes whose last 8 bytes occurred {names[2]}"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for (arm, seed), (tokens, gained) in gains(points, name).items():
            label = arm if seed == min(s for a, s in points if a == arm) else None
            axis.plot(
                [t / 1e6 for t in tokens], gained, color=colours[arm], marker=".", label=label
            )
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel="million tokens read")
    axes[0].set_ylabel("bits per byte less than without a head")
    axes[0].legend()
    write_png(figure, path)


def main() -> int:
    """Train the runs and write the section."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=["none", "next"], metavar="ARM"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", default="60Mtokens")
    parser.add_argument("--every", default="2Mtokens", help="how often a run is saved and scored")
    parser.add_argument(
        "--part-bytes",
        type=int,
        default=16384,
        help=f"bytes that are scored of each of the {_PARTS} parts",
    )
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each")
    parser.add_argument(
        "--tell", action="store_true", help="write the results so far, without training"
    )
    options = parser.parse_args()
    report = Report("What a head gains on real text", torch.device("cpu"), options.results)
    torch.set_num_threads(1)  # after the report, which names the number of cores
    options.runs.mkdir(parents=True, exist_ok=True)
    runs = {
        (arm, seed): Watched(options.runs, options.text, arm, seed, options.budget, options.every)
        for seed in options.seeds
        for arm in options.arms
    }
    if not options.tell:
        valid = prepare([options.text]).split("valid").tokens.astype("uint8").tobytes()
        try:
            with interrupted_by_kill():
                watch(list(runs.values()), Judge(valid, options.part_bytes), options.jobs)
        except (KeyboardInterrupt, StoppedError):
            print("stopped: the same command resumes", file=sys.stderr)
            return INTERRUPTED
    tell(runs, report, options.budget)
    report.save()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
