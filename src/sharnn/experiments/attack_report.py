"""The tokenization attack, told: tables, pictures and one page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sharnn.errors import DataError
from sharnn.experiments.attack_run import RESULTS
from sharnn.files import atomic_file, write_json
from sharnn.report.attack import (
    distinct,
    draw_groups,
    draw_perturbed,
    draw_scores,
    draw_ways,
)
from sharnn.report.curves import write_png
from sharnn.report.page import picture, whole_page
from sharnn.report.tables import Table

PAGE, TABLES = "report.html", "results.md"
Result = Mapping[str, Any]

_HOW_TO_READ = {
    "scores": "All models are scored on the same bytes, in bits per byte. Lower is better; bars are the "
    "standard deviation over seeds.",
    "ways": "The cost summed over all segmentations is the model's probability of the word. The "
    "tokenizer's segmentation never costs less. Where the word's earlier tokens are withheld, "
    "each token is predicted from the text before the word alone, as a mean over samples: what "
    "that adds is an upper bound of the benefit of teacher forcing (half the samples: how much "
    "fewer samples would add to it). A word of one token has no such benefit.",
    "places": "The cost of the first token of a word, of the second, and so on.",
    "classes": "Known words occur ten times or more in the train split, whether or not a model has read "
    "all of it, rare ones less often, unseen ones never. Copied ones occurred earlier in the "
    "scored text, within the window.",
    "perturbed": "The same bytes in pieces that the tokenizer would not have made: merges are left out "
    "at the rate below (BPE-dropout, arXiv 1910.13267).",
}


def tell(results: Sequence[Result], out: Path, about: str) -> list[Table]:
    """Write results, tables, pictures and the page; return the tables.

    Args:
        results: Of all trainings.
        out: The folder.
        about: What was done, in one paragraph: text, sizes, command, machine, date.

    Raises:
        DataError: A file cannot be written.
    """
    write_json(out / RESULTS, {"about": about, "results": list(results)}, DataError)
    tables = [_scores(results, matching) for matching in distinct(results, "matching")]
    tables += [_parts(results, matching) for matching in distinct(results, "matching")]
    _write(out / TABLES, "\n\n".join([about, *(table.to_markdown() for table in tables)]) + "\n")
    body = [f"<h1>The tokenization attack</h1>\n<p class='sub'>{escape(about)}</p>"]
    for name, figure, text in _pictures(results):
        png = write_png(figure, out / f"{name}.png")
        body.append(f"<h2>{escape(text)}</h2>\n<p>{_HOW_TO_READ[name.split('-')[0]]}</p>")
        body.append(picture(text, png))
    body += [table.to_html() for table in tables]
    _write(out / PAGE, whole_page("sharnn: the tokenization attack", "\n".join(body)))
    return tables


def _pictures(results: Sequence[Result]) -> list[tuple[str, Figure, str]]:
    pictures = [("scores", draw_scores(results), "Bits per byte by tokenization")]
    for matching in distinct(results, "matching"):
        chosen = [result for result in results if result["matching"] == matching]
        equal = f"equal {matching}"
        pictures += [
            (f"ways-{matching}", draw_ways(chosen), f"A word scored in four ways, {equal}"),
            (
                f"places-{matching}",
                draw_groups(chosen, "by_place", "Token in its word", "nats a token"),
                f"By the place in the word, {equal}",
            ),
            (
                f"classes-{matching}",
                draw_groups(chosen, "by_class", "Kind of word", "nats a word"),
                f"By kind of word, {equal}",
            ),
        ]
        perturbed = draw_perturbed(chosen)
        if perturbed is not None:
            pictures.append((f"perturbed-{matching}", perturbed, f"Merges left out, {equal}"))
    return pictures


def _scores(results: Sequence[Result], matching: str) -> Table:
    """Return what each model reaches, and what it is."""
    rows = []
    for architecture, tokenization, runs in _groups(results, matching):
        first = runs[0]
        rows.append(
            [
                architecture,
                tokenization,
                _told(runs, lambda run: run["bits_per_byte"], 4),
                _told(runs, lambda run: run["nats_per_word"], 3),
                f"{first['num_parameters']:,}",
                f"{first['bytes_per_token']:.2f}",
                f"{first['train_bytes'] / 1e6:,.2f}",
                f"{first['train_flops'] / 1e12:,.2f}",
            ]
        )
    columns = (
        "architecture", "tokenization", "bits/byte", "nats/word", "weights", "bytes/token", "MB read",
        "TFLOP",
    )  # fmt: skip
    return Table(f"Scores, equal {matching}", columns, rows, texts=("tokenization",))


def _parts(results: Sequence[Result], matching: str) -> Table:
    """Return the four ways to score a word, and what being told inside of it is worth."""
    rows = []
    for architecture, tokenization, runs in _groups(results, matching):
        ways = [
            _told(runs, lambda run, way=way: run["within_words"][way]["mean"], 3)  # type: ignore[misc]
            for way in ("summed", "best", "forced", "withheld", "told", "overstated")
        ]
        rise = _told(runs, _last_rise, 3) if runs[0]["perturbed"] else "–"
        rows.append([architecture, tokenization, *ways, rise])
    columns = (
        "architecture", "tokenization", "all segmentations, summed", "best segmentation",
        "the tokenizer's segmentation", "earlier tokens withheld", "benefit of teacher forcing",
        "half the samples", "rise, perturbed",
    )  # fmt: skip
    rates = [run["perturbed"][-1]["dropout"] for run in results if run["perturbed"]]
    last = (
        f"; perturbed: bits per byte more with {rates[0]:.0%} of merges left out" if rates else ""
    )
    return Table(f"Nats a word, equal {matching}{last}", columns, rows, texts=("tokenization",))


def _last_rise(run: Result) -> float:
    return run["perturbed"][-1]["bits_per_byte"] - run["bits_per_byte"]


def _groups(results: Sequence[Result], matching: str) -> list[tuple[str, str, list[Result]]]:
    """Return the runs of all seeds of each architecture and tokenization."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result["matching"] == matching:
            groups.setdefault((result["architecture"], result["tokenization"]), []).append(result)
    return [(architecture, name, runs) for (architecture, name), runs in groups.items()]


def _told(runs: Sequence[Result], value: Callable[[Result], float], digits: int) -> str:
    values = [value(run) for run in runs]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    mean = round(statistics.mean(values), digits) + 0.0  # and no minus before nothing
    return f"{mean:.{digits}f}{spread}"


def _write(path: Path, text: str) -> None:
    with atomic_file(path, DataError) as file:
        file.write(text.encode())
