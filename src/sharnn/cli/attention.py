"""`sharnn attention`: show what the head attends to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import (
    DEVICE,
    MODEL_OR_TEXT,
    READING,
    WINDOW,
    add_model_and_texts,
    chosen_model,
    error_console,
    make_parser,
    model_and_texts,
    named,
    notice_on,
    output_folder,
    print_facts,
    progress_bar,
    reading_of,
)
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.evaluate import AttentionReading
    from sharnn.evaluate.lane_reader import Tokens
    from sharnn.report import AttentionPaths
    from sharnn.text import Tokenizer

HELP = "show what the head attends to"

_DESCRIPTION = f"""\
Read TEXT with MODEL in one lane and record its attention weights. Writes a picture (weights by distance,
and along the text), a page in which each character that the mouse points at shows what the head attended
to when predicting it, and the statistics as JSON. Prints the statistics as a table, beside those of a
uniform head. A known corpus is read in its test split, any other text as a whole. docs/attention.md has
the formulas.

{MODEL_OR_TEXT}"""

_EXAMPLES = """\
examples:
  sharnn attention my.txt                                 (with the model that comes with sharnn)
  sharnn attention runs/mine other.txt --out look
  sharnn attention runs/mine part2.txt --context part1.txt  (read first, not counted or shown)
  sharnn attention runs/paper-all other.txt --layer 3 --window 5000"""


#: A page with more would be slow in a browser.
_MOST_BYTES = 20_000


def run(argv: list[str]) -> int:
    """Parse, read, write the files, and print the statistics."""
    options = _parse(argv)

    from sharnn.checkpoint import BASE, load_model
    from sharnn.data.prepare import prepare
    from sharnn.evaluate import heads_to_read, read_attention
    from sharnn.report import write_attention
    from sharnn.train import resolve_device

    model, texts = model_and_texts(options.names, "attention", "to read")
    out = output_folder(options.out)
    console = error_console()
    loaded = load_model(chosen_model(model, console), resolve_device(options.device))
    heads_to_read(loaded.model, options.layer, options.window)  # fails before a long text is read
    with progress_bar(console) as progress:
        how = {"tokenizer": loaded.tokenizer, **reading_of(options), "progress": progress}
        corpus = prepare(texts, **how, notice=notice_on(console))
        context = options.context and prepare(options.context, **how)
    split_name = "test" if corpus.own_splits else "all"
    split = corpus.split(split_name)
    with progress_bar(console) as progress:
        reading = read_attention(
            loaded.model,
            loaded.tokenizer,
            split.tokens,
            context=context.split("all").tokens if context else None,
            layer=options.layer,
            window=options.window,
            num_shown=_num_shown(loaded.tokenizer, split.tokens, options.max_bytes),
            report=named(progress, "tokens read"),
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
    paths = write_attention(reading, loaded.tokenizer, title, facts, out)
    if options.json:
        print(json.dumps({**facts, **reading.to_dict()}))
    else:
        _print_table(title, facts["bits_per_byte"], reading, paths)
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = make_parser("attention", "[MODEL] TEXT… [options]", _DESCRIPTION, _EXAMPLES)
    add_model_and_texts(parser, "to read")
    parser.add_options({
        "--out": ("attention", "folder of the files", "FOLDER"),
        "--max-bytes": (4000, "bytes shown on the page; the statistics are of the whole text"),
        "--context": ([], "text to read first, not counted or shown; can be repeated", "TEXT"),
        "--layer": (int, "block to show, from 0 (default: all with a head)"),
        **READING,
        **WINDOW,
        **DEVICE,
        "--json": (False, "print the statistics as a JSON object"),
    })  # fmt: skip
    options = parser.parse_scattered(argv)
    if not 1 <= options.max_bytes <= _MOST_BYTES:
        raise ConfigError(
            f"--max-bytes is {options.max_bytes}: a page shows 1 to {_MOST_BYTES:,} bytes (the "
            "statistics are of the whole text)"
        )
    return options


def _num_shown(tokenizer: Tokenizer, tokens: Tokens, max_bytes: int) -> int:
    """Return the number of tokens shown: as many as fit into `max_bytes`, but at least one."""
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
    from sharnn.report import attention_rows

    print(title)
    print(f"bits per byte  {bits_per_byte:.4f}\n")
    print_facts(attention_rows(reading))
    print(f"\npage      {paths.html}")
    for png in paths.pngs:
        print(f"picture   {png}")
    print(f"numbers   {paths.json}")
