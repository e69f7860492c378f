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
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import Report, make_parser, own_command
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError, SharnnError
from sharnn.experiments.contenders import (
    AnyContender,
    Budget,
    Contender,
    Outside,
    Plan,
    make_plans,
    named_words,
)
from sharnn.experiments.processes import interrupted_by_kill
from sharnn.experiments.store import Run, Shown, Store, all_runs
from sharnn.experiments.summary import (
    measured_when,
    number_cell,
    picture_of,
    score_cell,
    text_of,
)
from sharnn.experiments.turns import check_turns, missing_runs, run_all
from sharnn.experiments.workshop import Workshop, environment_for
from sharnn.report import draw_comparison, write_png
from sharnn.train import resolve_device

# The best of what was tried (EXPERIMENTS.md): small in little time, for it learns from many tokens.
_TRANSFORMER = (
    "--model.architecture transformer --model.embed_dim 128 --model.num_layers 2 --model.window 128 "
    "--data.num_lanes 16 --data.segment_length 128 --optim.lr 0.01"
)
_LONG_TRANSFORMER = (
    "--model.embed_dim 192 --model.num_layers 4 --model.window 256 --data.segment_length 256 "
    "--optim.lr 0.003"
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
        long_options=_LONG_TRANSFORMER,
        about="pre-norm Transformer with rotary positions and a sliding memory",
    ),
    "transformer-recall": Contender(
        recipe="demo",
        long_recipe="desktop",
        long_options=_LONG_TRANSFORMER,
        options=f"{_TRANSFORMER} --model.longest_ngram 6 --model.recall_orders [1,2,3,4,5,6,8,12]",
        about="the same with sha-rnn's n-grams and recall",
    ),
}


class Comparison(Report):
    """The machine's file of this benchmark alone."""

    @property
    def stem(self) -> str:
        """Name of the files, without their endings."""
        return f"{super().stem}-time-to-quality"


def publish(report: Comparison, plans: Sequence[Plan], store: Store) -> None:
    """Write tables and picture of those plans that have run."""
    shown = store.shown(plans)
    if not shown:
        return
    for budget, runs in shown.items():
        add_table(report, budget, runs)
    report.say(describe_contenders(plans))
    report.say(describe_origin(shown))
    picture = report.folder / f"{report.stem}.png"
    report.say(f"![Bits per byte against the budget]({picture.name})")
    by_name, axis = picture_of(shown)
    write_png(draw_comparison(by_name, f"{text_of(shown)} on {report.machine}", axis), picture)
    report.save()


def add_table(report: Comparison, budget: Budget, runs: dict[str, list[Run]]) -> None:
    """Add the table of a budget, and who has overrun it."""
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
        and (most := max(map(clock_seconds, of_contender))) > 1.2 * budget.amount.value
    ]
    if overrun:
        report.say(f"Overrun of more than 20% of the budget: {', '.join(overrun)}.")


def clock_seconds(run: Run) -> float:
    """Return what a run took of its budget.

    For this package's that is its own clock with validation; a stranger's is not taken at its word.
    """
    if "command" in run["settings"]:
        return run["wall_seconds"]
    return max([run["seconds"], *(point[1] for point in run["valid_curve"])])


def row_of(name: str, runs: Sequence[Run]) -> list[str]:
    """Return a contender's row over its seeds."""
    return [
        name,
        score_cell(runs),
        str(len(runs)),
        number_cell(runs, "tokens_per_second", statistics.median),
        number_cell(runs, "tokens_seen"),
        number_cell(runs, "parameters", max),
    ]


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
    """Return when and with what the runs shown were measured, and how."""
    return (
        f"{measured_when(list(all_runs(shown)))} Mean ± standard "
        "deviation over n seeds; tokens/s is the median over steps and seeds. Of each run the model that "
        "did best on the beginning of the valid split while training is scored on all of it."
    )


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
    parser.add_argument(
        "--score-share", type=float, default=1.0,
        help="share of the valid split that is scored, from its beginning (1)",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, help="folder that run folders and logs are left in")
    options = parser.parse_args(argv)
    options.budgets = [Budget.parse(text) for text in dict.fromkeys(options.budget)]
    check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be compared, and what would do nothing.

    Raises:
        ConfigError: Says what to change.
    """
    check_turns(options.budgets, options.jobs)
    if options.outside and not options.budgets[0].timed:
        raise ConfigError("--outside is for budgets in time: others have no common unit with it")
    if options.text == "-":
        raise ConfigError("TEXT is read again by every run, so it cannot be -: give a file")
    for name in ("jobs", "seeds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: it must be at least 1")
    if not 0 < options.score_share <= 1:
        raise ConfigError(
            f"--score-share is {options.score_share:g}: it must be above 0, at most 1"
        )
    if options.outside and options.score_share < 1:
        raise ConfigError("--score-share: what --outside scores is all of {valid}, leave it out")
    if options.first_seed < 0:
        raise ConfigError(f"--first-seed is {options.first_seed}: it must be 0 or more")


def chosen(options: argparse.Namespace) -> dict[str, AnyContender]:
    """Return who takes part, by name.

    Raises:
        ConfigError: One is not given as it should be, or has another's name.
    """
    others = options.contender or options.outside
    names = options.contenders or ([] if others else list(CONTENDERS))
    contenders: dict[str, AnyContender] = {name: CONTENDERS[name] for name in names}
    for option, texts in (("--contender", options.contender), ("--outside", options.outside)):
        for text in texts:
            name, words = named_words(option, text)
            if name in contenders:
                raise ConfigError(f"{option}: there is a contender '{name}' already, rename one")
            own = option == "--contender"
            contenders[name] = Contender.parse(name, words) if own else Outside(tuple(words))
    return contenders


def compare(options: argparse.Namespace) -> None:
    """Run what has not run yet, and show it all.

    Raises:
        SharnnError: A call that cannot be meant, or a run that failed.
    """
    contenders, device = chosen(options), resolve_device(options.device)
    report = Comparison("Time to quality", device, options.results)
    store = Store(options.results / f"{report.stem}.json", {"machine": report.machine})
    # After the report, which counts the machine's cores.
    environment, threads = environment_for(options.threads, options.jobs)
    corpus = prepare([options.text])
    if corpus.split("valid").num_tokens < 2:
        raise DataError(f"{options.text} is too short: its valid split has nothing to score")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    conditions = {"text_digest": corpus.digest, "threads": threads, "device": options.device}
    if options.score_share < 1:
        conditions["score_share"] = options.score_share
    plans = make_plans(contenders, options.budgets, seeds, options.text, conditions)
    console = Console(stderr=True, soft_wrap=True)
    todo = missing_runs(plans, store, console, options.again)
    with tempfile.TemporaryDirectory(prefix="time-to-quality-") as temporary:
        workshop = Workshop(
            corpus, options.text, options.device, environment,
            folder=options.keep or Path(temporary), keeps=options.keep is not None,
            command=own_command(), share=options.score_share,
        )  # fmt: skip
        try:
            run_all(todo, options.jobs, workshop, store, console)
        finally:
            if store.added or not todo:  # a call that came to nothing leaves the table as it was
                publish(report, plans, store)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 for a failure, 2 for a wrong call, 130 for Ctrl-C."""
    try:
        with interrupted_by_kill():
            compare(parse(argv))
        return 0
    except KeyboardInterrupt:
        print("time_to_quality: stopped; the same command goes on", file=sys.stderr)
        return 130
    except SharnnError as failure:
        print(f"time_to_quality: error: {failure}", file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
