"""What verbs share: parsers, consoles and a bar for preparing texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sharnn.config import SECTIONS, did_you_mean
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser
    from rich.console import Console


def make_parser(verb: str, usage: str, description: str, examples: str) -> ArgumentParser:
    """Return the parser of a verb; errors are raised, not printed, for `main` to report."""
    import argparse

    from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Shows types and defaults, and keeps the line breaks of examples."""

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=f"sharnn {verb}",
        usage=f"sharnn {verb} {usage}",
        description=description,
        epilog=examples,
        formatter_class=Formatter,
        exit_on_error=False,
        default_env=False,
    )


def check_options(argv: Iterable[str], own: Iterable[str], settings: bool = False) -> None:
    """Refuse options that do not exist, with the nearest that do.

    Args:
        argv: What was typed.
        own: The verb's own options, with their dashes.
        settings: Whether settings such as `--model.window` are options too.

    Raises:
        ConfigError: Names the option.
    """
    known = [*own, "--help", "-h"]
    if settings:
        for section, config in SECTIONS.items():
            known.extend(f"--{section}.{field.name}" for field in dataclasses.fields(config))
    for argument in argv:
        name = argument.split("=", 1)[0]
        if name.startswith("--") and len(name) > 2 and name not in known:
            raise ConfigError(f"there is no option '{name}'{did_you_mean(name, known)}")


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
