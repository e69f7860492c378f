"""The parser of a verb. Options are declared once; what else is needed of them is derived from that."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from sharnn.cli.common import SHORT_FORMS
from sharnn.cli.synonyms import like_option
from sharnn.config import SECTIONS
from sharnn.errors import ConfigError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, argparse.SUPPRESS) or "default" in text or action.nargs == 0:
            return text
        shown = str(default).lower() if isinstance(default, bool) else "%(default)s"
        return f"{text} (default: {shown})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = action.option_strings
        # jsonargparse adds a form of each list that appends to it, `--NAME+`.
        action.option_strings = [name for name in names if not name.endswith("+")]
        try:
            return super()._format_action_invocation(action).replace(",null}", "}")
        finally:
            action.option_strings = names


class _HelpAll(argparse.Action):
    """Prints the help of all options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, VerbParser)
        parser.shown_settings = None
        parser.print_help()
        parser.exit()


class VerbParser(ArgumentParser):
    """Parses the arguments of one verb; errors are raised, not printed, for `main` to report.

    Attributes:
        verb: Its name.
        shown_settings: Settings that the help shows; None shows all.
    """

    def __init__(self, verb: str, usage: str, description: str, examples: str) -> None:
        self.verb = verb
        self.shown_settings: frozenset[str] | None = None
        super().__init__(
            prog=f"sharnn {verb}",
            usage=f"sharnn {verb} {usage}",
            description=description,
            epilog=examples,
            formatter_class=_Formatter,
            exit_on_error=False,
            default_env=False,
        )

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        """Add an argument, with its short form if it has one."""
        short = [SHORT_FORMS[name] for name in names if name in SHORT_FORMS]
        return super().add_argument(*short, *names, **settings)

    def show_settings(self, *names: str) -> None:
        """Let `--help` show these settings alone, and `--help-all` all of them."""
        self.shown_settings = frozenset(names)
        self.add_argument(
            "--help-all",
            action=_HelpAll,
            nargs=0,
            help="show this message with all settings and exit",
        )

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, without the settings that are not to be shown."""
        shown = self.shown_settings
        hidden = [
            action
            for action in self._actions
            if shown is not None
            and action.dest.split(".")[0] in SECTIONS
            and action.dest not in shown
        ]
        texts = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help(formatter)
        finally:
            for action, text in zip(hidden, texts, strict=True):
                action.help = text

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
                raise ConfigError(
                    f"there is no option '{name}'{like_option(self.verb, name, known)}"
                )
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
