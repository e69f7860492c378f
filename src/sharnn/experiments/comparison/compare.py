"""A comparison of recipes under equal conditions, scored on valid and test, as the paper's table is."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path

import yaml
from rich.console import Console

from sharnn.config import Recipe
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.experiments.comparison.contenders import (
    Budget,
    Contender,
    Plan,
    named_contenders,
)
from sharnn.experiments.comparison.published import PUBLISHED
from sharnn.experiments.comparison.run_store import Run, Store, all_runs
from sharnn.experiments.comparison.scale import Change, changes, check_scale
from sharnn.experiments.comparison.scheduler import Terms, run_comparison
from sharnn.experiments.comparison.summary import (
    count_cell,
    measured_when,
    number_cell,
    picture_of,
    score_cell,
    text_of,
)
from sharnn.files import atomic_file
from sharnn.report import Table, draw_comparison, write_png
from sharnn.report.page import folded, picture, whole_page

#: Files of a comparison in its folder, and the folder of runs that are in training, stopped or kept.
RESULTS, MARKDOWN, PICTURE, PAGE, RUNS = (
    "results.json", "results.md", "results.png", "report.html", "runs",
)  # fmt: skip
SPLITS = ("valid", "test")


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Attributes:
        contenders: Names of shipped recipes, YAML files, or NAME='RECIPE OPTIONS'.
        text: Known corpus, file, folder or glob.
        out: Folder of the results.
        command: The command line, recorded with each run.
        budgets: How long each contender trains; all in time, or none.
        seeds: Number of seeds for each contender and budget.
        scale: Factor for widths, lanes and text; 1 leaves recipes as they are.
        jobs: Number of runs in parallel.
        threads: Threads of each run; None divides all threads by `jobs`.
        device: As `train.device`.
        again: Whether runs that are in the results already are repeated.
        keep: Whether run folders and logs stay in `out`.
    """

    contenders: Sequence[str]
    text: str
    out: Path
    command: str
    budgets: Sequence[Budget]
    seeds: int = 3
    scale: float = 1.0
    jobs: int = 1
    threads: int | None = None
    device: str = "auto"
    again: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: One is out of range, or two do not go together.
        """
        check_scale(self.scale)
        _ = self.terms

    @property
    def terms(self) -> Terms:
        """What is the same for all contenders."""
        return Terms(
            text=self.text, budgets=self.budgets, seeds=range(self.seeds), command=self.command,
            folder=self.out / RUNS, keep=self.keep, jobs=self.jobs, threads=self.threads,
            device=self.device, again=self.again, splits=SPLITS, share=self.scale,
        )  # fmt: skip


def compare(comparison: Comparison, console: Console) -> list[Table]:
    """Train and score the runs that are not in the results, write all files, and return the tables.

    Args:
        comparison: What is compared.
        console: Where progress is shown.

    Raises:
        ConfigError: A recipe does not exist or cannot take part.
        DataError: The text is missing or too short, or the results are damaged.
        TrainingError: A run failed; the results of finished runs are kept.
    """
    contenders = named_contenders(comparison.contenders)
    recipes = {name: _recipe_of(name, c, comparison) for name, c in contenders.items()}
    store = Store(comparison.out / RESULTS, {"command": comparison.command})
    store.runs()  # damaged results are refused before any work
    corpus = prepare(
        [comparison.text], notice=partial(console.print, highlight=False, markup=False)
    )
    _check_text(corpus, comparison)
    _check_tokenizers(recipes, corpus, comparison)
    changed = {name: _changes(recipe, corpus, comparison) for name, recipe in recipes.items()}
    scaled = {name: _with_changes(c, changed[name]) for name, c in contenders.items()}

    def publish(plans: Sequence[Plan]) -> list[Table]:
        return _publish(comparison, changed, plans, store)

    try:
        conditions = {"scale": comparison.scale}
        return run_comparison(comparison.terms, scaled, corpus, conditions, store, console, publish)
    finally:
        with contextlib.suppress(OSError):  # not empty: there are results, or kept or stopped runs
            comparison.terms.folder.rmdir()
            comparison.out.rmdir()


def _recipe_of(name: str, contender: Contender, comparison: Comparison) -> Recipe:
    """Return the recipe of a contender before the comparison changes it.

    Raises:
        ConfigError: It does not exist, or starts from a model's weights.
    """
    recipe = contender.resolve(name, comparison.budgets[0])
    if recipe.train.init_from is not None:
        raise ConfigError(
            f"recipe {contender.recipe} starts from the weights of {recipe.train.init_from}: a "
            "comparison trains from scratch, remove train.init_from"
        )
    return recipe


def _check_text(corpus: Corpus, comparison: Comparison) -> None:
    for name in SPLITS:
        if comparison.scale * corpus.split(name).num_tokens < 2:
            raise DataError(
                f"{comparison.text} is too short: at scale {comparison.scale:g} its {name} split has "
                "nothing to score"
            )


def _check_tokenizers(
    recipes: Mapping[str, Recipe], corpus: Corpus, comparison: Comparison
) -> None:
    """Check that a budget in tokens or steps is not used for recipes with different tokenizers.

    Raises:
        ConfigError: It is.
    """
    tokenizers = {recipe.data.tokenizer or corpus.tokenizer.name for recipe in recipes.values()}
    counted = [b.text for b in comparison.budgets if b.amount.unit in ("tokens", "steps")]
    if len(tokenizers) > 1 and counted:
        raise ConfigError(
            f"budget is {counted[0]}, which is not the same amount of text for recipes with different "
            f"tokenizers ({', '.join(sorted(tokenizers))}): give a budget in time or epochs"
        )


def _changes(recipe: Recipe, corpus: Corpus, comparison: Comparison) -> list[Change]:
    if recipe.data.tokenizer not in (None, corpus.tokenizer.name):
        corpus = prepare([comparison.text], tokenizer=recipe.data.tokenizer)
    train, valid = corpus.split("train").num_tokens, corpus.split("valid").num_tokens
    return changes(recipe, comparison.scale, train, valid)


def _with_changes(contender: Contender, changed: Sequence[Change]) -> Contender:
    settings = {change.name: change.after for change in changed}
    return replace(contender, given={**contender.given, **settings})


# ---------------------------------------------------------------------------------- the results


def _publish(
    comparison: Comparison,
    changed: Mapping[str, Sequence[Change]],
    plans: Sequence[Plan],
    store: Store,
) -> list[Table]:
    """Write tables, picture and page of the finished runs; return the tables."""
    shown = store.shown(plans)
    last = next(reversed(shown.values()))
    scores = [_measured(budget, runs) for budget, runs in shown.items()]
    scores += _published(list(last))
    sizes = _what_changed(comparison, changed)
    by_name, axis = picture_of(shown)
    budgets = ", ".join(budget.text for budget in shown)
    title = f"{budgets} of training on {text_of(shown)}, scale {comparison.scale:g}"
    png = write_png(draw_comparison(by_name, title, axis), comparison.out / PICTURE)
    facts = _facts(list(all_runs(shown)))
    markdown = [
        f"# {title}",
        f"`{comparison.command}`",
        *(table.to_markdown() for table in scores),
        f"![Bits per byte of each contender]({PICTURE})",
        *(table.to_markdown() for table in sizes),
        facts,
    ]
    page = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub"><code>{escape(comparison.command)}</code></p>',
        *(table.to_html() for table in scores),
        picture("Bits per byte of each contender", png),
        *(table.to_html() for table in sizes),
        f'<p class="sub">{escape(facts)}</p>',
        *(folded(f"Settings of {name}", _settings(seeds[0])) for name, seeds in last.items()),
    ]
    with atomic_file(comparison.out / MARKDOWN, DataError) as file:
        file.write(("\n\n".join(markdown) + "\n").encode())
    with atomic_file(comparison.out / PAGE, DataError) as file:
        file.write(whole_page(title, "\n".join(page)).encode())
    return [*scores, *sizes]


def _measured(budget: Budget, runs: Mapping[str, Sequence[Run]]) -> Table:
    first = next(iter(runs.values()))[0]
    valid, test = (first[key]["num_bytes"] for key in ("score", "test_score"))
    return Table(
        f"Measured: {budget.text} of training on {first['text']}, bits per byte (strict) of "
        f"{valid:,} bytes of valid and {test:,} of test",
        ["recipe", "valid", "test", "n", "params", "folded", "tokens/s", "s/epoch"],
        [
            [
                name,
                score_cell(seeds),
                score_cell(seeds, "test_bits_per_byte"),
                str(len(seeds)),
                count_cell(seeds, "parameters"),
                count_cell(seeds, "folded_parameters"),
                number_cell(seeds, "tokens_per_second", statistics.median),
                _epoch_cell(seeds),
            ]
            for name, seeds in runs.items()
        ],
    )


def _epoch_cell(runs: Sequence[Run]) -> str:
    """Return the seconds that reading the training text once takes."""
    speed = statistics.median(run["tokens_per_second"] for run in runs)
    return f"{runs[0]['epoch_tokens'] / speed:,.0f}"


def _published(names: Sequence[str]) -> list[Table]:
    """Return the table of published figures; none if there are no figures of these recipes."""
    known = {name: PUBLISHED[name] for name in names if name in PUBLISHED}
    rows = [
        [
            name,
            figures.system,
            figures.valid or "–",
            figures.test,
            f"{figures.parameters}M",
            f"{figures.epoch_seconds:,}" if figures.epoch_seconds else "–",
        ]
        for name, figures in known.items()
    ]
    title = (
        "Published, not measured here: bits per character of all of enwik8 at full size, s/epoch on a "
        "Titan V"
    )
    columns = ["recipe", "system", "valid", "test", "params", "s/epoch"]
    return [Table(title, columns, rows, texts=["system"])] if rows else []


#: Columns of the table of changes, and the setting of each.
_CHANGED = {
    "width": "model.embed_dim",
    "Boom or FF": "model.boom_dim",
    "heads": "model.num_heads",
    "lanes": "data.num_lanes",
    "tokens read": "data.max_train_tokens",
    "warm-up": "optim.warmup",
}


def _what_changed(comparison: Comparison, changed: Mapping[str, Sequence[Change]]) -> list[Table]:
    """Return the table of changed settings, a dash for an unchanged one; none without any change."""
    cells = {
        name: {change.name: str(change) for change in of_contender}
        for name, of_contender in changed.items()
    }
    columns = {
        column: setting
        for column, setting in _CHANGED.items()
        if any(setting in row for row in cells.values())
    }
    if not columns:
        return []
    return [
        Table(
            f"What scale {comparison.scale:g} and the budget changed in each recipe (before → here)",
            ["recipe", *columns],
            [
                [name, *(row.get(setting, "–") for setting in columns.values())]
                for name, row in cells.items()
            ],
        )
    ]


def _facts(every: Sequence[Run]) -> str:
    """Return how and where the figures were measured, and what the columns mean."""
    machines = ", ".join(sorted({run["machine"] for run in every}))
    return (
        f"{measured_when(every)} {machines}. Mean ± standard deviation over n seeds. The scored model of "
        "each run is the one that was best on the beginning of the valid split during training. params: "
        "as trained; folded: with the value gate folded to a vector. tokens/s: median over steps and "
        "seeds; s/epoch: time to read the training text once at that speed."
    )


def _settings(run: Run) -> str:
    return yaml.safe_dump(run["settings"], sort_keys=False, allow_unicode=True)
