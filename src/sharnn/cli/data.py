"""`sharnn data`: list known corpora, prepare texts for training, make a recall text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import (
    READING,
    SOURCE,
    TEXT_HELP,
    error_console,
    local_source,
    make_parser,
    named,
    naming_options,
    new_file,
    print_rich,
    progress_bar,
    reading_of,
    run_subverb,
)
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.cli.parser import VerbParser
    from sharnn.data.corpus import Corpus

HELP = "list known corpora, prepare texts, count what is in them"

_USAGE = """\
usage: sharnn data list
       sharnn data prepare TEXT… [--tokenizer byte|word|NAME.json] [--from PATH]
       sharnn data info TEXT…|FOLDER [--tokenizer …] [--from PATH] [--verify] [--json]
       sharnn data make recall --out FILE [--bytes N] [--seed N] [--pairs N] …
"""

_ABOUT = """\
'train' and 'evaluate' prepare their texts themselves. These verbs prepare a text in advance or from a
local copy, and count its bytes, words and tokens. Prepared texts are kept in the cache folder, which
$SHARNN_CACHE moves.
"""

_EXAMPLES = """\
examples:
  sharnn data prepare enwik8                                 download, check, prepare
  sharnn data prepare enwik8 --from ~/Downloads/enwik8.zip   without a network
  sharnn data prepare 'notes/**/*.md' more.txt.gz            several texts, joined
  zcat logs.gz | sharnn data prepare -                       standard input
  sharnn data info wikitext-2 --verify                       count, and compare digests
  sharnn data make recall --out recall.txt --bytes 4000000   a text that tests a memory"""

_ABOUT_RECALL = """\
Make a text that tests a model's memory. A line stores a pair of hexadecimal numbers, k=v;, or queries a
stored one, ?k=v;. A digit of a queried value costs 0 bits with perfect recall and 4 bits without. The
distance to the previous occurrence of the value is log-uniform. Prints the bits per byte of the text with
perfect recall and without recall.
"""

#: Settings of a recall text, each with its help.
_RECALL_SETTINGS = {
    "pairs": "number of live pairs: a new one replaces the least recently used",
    "key_digits": "digits of a key",
    "value_digits": "digits of a value",
    "shortest": "smallest distance in bytes from a queried value to its previous occurrence",
    "longest": "largest distance",
    "store_share": "share of the lines that store a new pair",
}


def run(argv: list[str]) -> int:
    """Run one of the subverbs."""
    runs = {"list": _list, "prepare": _prepare, "info": _info, "make": _make}
    return run_subverb("data", argv, runs, (_USAGE, _ABOUT, _EXAMPLES))


def _list(argv: list[str]) -> int:
    from rich.table import Table

    from sharnn.data.corpora import KNOWN_CORPORA

    about = "List the known corpora. Their names can be given as TEXT."
    make_parser("data list", "", about, _EXAMPLES).parse_args(argv)
    table = Table("corpus", "tokens", "licence", "what it is", box=None)
    for corpus in KNOWN_CORPORA.values():
        table.add_row(corpus.name, corpus.tokenizer, corpus.licence, corpus.description)
    print_rich(table)
    return 0


def _prepare(argv: list[str]) -> int:
    options = _text_parser("prepare").parse_args(argv)
    _print_corpus(_prepared(options))
    return 0


def _info(argv: list[str]) -> int:
    parser = _text_parser("info")
    parser.add_options({
        "--verify": (False, "read all of it and compare digests"),
        "--json": (False, "print the manifest as JSON"),
    })  # fmt: skip
    options = parser.parse_args(argv)
    corpus = _opened(options) or _prepared(options)
    if options.verify:
        corpus.verify()
    if options.json:
        print(json.dumps({"folder": str(corpus.folder), **corpus.manifest, "name": corpus.name}))
    else:
        _print_corpus(corpus)
        if options.verify:
            print("verified: all digests match")
    return 0


def _make(argv: list[str]) -> int:
    from sharnn.data.recall_task import RecallTask, make_recall_text
    from sharnn.files import atomic_file

    parser = make_parser("data make", "recall --out FILE [options]", _ABOUT_RECALL, _EXAMPLES)
    parser.add_argument("what", choices=["recall"], metavar="recall", help="the only kind")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="file to write; folders above it are made"
    )
    parser.add_options({
        "--bytes": (1_000_000, "maximum size in bytes"),
        "--seed": (0, "the same seed makes the same text"),
    })  # fmt: skip
    options_of = {name: f"--{name.replace('_', '-')}" for name in _RECALL_SETTINGS}
    parser.add_options({
        options_of[name]: (getattr(RecallTask, name), text) for name, text in _RECALL_SETTINGS.items()
    })  # fmt: skip
    options = parser.parse_args(argv)
    out = new_file(options.out)
    with (
        progress_bar(error_console()) as progress,
        naming_options({**options_of, "num_bytes": "--bytes", "seed": "--seed"}),
    ):
        made = make_recall_text(
            RecallTask(**{name: options[name] for name in _RECALL_SETTINGS}),
            options.bytes,
            options.seed,
            named(progress, "making pairs"),
        )
    with atomic_file(out) as file:
        file.write(made.text)
    print(f"{out}: {len(made.text):,} bytes, {made.num_asked:,} of them digits of queried values")
    print(f"with perfect recall  {made.bound:.4f} bits per byte")
    print(f"without recall       {made.without_recall:.4f} bits per byte")
    return 0


def _text_parser(verb: str) -> VerbParser:
    """Return a parser of TEXTs and the options that prepare them."""
    parser = make_parser(f"data {verb}", "TEXT… [options]", _ABOUT, _EXAMPLES)
    folder = "; or the FOLDER of a prepared corpus" if verb == "info" else ""
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=TEXT_HELP + folder)
    parser.add_options({
        "--tokenizer": (str, "byte, word, or NAME.json made by 'sharnn tokenizer train' (default: the "
                             "corpus's)"),
        **SOURCE,
        **READING,
    })  # fmt: skip
    return parser


def _opened(options: Namespace) -> Corpus | None:
    """Return the prepared corpus that TEXT names; None if it names a text.

    Raises:
        ConfigError: Options that prepare a text were given too.
        DataError: The folder is damaged.
    """
    from sharnn.data.corpus import MANIFEST, TOKENIZER, TOKENS, Corpus

    folder = options.texts[0]
    # Two of the three files are enough: a folder without the third is a damaged corpus, not a text.
    parts = sum(
        os.path.isfile(os.path.join(folder, part)) for part in (MANIFEST, TOKENIZER, TOKENS)
    )
    if len(options.texts) > 1 or parts < 2:
        return None
    if options.tokenizer or options["from"] or reading_of(options):
        raise ConfigError(
            f"{folder} is prepared already: leave out --tokenizer, --from, --encoding, --include and "
            "--exclude"
        )
    return Corpus.open(Path(folder))


def _prepared(options: Namespace) -> Corpus:
    from sharnn.data.prepare import prepare

    with progress_bar(error_console()) as progress, naming_options({"local_source": "--from"}):
        return prepare(
            options.texts,
            tokenizer=options.tokenizer,
            **reading_of(options),
            local_source=local_source(options),
            progress=progress,
        )


def _print_corpus(corpus: Corpus) -> None:
    from rich.table import Table

    table = Table("split", "bytes", "characters", "words", "tokens", "SHA-256", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for name, entry in corpus.manifest["splits"].items():
        counts = (entry[f"num_{what}"] for what in ("bytes", "chars", "words", "tokens"))
        table.add_row(name, *(f"{count:,}" for count in counts), entry["sha256"][:12])
    tokenizer = corpus.tokenizer
    if corpus.reading:
        print(corpus.reading)
    print(f"{corpus.name}: {tokenizer.name} tokens, vocabulary of {tokenizer.vocab_size:,}")
    print_rich(table)
    if corpus.manifest["licence"]:
        print(f"licence {corpus.manifest['licence']}")
    print(f"folder  {corpus.folder}")
    print(f"digest  {corpus.digest}")
