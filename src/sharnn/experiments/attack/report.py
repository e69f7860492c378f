"""The results of the tokenization attack as tables, pictures and one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from sharnn.errors import DataError
from sharnn.experiments.attack.pictures import (
    distinct,
    draw_groups,
    draw_perturbed,
    draw_scores,
    draw_ways,
    having,
)
from sharnn.experiments.comparison.run_store import Run
from sharnn.files import atomic_file
from sharnn.report.curves import write_png
from sharnn.report.page import heading, picture, whole_page
from sharnn.report.tables import Table, mean_cell

PAGE, TABLES = "report.html", "results.md"

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


def write_report(runs: Sequence[Run], out: Path, about: str) -> list[Table]:
    """Write tables, pictures and the page; return the tables.

    Args:
        runs: All runs of the experiment.
        out: The folder.
        about: Text, sizes, machine, date and command, in one paragraph.

    Raises:
        DataError: A file cannot be written.
    """
    matchings = distinct(runs, "matching")
    tables = [make(runs, matching) for make in (_scores, _parts) for matching in matchings]
    _write(out / TABLES, "\n\n".join([about, *(table.to_markdown() for table in tables)]) + "\n")
    body = [heading("The tokenization attack", about)]
    for name, figure, text in _pictures(runs):
        png = write_png(figure, out / f"{name}.png")
        body.append(f"<h2>{escape(text)}</h2>\n<p>{_HOW_TO_READ[name.split('-')[0]]}</p>")
        body.append(picture(text, png))
    body += [table.to_html() for table in tables]
    _write(out / PAGE, whole_page("sharnn: the tokenization attack", "\n".join(body)))
    return tables


def _pictures(runs: Sequence[Run]) -> Iterator[tuple[str, Figure, str]]:
    yield "scores", draw_scores(runs), "Bits per byte by tokenization"
    for matching in distinct(runs, "matching"):
        chosen, equal = having(runs, matching=matching), f"equal {matching}"
        yield f"ways-{matching}", draw_ways(chosen), f"A word scored in four ways, {equal}"
        places = draw_groups(chosen, "by_place", "Token in its word", "nats a token")
        yield f"places-{matching}", places, f"By the place in the word, {equal}"
        classes = draw_groups(chosen, "by_class", "Kind of word", "nats a word")
        yield f"classes-{matching}", classes, f"By kind of word, {equal}"
        perturbed = draw_perturbed(chosen)
        if perturbed is not None:
            yield f"perturbed-{matching}", perturbed, f"Merges left out, {equal}"


def _scores(runs: Sequence[Run], matching: str) -> Table:
    """Return the table of each model's score, size and training."""
    rows = [
        [
            *names,
            mean_cell([run["bits_per_byte"] for run in seeds], 4),
            mean_cell([run["nats_per_word"] for run in seeds], 3),
            f"{seeds[0]['parameters']:,}",
            f"{seeds[0]['bytes_per_token']:.2f}",
            f"{seeds[0]['read_bytes'] / 1e6:,.2f}",
            f"{seeds[0]['train_flops'] / 1e12:,.2f}",
        ]
        for names, seeds in _models(runs, matching)
    ]
    columns = (
        "architecture", "tokenization", "bits/byte", "nats/word", "weights", "bytes/token", "MB read",
        "TFLOP",
    )  # fmt: skip
    return Table(f"Scores, equal {matching}", columns, rows, texts=("tokenization",))


#: Columns of the table of four ways to score a word, by the name of the figure.
_WAYS = {
    "summed": "all segmentations, summed",
    "best": "best segmentation",
    "forced": "the tokenizer's segmentation",
    "withheld": "earlier tokens withheld",
    "benefit": "benefit of teacher forcing",
    "overstated": "half the samples",
}


def _parts(runs: Sequence[Run], matching: str) -> Table:
    """Return the table of four ways to score a word, and of perturbed segmentations."""
    rows = []
    for names, seeds in _models(runs, matching):
        ways = [mean_cell([run["within_words"][way]["mean"] for run in seeds], 3) for way in _WAYS]
        rises = [
            run["perturbed"][-1]["bits_per_byte"] - run["bits_per_byte"]
            for run in seeds
            if run["perturbed"]
        ]
        rows.append([*names, *ways, mean_cell(rises, 3) if rises else "–"])
    columns = ("architecture", "tokenization", *_WAYS.values(), "rise, perturbed")
    rates = [run["perturbed"][-1]["dropout"] for run in runs if run["perturbed"]]
    last = (
        f"; perturbed: bits per byte more with {rates[0]:.0%} of merges left out" if rates else ""
    )
    return Table(f"Nats a word, equal {matching}{last}", columns, rows, texts=("tokenization",))


def _models(runs: Sequence[Run], matching: str) -> Iterator[tuple[tuple[str, str], list[Run]]]:
    """Yield architecture, tokenization and the runs of all seeds of each model."""
    for architecture in distinct(runs, "architecture"):
        for name in distinct(runs, "tokenization"):
            wanted = {"matching": matching, "architecture": architecture, "tokenization": name}
            yield (architecture, name), having(runs, **wanted)


def _write(path: Path, text: str) -> None:
    with atomic_file(path, DataError) as file:
        file.write(text.encode())
