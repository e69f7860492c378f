"""`sharnn attention`: show where the head looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import (
    MODEL_HELP,
    chosen_model,
    error_console,
    make_parser,
    model_and_texts,
    prepare_bar,
)
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.evaluate import AttentionReading
    from sharnn.evaluate.lane_reader import Tokens
    from sharnn.report import AttentionPaths
    from sharnn.text import Tokenizer

HELP = "show where the head looks"

_DESCRIPTION = """\
Read TEXT with MODEL in one lane and show where its head looks: a picture (by distance, and as the text
goes on), a page in which every character that is pointed at tells what the head looked at to predict it,
and the numbers as JSON and as a table, beside those of a head that looks everywhere alike. A known corpus
is read in its test split, any other text whole. docs/attention.md has the formula of every number.

The first argument is MODEL if it is 'base', a model folder or a run folder. If it is none of these,
all arguments are TEXT, and the model is 'base', which comes with sharnn."""

_EXAMPLES = """\
examples:
  sharnn attention my.txt                                 (with the model that comes with sharnn)
  sharnn attention runs/mine other.txt --out look
  sharnn attention runs/mine part2.txt --context part1.txt  (read before, neither counted nor shown)
  sharnn attention runs/paper-all other.txt --layer 3 --window 5000"""


#: More would make a page that no browser likes.
_MOST_BYTES = 20_000


def run(argv: list[str]) -> int:
    """Parse, read, write the files, and print the numbers."""
    options = _parse(argv)

    from sharnn.checkpoint import BASE, load_model
    from sharnn.data.prepare import prepare
    from sharnn.evaluate import heads_to_read, read_attention
    from sharnn.report import write_attention
    from sharnn.train import resolve_device

    model, texts = model_and_texts(options.names, "attention", "to read")
    console = error_console()
    loaded = load_model(chosen_model(model, console), resolve_device(options.device))
    heads_to_read(loaded.model, options.layer, options.window)  # before a long text is read
    with prepare_bar(console) as progress:
        corpus = prepare(texts, tokenizer=loaded.tokenizer, progress=progress)
        context = options.context and prepare(
            options.context, tokenizer=loaded.tokenizer, progress=progress
        )
    split_name = "test" if corpus.own_splits else "all"
    split = corpus.split(split_name)
    with prepare_bar(console) as progress:
        reading = read_attention(
            loaded.model,
            loaded.tokenizer,
            split.tokens,
            context=context.split("all").tokens if context else None,
            layer=options.layer,
            window=options.window,
            num_shown=_num_shown(loaded.tokenizer, split.tokens, options.max_bytes),
            report=progress and (lambda done, total: progress("tokens read", done, total)),
        )
    facts: dict[str, Any] = {
        "model": str(loaded.folder),
        "text": corpus.name,
        "split": split_name,
        "corpus_digest": corpus.digest,
        "context": context.name if context else None,
        "num_bytes": split.num_bytes,
        "bits_per_byte": reading.bits_per_token * split.num_tokens / split.num_bytes,
    }
    title = _title(model or BASE, facts, reading)
    paths = write_attention(reading, loaded.tokenizer, title, facts, Path(options.out))
    if options.json:
        print(json.dumps({**facts, **reading.to_dict()}))
    else:
        _print_table(title, facts["bits_per_byte"], reading, paths)
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = make_parser("attention", "[MODEL] TEXT… [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "names", nargs="*", metavar="[MODEL] TEXT", help=f"{MODEL_HELP}; and what to read"
    )
    parser.add_argument("--out", type=str, default="attention", help="folder of the files")
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=4000,
        help="of the text shown; the numbers are of all of it",
    )
    parser.add_argument(
        "--context", type=str, action="append",
        help="a text that is read before, neither counted nor shown; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=int | None, help="the block to look at, from 0 (default: all that attend)"
    )
    parser.add_argument(
        "--window", type=int | None, help="memory rows in reach (default: the model's)"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    options = parser.parse_scattered(argv)
    if not 1 <= options.max_bytes <= _MOST_BYTES:
        raise ConfigError(
            f"--max-bytes is {options.max_bytes}: of 1 to {_MOST_BYTES:,} bytes of the text a page can "
            "show what is looked at (the numbers are of the whole text)"
        )
    return options


def _num_shown(tokenizer: Tokenizer, tokens: Tokens, max_bytes: int) -> int:
    """Return how many tokens of the text are shown: one at least, and else no more bytes than asked."""
    num_bytes = 0
    for index, token in enumerate(tokens[:max_bytes].tolist()):
        num_bytes += len(tokenizer.token_bytes(token))
        if num_bytes > max_bytes:
            return max(index, 1)
    return max_bytes


def _title(model: str, facts: dict[str, Any], reading: AttentionReading) -> str:
    text = "standard input" if facts["text"] == "-" else facts["text"]
    context = f" after {facts['context']}" if facts["context"] else ""
    return f"{model} on {text}{context} · window {reading.window:,} · {reading.num_tokens:,} tokens"


def _print_table(
    title: str, bits_per_byte: float, reading: AttentionReading, paths: AttentionPaths
) -> None:
    from rich.console import Console
    from rich.table import Table

    from sharnn.report import attention_rows

    print(title)
    print(f"bits per byte  {bits_per_byte:.4f}\n")
    (_, heading), *rows = attention_rows(reading)
    table = Table(box=None, pad_edge=False)
    for name in ("", *heading):
        table.add_column(name, no_wrap=True)
    for name, cells in rows:
        table.add_row(name, *cells)
    Console().print(table)
    print(f"\npage      {paths.html}")
    for png in paths.pngs:
        print(f"picture   {png}")
    print(f"numbers   {paths.json}")
