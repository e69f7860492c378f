"""What verbs share: parsers, consoles and a bar for preparing texts."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.config import did_you_mean
from sharnn.errors import ConfigError, DataError, SharnnError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser
    from rich.console import Console

    from sharnn.cli.parser import VerbParser
    from sharnn.report import Table

#: Columns of what is printed to a file or pipe; no table here is wider.
_FILE_WIDTH = 200
#: Short forms of options, in every verb that has them.
SHORT_FORMS = {"--out": "-o", "--prompt": "-p", "--max-bytes": "-n"}
MODEL_HELP = (
    "model folder, run folder for its best, or 'base' for the model that comes with sharnn (unless such "
    "a folder is called base); without MODEL it is the one that comes with sharnn"
)


def make_parser(verb: str, usage: str, description: str, examples: str) -> VerbParser:
    """Return the parser of a verb; it is imported here, for the list of verbs needs none."""
    from sharnn.cli.parser import VerbParser

    return VerbParser(verb, usage, description, examples)


def run_subverb(
    verb: str,
    argv: Sequence[str],
    runs: Mapping[str, Callable[[list[str]], int]],
    help_texts: Sequence[str],
) -> int:
    """Run what a verb's first argument names, such as `list` of `sharnn data list`.

    Args:
        verb: The verb.
        argv: What was typed after it; `help_texts` are printed where that is nothing, or asks for help.
        runs: By name, what takes the rest and returns the exit code.
        help_texts: Usage, what it is about, and examples.

    Raises:
        ConfigError: There is none of that name.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(*help_texts, sep="\n")
        return 0
    name, *rest = argv
    if name not in runs:
        raise ConfigError(
            f"there is no 'sharnn {verb} {name}'{did_you_mean(name, runs)}: {', '.join(runs)}"
        )
    return runs[name](rest)


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Let an error of the library that names an argument name the option instead.

    Args:
        options: By the argument's name, as in `stride is 0` or `(stride)`.

    Raises:
        SharnnError: The same error, translated.
    """
    try:
        yield
    except SharnnError as failure:
        names = re.compile(rf"\b({'|'.join(options)})\b(?= is\b| \d|\))")
        translated = names.sub(lambda name: options[name[0]], str(failure))
        if translated == str(failure):
            raise
        raise type(failure)(translated) from failure


def add_model(parser: ArgumentParser) -> None:
    """Give a parser MODEL, which may be left out; see `chosen_model`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)


def chosen_model(given: str | None, console: Console) -> str | Path:
    """Return MODEL, or where none was given the shipped model's folder, and say so on a terminal.

    Raises:
        CheckpointError: None was given, and this installation comes without.
    """
    from sharnn.checkpoint import BASE, shipped_model

    if given is not None:
        return given
    folder = shipped_model()
    if console.is_terminal:
        console.print(f"[dim]model: {BASE}, shipped with sharnn[/dim]", highlight=False)
    return folder


def model_and_texts(names: list[str], verb: str, aim: str) -> tuple[str | None, list[str]]:
    """Tell MODEL and TEXT apart by what they name, not by their number.

    Args:
        names: The positional arguments.
        verb: The verb that was called.
        aim: What a text is for, such as `to score`.

    Returns:
        MODEL, None where it was left out, and the TEXTs.

    Raises:
        ConfigError: There is no TEXT, or MODEL does not stand first.
        DataError: The first is neither a model nor a text.
    """
    from sharnn.checkpoint import is_model

    if not names:
        raise ConfigError(f"there is no TEXT {aim}: sharnn {verb} [MODEL] TEXT…")
    first = names[0]
    if is_model(first):
        if len(names) == 1:
            raise ConfigError(
                f"{first} is a model, and there is no TEXT {aim} with it: sharnn {verb} {first} TEXT… "
                f"({aim} it as a text, name the model first: sharnn {verb} base {first})"
            )
        return first, names[1:]
    if not _may_be_text(first):
        raise DataError(
            f"there is neither a model nor a text at {first}: MODEL is a model folder, a run folder or "
            f"'base', TEXT a file, folder, glob, known corpus or -{_like_a_corpus(first)}"
        )
    late = next((name for name in names if is_model(name)), None)
    if late is not None:
        raise ConfigError(
            f"{late} is a model and stands behind a text: MODEL goes first ({aim} it as a text, name the "
            f"model: sharnn {verb} base TEXT…)"
        )
    return None, names


def _may_be_text(name: str) -> bool:
    """Return whether something is there to read, or there was a pattern to find it by."""
    from sharnn.data.corpora import KNOWN_CORPORA
    from sharnn.data.sources import STDIN

    known = name == STDIN or name in KNOWN_CORPORA or glob.has_magic(name)
    return known or os.path.exists(os.path.expanduser(name))


def _like_a_corpus(name: str) -> str:
    from sharnn.data.corpora import KNOWN_CORPORA

    return did_you_mean(name, KNOWN_CORPORA)


def error_console() -> Console:
    """Return a console on standard error, where progress belongs."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


@contextmanager
def prepare_bar(console: Console) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Yield a callback that shows how far a text is prepared; None where no terminal shows it."""
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), DownloadColumn()]
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables, to a file or pipe as wide as they are."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for table in tables:
        console.print(table.to_rich())
