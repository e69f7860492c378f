"""Time to quality: bits per byte of contenders that train equally long on the same text.

    python benchmarks/time_to_quality.py --budget 90s 600s --seeds 3
    python benchmarks/time_to_quality.py my.txt --budget 90s --contenders sha-rnn transformer
    python benchmarks/time_to_quality.py --budget 1Mtokens --jobs 2 --threads 1 \\
        --contender low='demo --optim.lr 0.003' --contender high='demo --optim.lr 0.01'

Every run is a `sharnn train` in a process of its own, as a user would start it. Its best model is then
scored on the whole valid split (protocol `strict`, docs/evaluation_protocol.md). Contenders run in turn,
so that noise of the machine affects all of them alike. With budgets in time there is one run at a time;
with budgets in tokens or steps, runs can be parallel (--jobs).

The results are a table for each budget (.md), a picture (.png) and all figures (.json). The JSON file is
written after every run. A run that is in it (with the same settings, budget, seed, threads, device and
text) is not repeated without --again, so a long comparison can be divided into several commands, or
stopped and continued. The version of the package's code is not compared. Table and picture show the
contenders, budgets and seeds of the last command. Without --contenders, all built-in contenders run; with
--contender alone, none of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench import STDLIB, Report, make_parser, own_command
from sharnn.data.prepare import prepare
from sharnn.errors import INTERRUPTED, DataError, SharnnError
from sharnn.experiments.comparison.contenders import Budget, Contender, named_contenders
from sharnn.experiments.comparison.processes import interrupted_by_kill
from sharnn.experiments.comparison.run_store import Run, Shown, Store, all_runs
from sharnn.experiments.comparison.scheduler import Terms, run_comparison
from sharnn.experiments.comparison.summary import (
    measured_when,
    number_cell,
    picture_of,
    score_cell,
    text_of,
)
from sharnn.report import draw_comparison, write_png
from sharnn.train import resolve_device

# The best settings that were tried (EXPERIMENTS.md): small for short budgets, as it needs many tokens.
_TRANSFORMER = {
    "model.architecture": "transformer", "model.embed_dim": 128, "model.num_layers": 2,
    "model.window": 128, "data.num_lanes": 16, "data.segment_length": 128, "optim.lr": 0.01,
}  # fmt: skip
_LONG_TRANSFORMER = {
    "model.embed_dim": 192, "model.num_layers": 4, "model.window": 256, "data.segment_length": 256,
    "optim.lr": 0.003,
}  # fmt: skip
_LOOK_UPS = {"model.longest_ngram": 6, "model.recall_orders": [1, 2, 3, 4, 5, 6, 8, 12]}
CONTENDERS = {
    "sha-rnn": Contender(
        recipe="demo",
        long_recipe="desktop",
        about="the package's recipe, unchanged",
    ),
    "paper": Contender(
        recipe="paper-enwik8-one",
        given={
            "model.embed_dim": 256, "model.boom_dim": 1024, "model.window": 512,
            "data.num_lanes": 16, "data.segment_length": 128, "optim.warmup": "5%",
            "train.validate_every": "20%", "train.validation_tokens": 32768,
        },
        about="the paper's blocks and optimiser (LAMB with a minimum trust), smaller",
    ),
    "lstm": Contender(
        recipe="demo",
        long_recipe="desktop",
        given={"model.architecture": "lstm", "model.residual": True, "model.forget_bias": 1.0},
        about="LSTM layers alone, trained as sha-rnn",
    ),
    "transformer": Contender(
        recipe="demo",
        long_recipe="desktop",
        given=_TRANSFORMER,
        long_given=_LONG_TRANSFORMER,
        about="pre-norm Transformer with rotary positions and a sliding memory",
    ),
    "transformer-recall": Contender(
        recipe="demo",
        long_recipe="desktop",
        given={**_TRANSFORMER, **_LOOK_UPS},
        long_given=_LONG_TRANSFORMER,
        about="the same with sha-rnn's n-grams and recall",
    ),
}  # fmt: skip


class Comparison(Report):
    """A report in a file of its own for this benchmark."""

    @property
    def stem(self) -> str:
        """Name of the files, without suffix."""
        return f"{super().stem}-time-to-quality"


def publish(report: Comparison, contenders: Mapping[str, Contender], shown: Shown) -> None:
    """Write the tables and the picture."""
    for budget, runs in shown.items():
        add_table(report, budget, runs)
    report.say(describe_contenders(contenders, list(shown)))
    report.say(describe_origin(shown))
    picture = report.folder / f"{report.stem}.png"
    report.say(f"![Bits per byte against the budget]({picture.name})")
    by_name, axis = picture_of(shown)
    write_png(draw_comparison(by_name, f"{text_of(shown)} on {report.machine}", axis), picture)
    report.save()


def add_table(report: Comparison, budget: Budget, runs: dict[str, list[Run]]) -> None:
    """Add the table of a budget, and the contenders that overran it."""
    first = next(iter(runs.values()))[0]
    share = first.get("score_share", 1)
    scored = "all" if share == 1 else f"the first {share:.3g} of the"
    report.table(
        f"{budget.text} of training on {first['text']}: {first['train_bytes']:,} bytes to train on, "
        f"{scored} {first['valid_bytes']:,} of the valid split scored",
        ["contender", "bits per byte (strict)", "n", "tokens/s", "tokens seen", "parameters"],
        [row_of(name, of_contender) for name, of_contender in runs.items()],
    )
    overrun = [
        f"{name} took {most:,.1f} seconds"
        for name, of_contender in runs.items()
        if budget.timed
        and (most := max(run["wall_seconds"] for run in of_contender)) > 1.2 * budget.amount.value
    ]
    if overrun:
        report.say(f"Overrun of more than 20% of the budget: {', '.join(overrun)}.")


def row_of(name: str, runs: Sequence[Run]) -> list[str]:
    """Return the row of a contender over its seeds."""
    return [
        name,
        score_cell(runs),
        str(len(runs)),
        number_cell(runs, "tokens_per_second", statistics.median),
        number_cell(runs, "tokens_seen"),
        number_cell(runs, "parameters", max),
    ]


def describe_contenders(contenders: Mapping[str, Contender], budgets: Sequence[Budget]) -> str:
    """Return a list that describes each contender, with a line for each command."""
    lines = (
        f"- {name}{f', {contender.about}' if contender.about else ''}: `{contender.as_typed(budget)}`"
        for budget in budgets
        for name, contender in contenders.items()
    )
    return "\n".join(dict.fromkeys(lines))


def describe_origin(shown: Shown) -> str:
    """Return when, with what and how the runs were measured."""
    return (
        f"{measured_when(list(all_runs(shown)))} Mean ± standard "
        "deviation over n seeds; tokens/s is the median over steps and seeds. The scored model of a run "
        "is the one that was best on the beginning of the valid split during training."
    )


# --------------------------------------------------------------------------------- command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument(
        "text", nargs="?", default=STDLIB, metavar="TEXT",
        help=f"known corpus, or a file that is cut 90/5/5 (default {STDLIB})",
    )  # fmt: skip
    parser.add_argument("--budget", nargs="+", required=True, help="such as 90s 10m, or 1Mtokens")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="the lowest seed (default 0)")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="built-in ones")
    parser.add_argument(
        "--contender", action="append", default=[], metavar="NAME='RECIPE OPTIONS'",
        help="another contender: a recipe and options of 'sharnn train'",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs in parallel, not with budgets in time (default 1)"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of each run (default: all, divided by the jobs)"
    )
    parser.add_argument("--again", action="store_true", help="repeat runs that the results have")
    parser.add_argument(
        "--score-share", type=float, default=1.0,
        help="share of the valid split that is scored, from its beginning (default 1)",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, help="folder that keeps run folders and logs")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> dict[str, Contender]:
    """Return the contenders by name.

    Raises:
        ConfigError: One is not given as it should be, or has another's name.
    """
    built_in = options.contenders or ([] if options.contender else list(CONTENDERS))
    return named_contenders([*built_in, *options.contender], CONTENDERS)


def compare(options: argparse.Namespace) -> None:
    """Run what is not in the results, and show all runs.

    Raises:
        SharnnError: A wrong call, or a run failed.
    """
    contenders = chosen(options)
    with tempfile.TemporaryDirectory(prefix="time-to-quality-") as temporary:
        terms = Terms(
            text=options.text,
            budgets=[Budget.parse(text) for text in dict.fromkeys(options.budget)],
            seeds=range(options.first_seed, options.first_seed + options.seeds),
            command=own_command(), folder=options.keep or Path(temporary),
            keep=options.keep is not None, jobs=options.jobs, threads=options.threads,
            device=options.device, again=options.again, share=options.score_share,
        )  # fmt: skip
        # Before `run_comparison`, which may lower the number of threads that the report names.
        report = Comparison("Time to quality", resolve_device(options.device), options.results)
        store = Store(options.results / f"{report.stem}.json", {"machine": report.machine})
        corpus = prepare([options.text])
        if corpus.split("valid").num_tokens < 2:
            raise DataError(f"{options.text} is too short: its valid split has nothing to score")
        conditions = {"score_share": terms.share} if terms.share < 1 else {}
        run_comparison(
            terms, contenders, corpus, conditions, store, Console(stderr=True, soft_wrap=True),
            lambda plans: publish(report, contenders, store.shown(plans)),
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 for a failure, 2 for a wrong call, 130 for Ctrl-C."""
    try:
        with interrupted_by_kill():
            compare(parse(argv))
        return 0
    except KeyboardInterrupt:
        print("time_to_quality: stopped; the same command resumes", file=sys.stderr)
        return INTERRUPTED
    except SharnnError as failure:
        print(f"time_to_quality: error: {failure}", file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
