"""`sharnn evaluate`: score a text in bits per byte."""

from __future__ import annotations

import glob
import json
import os
from typing import TYPE_CHECKING, Literal

from sharnn.cli.common import (
    MODEL_HELP,
    check_options,
    chosen_model,
    error_console,
    make_parser,
    options_first,
    prepare_bar,
)
from sharnn.config import did_you_mean
from sharnn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sharnn.evaluate import Score

HELP = "score a text in bits per byte"

_DESCRIPTION = """\
Score TEXT with MODEL. A known corpus is scored on its test split, any other text whole, unless
--split says otherwise. 'strict' reads the text in one lane and scores every byte exactly once;
'paper' does as the code of 2019 did (lanes that start cold, a tail that is never scored).

The first argument is MODEL if it is 'base', a model folder or a run folder. If it is none of these,
all arguments are TEXT, and the model is 'base', which comes with sharnn."""

_EXAMPLES = """\
examples:
  sharnn evaluate my.txt                                  (with the model that comes with sharnn)
  sharnn evaluate runs/mine other.txt
  cat other.txt | sharnn evaluate runs/mine -
  sharnn evaluate runs/mine enwik8 --split valid
  sharnn evaluate runs/mine other.txt --window 20000      (a longer memory than trained with)
  sharnn evaluate runs/paper enwik8 --protocol paper --segment-length 1024"""

_FLAGS = ("--json", "--help", "-h")
_OPTIONS = (
    "--split", "--protocol", "--window", "--segment-length", "--lanes", "--device", "--json",
)  # fmt: skip


def run(argv: list[str]) -> int:
    """Parse, score, and print a table or JSON."""
    check_options(argv, _OPTIONS)
    parser = make_parser("evaluate", "[MODEL] TEXT… [options]", _DESCRIPTION, _EXAMPLES)
    # MODEL and TEXT are told apart by what they name, not by their number.
    parser.add_argument(
        "names", nargs="*", metavar="[MODEL] TEXT", help=f"{MODEL_HELP}; and what to score"
    )
    parser.add_argument(
        "--split", type=str | None, help="train, valid, test or all (default: see above)"
    )
    parser.add_argument("--protocol", type=Literal["strict", "paper"], default="strict")
    parser.add_argument(
        "--window", type=int | None, help="memory rows in reach (default: the model's)"
    )
    parser.add_argument(
        "--segment-length", type=int | None, help="tokens read at once (512, paper 1024)"
    )
    parser.add_argument(
        "--lanes", type=int | None, help="lanes of the paper protocol (valid 16, test 8)"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(options_first(argv, _FLAGS))

    from sharnn.checkpoint import load_model
    from sharnn.data.prepare import prepare
    from sharnn.evaluate import PAPER_LANES, SEGMENT_LENGTH, evaluate_static
    from sharnn.train import resolve_device

    if options.lanes is not None and options.protocol == "strict":
        raise ConfigError("--lanes does nothing with --protocol strict, which reads in one lane")
    model, texts = _model_and_texts(options.names)
    console = error_console()
    loaded = load_model(chosen_model(model, console), resolve_device(options.device))
    with prepare_bar(console) as progress:
        corpus = prepare(texts, tokenizer=loaded.tokenizer, progress=progress)
    split_name = options.split or ("test" if corpus.own_splits else "all")
    paper = options.protocol == "paper"
    with prepare_bar(console) as progress:
        score = evaluate_static(
            loaded.model,
            loaded.tokenizer,
            corpus.split(split_name),
            protocol=options.protocol,
            num_lanes=options.lanes or PAPER_LANES.get(split_name, PAPER_LANES["test"]),
            segment_length=options.segment_length or (1024 if paper else SEGMENT_LENGTH),
            window=options.window,
            report=progress and (lambda done, total: progress("scoring", done, total)),
        )
    if options.json:
        facts = {"model": str(loaded.folder), "text": corpus.name, "split": split_name}
        print(json.dumps({**facts, "corpus_digest": corpus.digest, **score.to_dict()}))
    else:
        _print_table(score, f"{corpus.name}, {split_name}", str(loaded.folder))
    return 0


def _model_and_texts(names: list[str]) -> tuple[str | None, list[str]]:
    """Return MODEL, None where it was left out, and the TEXTs.

    Raises:
        ConfigError: There is no TEXT, or MODEL does not stand first.
        DataError: The first is neither a model nor a text.
    """
    from sharnn.checkpoint import is_model

    if not names:
        raise ConfigError("there is no TEXT to score: sharnn evaluate [MODEL] TEXT…")
    first = names[0]
    if is_model(first):
        if len(names) == 1:
            raise ConfigError(
                f"{first} is a model, and there is no TEXT to score with it: sharnn evaluate {first} "
                f"TEXT… (to score it as a text, name the model first: sharnn evaluate base {first})"
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
            f"{late} is a model and stands behind a text: MODEL goes first (to score it as a text, name "
            "the model: sharnn evaluate base TEXT…)"
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


def _print_table(score: Score, text: str, model: str) -> None:
    rows = [
        ("model", model),
        ("text", text),
        ("protocol", score.protocol),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
        ("bits per char", f"{score.bits_per_char:.4f}"),
        ("bits per token", f"{score.bits_per_token:.4f}"),
        ("word perplexity", f"{score.word_perplexity:,.2f}"),
        ("scored", f"{score.num_bytes:,} bytes, {score.num_chars:,} characters, "
                   f"{score.num_words:,} words, {score.num_tokens:,} tokens"),
        ("not scored", f"{score.unscored_bytes:,} bytes, {score.unscored_tokens:,} tokens"),
        ("speed", f"{score.tokens_per_second:,.0f} tokens/s"),
    ]  # fmt: skip
    for name, value in rows:
        print(f"{name}  {value}")
