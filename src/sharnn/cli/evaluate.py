"""`sharnn evaluate`: score a text in bits per byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from sharnn.cli.common import check_options, error_console, make_parser, prepare_bar

if TYPE_CHECKING:
    from sharnn.evaluate import Score

HELP = "score a text in bits per byte"

_DESCRIPTION = """\
Score TEXT with MODEL. A known corpus is scored on its test split, any other text whole, unless
--split says otherwise. 'strict' reads the text in one lane and scores every byte exactly once;
'paper' does as the code of 2019 did (lanes that start cold, a tail that is never scored)."""

_EXAMPLES = """\
examples:
  sharnn evaluate runs/mine other.txt
  sharnn evaluate runs/mine enwik8 --split valid
  sharnn evaluate runs/mine other.txt --window 20000      (a longer memory than trained with)
  sharnn evaluate runs/paper enwik8 --protocol paper --segment-length 1024"""

_OPTIONS = (
    "--split", "--protocol", "--window", "--segment-length", "--lanes", "--device", "--json",
)  # fmt: skip


def run(argv: list[str]) -> int:
    """Parse, score, and print a table or JSON."""
    check_options(argv, _OPTIONS)
    parser = make_parser("evaluate", "MODEL TEXT… [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="model folder, or a run folder for its best")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="what to score")
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
    options = parser.parse_args(argv)

    from sharnn.checkpoint import load_model
    from sharnn.data.prepare import prepare
    from sharnn.errors import ConfigError
    from sharnn.evaluate import PAPER_LANES, SEGMENT_LENGTH, evaluate_static
    from sharnn.train import resolve_device

    if options.lanes is not None and options.protocol == "strict":
        raise ConfigError("--lanes does nothing with --protocol strict, which reads in one lane")
    loaded = load_model(options.model, resolve_device(options.device))
    console = error_console()
    with prepare_bar(console) as progress:
        corpus = prepare(options.texts, tokenizer=loaded.tokenizer, progress=progress)
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
