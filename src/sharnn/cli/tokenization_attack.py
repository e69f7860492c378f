"""`sharnn tokenization-attack`: the same architectures on the same bytes in several tokenizations."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import error_console, make_parser, naming_options, print_tables
from sharnn.errors import INTERRUPTED, ConfigError
from sharnn.experiments.comparison.processes import interrupted_by_kill

if TYPE_CHECKING:
    from sharnn.cli.parser import VerbParser
    from sharnn.experiments.attack.plan import AttackSettings

HELP = "measure what models gain from finer tokens, and how much of it is teacher forcing"

_DESCRIPTION = """\
Train the same architectures on the same bytes of TEXT in several tokenizations, with equal weights and
either equal bytes or equal arithmetic, score all on the same words, and break the scores down: by the
place in the word, by kind of word, over all segmentations of a word, with a word's earlier tokens
withheld, and with merges left out of the text. docs/tokenization.md has every formula.

A closed vocabulary of words ('word') needs a text in WikiText's tokenised form and is left out of others.
The same command continues a stopped experiment."""

_EXAMPLES = """\
examples:
  sharnn tokenization-attack my.txt --seeds 1
  sharnn tokenization-attack wikitext-2 --out attack
  sharnn tokenization-attack my.txt --architectures sha-rnn transformer --tokenizations byte bpe-1024"""

#: Options that are fields of `AttackSettings`, each with its help; `--match` is `matchings`.
_FIELDS = {
    "architectures": "sha-rnn, no-attention, lstm, transformer (default: all)",
    "tokenizations": "byte, word, or bpe-N, wordpiece-N, unigram-N, spelled-N with N tokens",
    "match": "what is equal: bytes, compute or both (default)",
    "seeds": "trainings of each model (3)",
    "num-parameters": "weights of every model (1000000)",
    "num-layers": "blocks of every model (2)",
    "train-bytes": "bytes that each model reads with equal bytes (4000000)",
    "compute-bytes": "with equal arithmetic: bytes that the first model reads (a quarter of these)",
    "segment-bytes": "bytes that a gradient reaches back over (256)",
    "window-bytes": "bytes that an attention memory reaches back over (2048)",
    "num-lanes": "lanes (16)",
    "score-bytes": "most bytes of the test split that are scored (200000)",
    "words": "number of those words that are scored over their segmentations (400)",
    "dropouts": "rates at which merges are left out (0.05 0.1 0.2 0.4)",
}
_LISTS = {"architectures": str, "tokenizations": str, "match": str, "dropouts": float}


def run(argv: list[str]) -> int:
    """Parse, train and score what is missing, and print the tables; SIGTERM stops it as Ctrl-C does."""
    try:
        with (
            interrupted_by_kill(),
            naming_options({**{_field(name): f"--{name}" for name in _FIELDS}, "out": "--out"}),
        ):
            return _attack(argv)
    except KeyboardInterrupt:
        print("sharnn: stopped; the same command resumes", file=sys.stderr)
        return INTERRUPTED


def _make_parser() -> VerbParser:
    parser = make_parser("tokenization-attack", "TEXT [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("text", type=str, help="a file or a known corpus")
    for name, text in _FIELDS.items():
        if name in _LISTS:
            parser.add_argument(f"--{name}", nargs="+", type=_LISTS[name], help=text)
        else:
            parser.add_argument(f"--{name}", type=int | None, help=text)
    parser.add_argument("--out", type=str, default="attack", help="folder of everything")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def _attack(argv: list[str]) -> int:
    options = _make_parser().parse_args(argv)
    if options.text == "-":
        raise ConfigError("every training reads TEXT again, so it cannot be -: give a file")

    from sharnn.experiments.attack.plan import AttackSettings
    from sharnn.experiments.attack.report import PAGE, write_report
    from sharnn.experiments.attack.runs import run_attack

    command, out = shlex.join(["sharnn", "tokenization-attack", *argv]), Path(options.out)
    fields = {_field(name): getattr(options, name.replace("-", "_")) for name in _FIELDS}
    settings = AttackSettings(**{k: v for k, v in fields.items() if v is not None})
    runs = run_attack(settings, options.text, out, options.device, command, error_console())
    print_tables(write_report(runs, out, _about(settings, options.text, runs, command)))
    print(f"report  {out / PAGE}")
    return 0


def _field(option: str) -> str:
    """Return the field of `AttackSettings` that an option sets."""
    return "matchings" if option == "match" else option.replace("-", "_")


def _about(settings: AttackSettings, text: str, runs: list[dict[str, Any]], command: str) -> str:
    """Return what was done, for the page."""
    machines = ", ".join(sorted({run["machine"] for run in runs}))
    return (
        f"{text}: models of {settings.num_parameters:,} weights in {settings.num_layers} blocks, "
        f"{settings.seeds} seed(s), {settings.train_bytes:,} bytes to read; {machines}, "
        f"{datetime.date.today():%Y-%m-%d}: {command}"
    )
