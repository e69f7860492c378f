"""The parser of a verb."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from sharnn.cli.synonyms import like_option
from sharnn.config import SECTIONS
from sharnn.errors import ConfigError

#: jsonargparse adds an option for each section as a whole (`--model FILE`). sharnn has no such options.
_SECTION_OPTIONS = frozenset(f"--{section}" for section in SECTIONS)

#: Short forms of options, in every verb that has them.
_SHORT = {"--out": "-o", "--prompt": "-p", "--max-bytes": "-n"}

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults but no types, and keeps the line breaks of descriptions and examples."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument's help, unless it is a section as a whole."""
        if not _SECTION_OPTIONS.issuperset(action.option_strings or [""]):
            super().add_argument(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        number = re.match(r"(?:Optional\[)?(int|float)\b", self._get_type_str(action) or "")
        if number:
            return "N" if number[1] == "int" else "X"
        return super()._get_default_metavar_for_optional(action)

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
    """Parses the arguments of one verb. Errors are raised for `main` to print.

    Attributes:
        verb: Its name.
        shown_settings: Settings that the help shows; None shows all.
        chosen_settings: Settings whose default a run chooses.
    """

    def __init__(self, verb: str, usage: str, description: str, examples: str) -> None:
        self.verb = verb
        self.shown_settings: frozenset[str] | None = None
        self.chosen_settings: frozenset[str] = frozenset()
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
        short = [_SHORT[name] for name in names if name in _SHORT]
        return super().add_argument(*short, *names, **settings)

    def add_options(self, options: Mapping[str, tuple[Any, ...]]) -> None:
        """Add options from a table: by name the type or default, the help and, if any, the metavar.

        A type makes an option that is None if left out, False a flag, and [] an option that can be
        repeated, whose values are a list or None.
        """
        for name, (value, text, *metavar) in options.items():
            shown = {"help": text, **({"metavar": metavar[0]} if metavar else {})}
            if value is False:
                self.add_argument(name, action="store_true", **shown)
            elif value == []:
                # Not `str | None`, with which the parser reads YAML, and `007` as a number.
                self.add_argument(name, type=str, action="append", **shown)
            elif isinstance(value, int | float | str):
                self.add_argument(name, type=type(value), default=value, **shown)
            else:
                self.add_argument(name, type=value | None, **shown)

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
        shown, texts = self.shown_settings, [action.help for action in self._actions]
        for action in self._actions:
            is_setting = action.dest.split(".")[0] in SECTIONS
            if shown is not None and is_setting and action.dest not in shown:
                action.help = argparse.SUPPRESS
            elif action.dest in self.chosen_settings:
                action.help = f"{action.help} (default: chosen by the run)"
        try:
            return super().format_help(formatter)
        finally:
            for action, text in zip(self._actions, texts, strict=True):
                action.help = text

    def parse_args(self, args: Iterable[str], **settings: Any) -> Namespace:  # type: ignore[override]
        """Parse, after a check that every option exists.

        Raises:
            ConfigError: An option does not exist; the message names the closest one.
            ArgumentError: A value is missing or of the wrong type.
        """
        known = [name for name in self._option_string_actions if name not in _SECTION_OPTIONS]
        words = self._join_values(args)
        for word in words:
            if word == "--":
                break
            name = word.split("=", 1)[0]
            if name.startswith("--") and name not in known:
                raise ConfigError(
                    f"there is no option '{name}'{like_option(self.verb, name, known)}"
                )
        return super().parse_args(words, **settings)

    def parse_scattered(self, args: Iterable[str], **settings: Any) -> Namespace:
        """Parse arguments in which options may stand between positional ones.

        argparse itself takes only adjacent positional arguments as one list.
        """
        options: list[str] = []
        others: list[str] = []
        words = iter(self._join_values(args))
        for word in words:
            if word == "--":
                others.extend(words)
            else:
                (options if word.startswith("-") and word != "-" else others).append(word)
        return self.parse_args([*options, "--", *others], **settings)

    def _join_values(self, args: Iterable[str]) -> list[str]:
        """Return arguments with `--option VALUE` as one word, so that a value may begin with a dash."""
        words, joined = deque(args), []
        while words and words[0] != "--":
            word = words.popleft()
            if words and self._takes_value(word) and not self._is_option(words[0]):
                word = f"{word}={words.popleft()}"
            joined.append(word)
        return [*joined, *words]

    def _takes_value(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs not in (0, "*", "+")

    def _is_option(self, word: str) -> bool:
        return word in self._option_string_actions or re.match(r"--([a-zA-Z]|$)", word) is not None
