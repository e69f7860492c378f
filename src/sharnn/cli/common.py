"""What several verbs use: parsers, MODEL and TEXT arguments, output paths, consoles and tables."""

from __future__ import annotations

import glob
import itertools
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

    from jsonargparse import Namespace
    from rich.console import Console, RenderableType

    from sharnn.cli.parser import VerbParser
    from sharnn.data.download import Progress
    from sharnn.report import Table

#: Columns of a table that is printed to a file or pipe; no table here is wider.
_FILE_WIDTH = 200
MODEL_HELP = (
    "a model folder, a run folder (its best checkpoint), or 'base', the model that comes with sharnn "
    "unless a folder is called base (default: the model that comes with sharnn)"
)
MODEL_OR_TEXT = """\
If the first argument is 'base', a model folder or a run folder, it is MODEL. Otherwise all arguments are
TEXT, and the model is 'base', which comes with sharnn."""
#: Options of several verbs, see `VerbParser.add_options`.
DEVICE = {"--device": ("auto", "auto, cpu, cuda or cuda:N")}
WINDOW = {"--window": (int, "memory rows in reach (default: the model's)")}
READING = {
    "--encoding": (str, "encoding of the texts, such as latin-1, or bytes to take all bytes as they are "
                        "(default: auto)", "NAME"),
    "--include": ([], "read only files of folders and archives that match, such as '*.md'; can be "
                      "repeated", "PATTERN"),
    "--exclude": ([], "leave out files of folders and archives that match; can be repeated", "PATTERN"),
}  # fmt: skip
SOURCE = {
    "--from": (str, "local copy of a known corpus: its archive, the unpacked folder, or the file in it",
               "PATH"),
}  # fmt: skip
TEXT_HELP = "known corpus, file, archive, folder, glob in quotes, or - for standard input"


def make_parser(verb: str, usage: str, description: str, examples: str) -> VerbParser:
    """Return the parser of a verb. The import is here because the list of verbs needs no parser."""
    from sharnn.cli.parser import VerbParser

    return VerbParser(verb, usage, description, examples)


def run_subverb(
    verb: str,
    argv: Sequence[str],
    runs: Mapping[str, Callable[[list[str]], int]],
    help_texts: Sequence[str],
) -> int:
    """Run the subverb that the first argument names, such as `list` in `sharnn data list`.

    Args:
        verb: The verb.
        argv: The arguments after it; without any, or with `--help`, the `help_texts` are printed.
        runs: For each subverb, a function that takes the other arguments and returns the exit code.
        help_texts: Usage, description and examples.

    Raises:
        ConfigError: There is no such subverb.
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
    """Replace the names of library arguments by options in the messages of errors.

    Args:
        options: The option of each argument. An argument is recognised in the forms `stride is 0`,
            `stride does nothing`, `stride 0` and `(stride)`.

    Raises:
        SharnnError: The error of the block, with another message.
    """
    try:
        yield
    except SharnnError as failure:
        names = re.compile(
            rf"(?<![\w.])({'|'.join(map(re.escape, options))})(?= (?:is|does)\b| \d|\))"
        )
        translated = names.sub(lambda name: options[name[0]], str(failure))
        if translated == str(failure):
            raise
        raise type(failure)(translated) from failure


def add_model(parser: VerbParser) -> None:
    """Add the optional argument MODEL; see `chosen_model`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)


def add_model_and_texts(parser: VerbParser, aim: str) -> None:
    """Add the arguments [MODEL] TEXT… as `names`; see `model_and_texts`."""
    parser.add_argument(
        "names", nargs="*", metavar="[MODEL] TEXT", help=f"{MODEL_HELP}; texts {aim}: {TEXT_HELP}"
    )


def reading_of(options: Namespace) -> dict[str, Any]:
    """Return the arguments of `prepare` that the options `READING` give."""
    given = {name: options[name] for name in ("encoding", "include", "exclude")}
    return {name: value for name, value in given.items() if value is not None}


def local_source(options: Namespace) -> Path | None:
    """Return the path that was given as --from."""
    return Path(options["from"]).expanduser() if options["from"] is not None else None


def chosen_model(given: str | None, console: Console) -> str | Path:
    """Return MODEL, or the folder of the shipped model if none was given, which a terminal shows.

    Raises:
        CheckpointError: None was given, and this installation has no shipped model.
    """
    from sharnn.checkpoint import BASE, shipped_model

    if given is not None:
        return given
    folder = shipped_model()
    if console.is_terminal:
        console.print(f"[dim]model: {BASE}, shipped with sharnn[/dim]", highlight=False)
    return folder


def model_and_texts(names: list[str], verb: str, aim: str) -> tuple[str | None, list[str]]:
    """Split positional arguments into MODEL and TEXTs: the first is MODEL if there is such a model.

    Args:
        names: The positional arguments.
        verb: The verb that was called.
        aim: What the verb does to a text, such as `to score`.

    Returns:
        MODEL, or None if it was left out, and the TEXTs.

    Raises:
        ConfigError: There is no TEXT, or MODEL is not first.
        DataError: The first argument is neither a model nor a text.
    """
    from sharnn.checkpoint import is_model

    if not names:
        raise ConfigError(f"there is no TEXT {aim}: sharnn {verb} [MODEL] TEXT…")
    first = names[0]
    if is_model(first):
        if len(names) == 1:
            raise ConfigError(
                f"{first} is a model, and there is no TEXT {aim} with it: sharnn {verb} {first} TEXT… "
                f"({aim} {first} as a text, put a model before it: sharnn {verb} base {first})"
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
            f"{late} is a model, but comes after a text: MODEL goes first ({aim} {late} as a text, put a "
            f"model before all texts: sharnn {verb} base TEXT…)"
        )
    return None, names


def _may_be_text(name: str) -> bool:
    """Return whether `name` is a corpus, a glob, standard input, or an existing path."""
    from sharnn.data.corpora import KNOWN_CORPORA
    from sharnn.data.sources import STDIN

    known = name == STDIN or name in KNOWN_CORPORA or glob.has_magic(name)
    return known or os.path.exists(os.path.expanduser(name))


def _like_a_corpus(name: str) -> str:
    from sharnn.data.corpora import KNOWN_CORPORA

    return did_you_mean(name, KNOWN_CORPORA)


def new_file(out: str) -> Path:
    """Return the path of a file to write.

    Raises:
        ConfigError: It exists already.
    """
    path = Path(out).expanduser()
    if path.exists():
        raise ConfigError(f"--out {path} exists already: give another file, or remove it first")
    return path


def output_folder(out: str) -> Path:
    """Return the path of a folder to write to; it need not exist.

    Raises:
        ConfigError: It is a file.
    """
    path = Path(out).expanduser()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file: give a folder")
    return path


def error_console() -> Console:
    """Return a console on standard error, for progress and notices."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


def notice_on(console: Console) -> Callable[[str], None]:
    """Return a callback that prints a line as it is."""
    return lambda line: console.print(line, highlight=False, markup=False)


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress | None]:
    """Yield a callback that shows progress as a bar; None if standard error is no terminal."""
    if not console.is_terminal:
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Return a callback that shows progress under the name `what`; None if nothing shows it."""
    return progress and (lambda done, total: progress(what, done, total))


def print_rich(*tables: RenderableType) -> None:
    """Print tables of rich; a file or pipe gets them at full width."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for table in tables:
        console.print(table)


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables of a report."""
    print_rich(*(table.to_rich() for table in tables))


def print_facts(facts: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Print names, each with its values in columns."""
    rows = [[name, *values] for name, values in facts]
    columns = itertools.zip_longest(*rows, fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
