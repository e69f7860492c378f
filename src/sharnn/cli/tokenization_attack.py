"""`sharnn tokenization-attack`: what finer tokens win, and how much of it is being told."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import error_console, make_parser, print_tables
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from sharnn.experiments.attack import AttackSettings

HELP = "find out what finer tokens win, and how much of it is being told"

_DESCRIPTION = """\
Train the same architectures on the same bytes of TEXT in several tokenizations, with equal weights and
either equal bytes or equal arithmetic; score all on the same words; and take the scores apart: by the
place in the word, by kind of word, by all ways to cut it, with a word's earlier tokens not told, and
with merges left out of the text. docs/tokenization.md has every formula.

A closed vocabulary of words ('word') needs a text in WikiText's tokenised form and is left out of others.
A stopped experiment goes on where it was: the same command does what is missing."""

_EXAMPLES = """\
examples:
  sharnn tokenization-attack my.txt --seeds 1
  sharnn tokenization-attack wikitext-2 --out attack
  sharnn tokenization-attack my.txt --architectures sha-rnn transformer --tokenizations byte bpe-1024"""

#: Options that are fields of `AttackSettings`, each with its help.
_FIELDS = {
    "architectures": "sha-rnn, no-attention, lstm, transformer (default: all)",
    "tokenizations": "byte, word, or bpe-N, wordpiece-N, unigram-N, spelled-N with N tokens",
    "match": "what is equal: bytes, compute or both (default)",
    "seeds": "trainings of each (3)",
    "num-parameters": "weights of every model (1000000)",
    "num-layers": "blocks of every model (2)",
    "train-bytes": "bytes that each reads where bytes are equal (4000000)",
    "compute-bytes": "where arithmetic is equal: what the first model needs for so many (a quarter)",
    "segment-bytes": "bytes that a gradient reaches back over (256)",
    "window-bytes": "bytes that a memory reaches back over (2048)",
    "num-lanes": "lanes (16)",
    "score-bytes": "bytes of the test split to score at most (200000)",
    "words": "words of them to score in all ways (400)",
    "dropouts": "rates at which merges are left out (0.05 0.1 0.2 0.4)",
}
_NAMES, _RATES = ("architectures", "tokenizations", "match"), ("dropouts",)


def run(argv: list[str]) -> int:
    """Parse, train what is missing, score, and print the tables."""
    parser = make_parser("tokenization-attack", "TEXT [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("text", type=str, help="a file or a known corpus")
    for name, text in _FIELDS.items():
        if name in _NAMES:
            parser.add_argument(f"--{name}", nargs="+", type=str, help=text)
        elif name in _RATES:
            parser.add_argument(f"--{name}", nargs="+", type=float, help=text)
        else:
            parser.add_argument(f"--{name}", type=int | None, help=text)
    parser.add_argument("--out", type=str, default="attack", help="folder of everything")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    options = parser.parse_args(argv)
    if options.text == "-":
        raise ConfigError("TEXT is read again by every training, so it cannot be -: give a file")

    from sharnn.experiments.attack import AttackSettings
    from sharnn.experiments.attack_report import PAGE, tell
    from sharnn.experiments.attack_run import run_attack

    given = {name: getattr(options, name.replace("-", "_")) for name in _FIELDS}
    fields = {
        "matchings" if name == "match" else name.replace("-", "_"): value
        for name, value in given.items()
        if value is not None
    }
    settings, out = AttackSettings(**fields), Path(options.out)
    try:
        results = run_attack(settings, options.text, out, options.device, error_console())
    except KeyboardInterrupt:
        print("sharnn: stopped; the same command goes on", file=sys.stderr)
        return 130
    tables = tell(results, out, _about(settings, options.text, results, argv))
    print_tables(tables)
    print(f"report  {out / PAGE}")
    return 0


def _about(
    settings: AttackSettings, text: str, results: list[dict[str, Any]], argv: list[str]
) -> str:
    """Return what was done, for the page."""
    machines = ", ".join(sorted({result["machine"] for result in results}))
    return (
        f"{text}: models of {settings.num_parameters:,} weights in {settings.num_layers} blocks, "
        f"{settings.seeds} seed(s), {settings.train_bytes:,} bytes to read; {machines}, "
        f"{datetime.date.today():%Y-%m-%d}: {shlex.join(['sharnn', 'tokenization-attack', *argv])}"
    )
