"""The parser of a verb. Options are declared once; what else is needed of them is derived from that."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from sharnn.config import SECTIONS, did_you_mean
from sharnn.errors import ConfigError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows types and defaults, and keeps the line breaks of examples."""


class VerbParser(ArgumentParser):
    """Parses the arguments of one verb; errors are raised, not printed, for `main` to report."""

    def __init__(self, verb: str, usage: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"sharnn {verb}",
            usage=f"sharnn {verb} {usage}",
            description=description,
            epilog=examples,
            formatter_class=_Formatter,
            exit_on_error=False,
            default_env=False,
        )

    def parse_args(self, args: Sequence[str], **settings: Any) -> Namespace:  # type: ignore[override]
        """Parse, after a check that every option exists.

        Raises:
            ConfigError: One does not; names the nearest that does.
            ArgumentError: A value is of the wrong type.
        """
        # Sections as a whole (`--model FILE`) are options of jsonargparse, and none of ours.
        known = [n for n in self._option_string_actions if n.removeprefix("--") not in SECTIONS]
        for argument in args:
            if argument == "--":
                break
            name = argument.split("=", 1)[0]
            if name.startswith("--") and name not in known:
                raise ConfigError(f"there is no option '{name}'{did_you_mean(name, known)}")
        return super().parse_args(list(args), **settings)

    def parse_scattered(self, args: Iterable[str], **settings: Any) -> Namespace:
        """Parse arguments of which those that are no options may be in several places.

        argparse gives a list of positional arguments only those that stand together.
        """
        return self.parse_args(self.options_first(args), **settings)

    def options_first(self, args: Iterable[str]) -> list[str]:
        """Return arguments with all options, and their values, before the others."""
        options: list[str] = []
        others: list[str] = []
        arguments = iter(args)
        for argument in arguments:
            if argument == "--":
                others.extend(arguments)
            elif len(argument) < 2 or not argument.startswith("-"):
                others.append(argument)
            else:
                options.append(argument)
                if "=" not in argument and self._takes_value(argument):
                    options.extend(value for value in [next(arguments, None)] if value is not None)
        return [*options, "--", *others]

    def _takes_value(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is None or action.nargs != 0
