"""`sharnn data`: the known corpora, and texts prepared for training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import (
    error_console,
    make_parser,
    naming_options,
    prepare_bar,
    run_subverb,
)
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from rich.table import Table

    from sharnn.cli.parser import VerbParser
    from sharnn.data.corpus import Corpus

HELP = "list known corpora, prepare texts, tell what is in them"

_USAGE = """\
usage: sharnn data list
       sharnn data prepare TEXT… [--tokenizer byte|word|NAME.json] [--from PATH]
       sharnn data info TEXT…|FOLDER [--tokenizer …] [--from PATH] [--verify] [--json]
       sharnn data make recall --out FILE [--bytes N] [--seed N] [--pairs N] …
"""

_ABOUT = """\
'train' and 'evaluate' prepare what they read by themselves; these verbs do it ahead of time, from a
local copy, or tell what is in a text. Prepared texts lie in the cache folder ($SHARNN_CACHE moves it).
"""

_EXAMPLES = """\
examples:
  sharnn data prepare enwik8                                 download, check, prepare
  sharnn data prepare enwik8 --from ~/Downloads/enwik8.zip   without a network
  sharnn data prepare 'notes/**/*.md' more.txt.gz            texts one after the other
  zcat logs.gz | sharnn data prepare -                       standard input
  sharnn data info wikitext-2 --verify                       counts; read all, compare digests
  sharnn data make recall --out recall.txt --bytes 4000000   pairs to recall: does a memory work?"""

_ABOUT_RECALL = """\
Make a text that shows whether a model recalls: lines store pairs of hexadecimal digits, k=v;, or ask for
one that stood before, ?k=v;. A digit of an asked value costs 4 bits where it is not recalled, and nothing
where it is; how far back it stood is spread evenly over the logarithm of the distance. Prints what such a
text costs in bits per byte with all recalled and with nothing recalled.
"""

#: Columns of a table that goes to a file or pipe, where lines have no end.
_WIDE = 200


def run(argv: list[str]) -> int:
    """Run one of the verbs."""
    runs = {"list": _list, "prepare": _prepare, "info": _info, "make": _make}
    return run_subverb("data", argv, runs, (_USAGE, _ABOUT, _EXAMPLES))


def _list(argv: list[str]) -> int:
    from rich.table import Table

    from sharnn.data.corpora import KNOWN_CORPORA

    make_parser("data list", "", "Known corpora: their names are TEXTs.", _EXAMPLES).parse_args(
        argv
    )
    table = Table("corpus", "tokens", "licence", "what it is", box=None)
    for corpus in KNOWN_CORPORA.values():
        table.add_row(corpus.name, corpus.tokenizer, corpus.licence, corpus.description)
    _print_table(table)
    return 0


def _prepare(argv: list[str]) -> int:
    options = _text_parser("prepare").parse_args(argv)
    _print_corpus(_prepared(options))
    return 0


def _info(argv: list[str]) -> int:
    parser = _text_parser("info")
    parser.add_argument("--verify", action="store_true", help="read everything, compare digests")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    options = parser.parse_args(argv)
    corpus = _opened(options) or _prepared(options)
    if options.verify:
        corpus.verify()
    if options.json:
        print(json.dumps({"folder": str(corpus.folder), **corpus.manifest, "name": corpus.name}))
    else:
        _print_corpus(corpus)
        if options.verify:
            print("every byte is the one that was prepared")
    return 0


def _make(argv: list[str]) -> int:
    from sharnn.data.recall_task import RecallTask, make_recall_text
    from sharnn.files import atomic_file

    what = {
        "pairs": "pairs that can be asked for at a time",
        "key-digits": "digits of a key",
        "value-digits": "digits of a value",
        "shortest": "least distance in bytes from an asked value to where it last stood",
        "longest": "greatest distance",
        "store-share": "share of the lines that store a new pair",
    }
    parser = make_parser("data make", "recall --out FILE [options]", _ABOUT_RECALL, _EXAMPLES)
    parser.add_argument("what", choices=["recall"], metavar="recall", help="the one kind there is")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="of the text, at most")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same text")
    for name, help_text in what.items():
        default = getattr(RecallTask, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=type(default), default=default, help=help_text)
    options = parser.parse_args(argv)
    settings = {name: options[name] for name in (key.replace("-", "_") for key in what)}
    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another file, or remove it")
    with prepare_bar(error_console()) as progress:
        made = make_recall_text(
            RecallTask(**settings),
            options.bytes,
            options.seed,
            progress and (lambda done, total: progress("making pairs", done, total)),
        )
    with atomic_file(out) as file:
        file.write(made.text)
    print(f"{out}: {len(made.text):,} bytes, {made.num_asked:,} of them digits to recall")
    print(f"with all recalled  {made.bound:.4f} bits per byte")
    print(f"with none recalled {made.without_recall:.4f} bits per byte")
    return 0


def _text_parser(verb: str) -> VerbParser:
    """Return a parser of TEXT… and how to prepare them."""
    parser = make_parser(f"data {verb}", "TEXT… [options]", _ABOUT, _EXAMPLES)
    what = "known corpus, file, folder, glob in quotes, or - for standard input"
    if verb == "info":
        what += "; or the FOLDER of a prepared corpus"
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=what)
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        help="byte, word, or NAME.json made by 'sharnn tokenizer train' (default: the corpus's)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=str | None,
        help="local copy of a known corpus: the zip, the folder it unpacks to, or the file in it",
    )
    return parser


def _opened(options: Namespace) -> Corpus | None:
    """Open the folder of a prepared corpus, if that is what was named.

    Raises:
        ConfigError: Options for preparing it were given too.
        DataError: The folder is damaged.
    """
    from sharnn.data.corpus import MANIFEST, TOKENIZER, TOKENS, Corpus

    folder = options.texts[0]
    # Two of the files are enough: a folder that has lost one is damaged, not a text.
    parts = sum(
        os.path.isfile(os.path.join(folder, part)) for part in (MANIFEST, TOKENIZER, TOKENS)
    )
    if len(options.texts) > 1 or parts < 2:
        return None
    if options.tokenizer or options.source:
        raise ConfigError(f"{folder} is prepared already: leave out --tokenizer and --from")
    return Corpus.open(Path(folder))


def _prepared(options: Namespace) -> Corpus:
    from sharnn.data.prepare import prepare

    source = Path(options.source).expanduser() if options.source is not None else None
    with prepare_bar(error_console()) as progress, naming_options({"local_source": "--from"}):
        return prepare(
            options.texts, tokenizer=options.tokenizer, local_source=source, progress=progress
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
    print(f"{corpus.name}: {tokenizer.name} tokens, vocabulary of {tokenizer.vocab_size:,}")
    _print_table(table)
    if corpus.manifest["licence"]:
        print(f"licence {corpus.manifest['licence']}")
    print(f"folder  {corpus.folder}")
    print(f"digest  {corpus.digest}")


def _print_table(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)
