"""Which heads learn to recall, after how many steps, and how far back: on synthetic pairs of digits.

    python benchmarks/recall_task.py
    python benchmarks/recall_task.py --arms next paper --segments 64 --seeds 1 --steps 1000
    python benchmarks/recall_task.py --reach 5000 20000
    python benchmarks/recall_task.py --name parts --arms 'next' 'next, plain start'
    python benchmarks/recall_task.py --name easy --pairs 12 --key-digits 1 --value-digits 1 --longest 200

Keys and values are hexadecimal digits, so chance is 4 bits per digit. Models have no look-ups, except the
arm `none, look-up`. `next` is a head that reads the row after each row that it matches
(`model.reads_next`), `rows` a head that reads the matched rows themselves, both in residual blocks;
`paper` has the paper's blocks. All are trained with the same optimiser (--optim) and learning rate, on
one thread each. Arms with another initialisation (such as `next, plain start`) show which part of `next`
has the effect. With --reach, `next` is trained once and then reads texts with longer windows, in which
every value is slightly nearer than the window, or slightly further back.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from bench import Report, make_parser
from sharnn.config import ModelConfig, OptimConfig
from sharnn.data.recall_task import RecallTask
from sharnn.experiments.recall import RecallPlan, RecallScore, score_recall, train_on_recall
from sharnn.files import atomic_file
from sharnn.model import LanguageModel
from sharnn.model.attention import SingleHeadAttention
from sharnn.recipe import load_recipe_settings
from sharnn.report import write_png
from sharnn.report.tables import mean_cell

_NAME = "task"
#: Length of segments, arm and seed.
Key = tuple[int, str, int]
_OURS = {"residual": True, "forget_bias": 1.0, "overparam_value_gate": False}
_NONE = {"attention_layers": "none"}
#: Settings of the models, besides width, depth and window.
ARMS: dict[str, dict[str, Any]] = {
    "next": {**_OURS, "reads_next": True},
    "next, all": {**_OURS, "reads_next": True, "attention_layers": "all"},
    "next, window 32": {**_OURS, "reads_next": True, "window": 32},
    "rows": _OURS,
    "rows, all": {**_OURS, "attention_layers": "all"},
    "none": {"residual": True, "forget_bias": 1.0, **_NONE},
    "none, look-up": {"residual": True, "forget_bias": 1.0, **_NONE, "recall_orders": [5]},
    "paper": {},
    "paper, all": {"attention_layers": "all"},
    "paper, none": _NONE,
    "lstm": {"architecture": "lstm", "residual": True, "forget_bias": 1.0, "window": None},
    "transformer": {"architecture": "transformer"},
}


@torch.no_grad()
def plain_query(model: LanguageModel) -> None:
    """Initialise the query as other matrices are."""
    for head in heads(model):
        head.query.weight.normal_(0, 1 / math.sqrt(len(head.query.weight)))


@torch.no_grad()
def half_open_gates(model: LanguageModel) -> None:
    """Initialise the gates of query and keys as in the paper, at σ(0)."""
    for head in heads(model):
        head.query_gate.zero_()
        head.key_gate.zero_()


def plain_start(model: LanguageModel) -> None:
    """Initialise the head as one that reads rows."""
    plain_query(model)
    half_open_gates(model)


def match_likeness(model: LanguageModel) -> None:
    """Initialise a head that reads rows as one that reads the next rows."""
    for head in heads(model):
        head.match_likeness()


def heads(model: LanguageModel) -> list[SingleHeadAttention]:
    """Return all heads."""
    return [module for module in model.modules() if isinstance(module, SingleHeadAttention)]


#: Arms with another initialisation: the arm whose settings they have, and the function that alters the
#: initial weights.
ALTERED: dict[str, tuple[str, Callable[[LanguageModel], None]]] = {
    "next, plain query": ("next", plain_query),
    "next, half-open gates": ("next", half_open_gates),
    "next, plain start": ("next", plain_start),
    "rows, likeness": ("rows", match_likeness),
}
#: Bytes of a line that stores a pair; a line that queries one has a byte more.
_BYTES_PER_LINE = 10
#: Share of the window by which a value is nearer or further.
_MARGIN = 0.05


def plan_of(options: argparse.Namespace, arm: str, segment_length: int, seed: int) -> RecallPlan:
    """Return the plan of one run."""
    sizes = {
        "embed_dim": options.embed_dim,
        "num_layers": options.layers,
        "window": options.window,
    }
    settings = ARMS[ALTERED[arm][0] if arm in ALTERED else arm]
    optim = OptimConfig(**load_recipe_settings("demo")["optim"])
    matrix_lr = options.lr if options.optim == "muon" else None
    return RecallPlan(
        ModelConfig(**{**sizes, **settings}),
        replace(optim, name=options.optim, lr=options.lr, matrix_lr=matrix_lr),
        RecallTask(
            options.pairs, options.key_digits, options.value_digits, longest=options.longest
        ),
        options.lanes,
        segment_length,
        options.steps * options.lanes_tokens // (options.lanes * segment_length),
        options.score_every * options.lanes_tokens // (options.lanes * segment_length),
        options.window,
        seed,
    )


def run(key: Key, plan: RecallPlan) -> list[RecallScore]:
    """Train a model and return its scores."""
    _, alter = ALTERED.get(key[1], (None, None))
    return [score for _, score in train_on_recall(plan, alter)]


def run_all(plans: Mapping[Key, RecallPlan], jobs: int) -> dict[Key, list[RecallScore]]:
    """Run all plans, `jobs` in parallel with one thread each; print a line for each finished run."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        runs = {}
        found = pool.map(run, plans, plans.values())
        for key, scores in zip(plans, found, strict=True):
            runs[key] = scores
            print(f"{len(runs)} of {len(plans)} done: {key}, {scores[-1]}", file=sys.stderr)
    return runs


def measured(found: list[float]) -> str:
    """Return mean and standard deviation; a dash if there were no queries."""
    return "-" if any(map(math.isnan, found)) else mean_cell(found, 2)


def first_below(scores: list[RecallScore], bits: float) -> int | None:
    """Return the tokens after which digits beyond the segment first cost less than `bits`."""
    return next((score.tokens for score in scores if score.beyond < bits), None)


def compare(options: argparse.Namespace, report: Report) -> None:
    """Train all arms, and write a table for each segment length and the curves."""
    plans = {
        (length, arm, seed): plan_of(options, arm, length, seed)
        for length in options.segments
        for arm in options.arms
        for seed in range(options.seeds)
    }
    runs = run_all(plans, options.jobs)
    for length in options.segments:
        rows = []
        for arm in options.arms:
            of_seeds = [runs[length, arm, seed] for seed in range(options.seeds)]
            last = [scores[-1] for scores in of_seeds]
            below = [first_below(scores, 0.5) for scores in of_seeds]
            rows.append([
                arm,
                *(measured([getattr(score, name) for score in last])
                  for name in ("inside", "beyond", "outside")),
                ", ".join("never" if tokens is None else f"{tokens:,}" for tokens in below),
            ])  # fmt: skip
        columns = ["", "within a segment", "beyond it", "out of the window", "below 0.5 after"]
        title = (
            f"Bits of a queried digit, segments of {length}, after "
            f"{options.steps * options.lanes_tokens:,} tokens, {options.seeds} seeds; and the tokens "
            "of each seed until digits beyond the segment cost less than 0.5"
        )
        report.table(title, columns, rows)
    path = report.folder / f"{report.stem}-recall-{options.name}"
    kept = [
        {"segment": length, "arm": arm, "seed": seed, "scores": [asdict(s) for s in scores]}
        for (length, arm, seed), scores in runs.items()
    ]
    with atomic_file(path.with_suffix(".json")) as file:
        file.write(json.dumps(kept, indent=1).encode())
    draw(runs, options, path.with_suffix(".png"))
    report.say(f"![Bits of an asked digit beyond the segment]({path.name}.png)")


def draw(runs: Mapping[Key, list[RecallScore]], options: argparse.Namespace, path: Path) -> None:
    """Draw the bits of digits beyond the segment against tokens, a line for each run."""
    figure = Figure(figsize=(5.5 * len(options.segments), 4), dpi=110, layout="tight")
    axes = figure.subplots(1, len(options.segments), squeeze=False)
    for axis, length in zip(axes[0], options.segments, strict=True):
        for index, arm in enumerate(options.arms):
            for seed in range(options.seeds):
                scores = runs[length, arm, seed]
                axis.plot(
                    [score.tokens for score in scores], [score.beyond for score in scores],
                    color=f"C{index % 10}", linestyle="-" if index < 10 else "--",
                    label=arm if seed == 0 else None,
                )  # fmt: skip
        axis.axhline(4, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=f"segments of {length}", xlabel="tokens", ylim=(0, 5.2))
    axes[0][0].set_ylabel("bits of a digit asked beyond the segment")
    axes[0][-1].legend(fontsize=7)
    write_png(figure, path)


def reach(options: argparse.Namespace, report: Report) -> None:
    """Train `next` once, and score it with longer windows, within the window and beyond it."""
    plan = plan_of(options, "next", options.segments[-1], 0)
    model, last = list(train_on_recall(plan))[-1]
    report.say(
        f"Trained with a window of {options.window:,}: {last.beyond:.2f} bits beyond the segment."
    )
    rows = []
    for window in options.reach:
        model.set_window(window)
        cells = [f"{window:,}"]
        for distance in (round(window * (1 - _MARGIN)), round(window * (1 + _MARGIN))):
            # After two rounds over this many pairs, some value is always at that distance.
            task = replace(
                plan.task, pairs=distance // _BYTES_PER_LINE,
                shortest=distance, longest=distance, store_share=0.5,
            )  # fmt: skip
            found = score_recall(model, task, plan.segment_length, window, skipped=2 * distance)
            cells.append(measured([found[1 if distance < window else 2]]))
        rows.append(cells)
    columns = ["window", f"{_MARGIN:.0%} less than the window back", f"{_MARGIN:.0%} more"]
    report.table("Bits of a queried digit at that distance", columns, rows)


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument(
        "--arms", nargs="+", choices=[*ARMS, *ALTERED], default=list(ARMS), metavar="ARM"
    )
    parser.add_argument("--segments", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--embed-dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=300, help="steps of --lanes-tokens tokens")
    parser.add_argument("--score-every", type=int, default=30, help="steps between two scores")
    parser.add_argument("--lanes-tokens", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each")
    parser.add_argument("--optim", choices=["muon", "adamw"], default="muon")
    task = RecallTask()
    parser.add_argument(
        "--pairs", type=int, default=task.pairs, help="pairs that are stored at a time"
    )
    parser.add_argument("--key-digits", type=int, default=task.key_digits)
    parser.add_argument("--value-digits", type=int, default=task.value_digits)
    parser.add_argument(
        "--longest", type=int, default=task.longest, help="longest distance in bytes"
    )
    parser.add_argument("--name", default=_NAME, help="name of the section and of the result files")
    parser.add_argument(
        "--reach", type=int, nargs="+", help="longer windows, instead of a comparison of arms"
    )
    options = parser.parse_args()
    named = "" if options.name == _NAME else f": {options.name}"
    title = "Recalling over longer windows" if options.reach else f"Learning to recall{named}"
    report = Report(title, torch.device("cpu"), options.results)
    (reach if options.reach else compare)(options, report)
    report.save()


if __name__ == "__main__":
    main()
