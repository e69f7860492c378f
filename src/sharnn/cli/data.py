"""`sharnn data`: the known corpora, and texts prepared for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import check_options, error_console, make_parser, prepare_bar
from sharnn.config import did_you_mean
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from sharnn.data.corpus import Corpus

HELP = "list known corpora, prepare texts, tell what is in them"

_USAGE = """\
usage: sharnn data list
       sharnn data prepare TEXT… [--tokenizer byte|word] [--from PATH]
       sharnn data info TEXT…|FOLDER [--tokenizer byte|word] [--from PATH] [--verify] [--json]

'train' and 'evaluate' prepare what they read by themselves; these verbs do it ahead of time, from a
local copy, or tell what is in a text. Prepared texts lie in the cache folder ($SHARNN_CACHE moves it).

examples:
  sharnn data prepare enwik8
  sharnn data prepare enwik8 --from ~/Downloads/enwik8.zip
  sharnn data prepare 'notes/**/*.md'
  zcat logs.gz | sharnn data prepare -
  sharnn data info wikitext-2 --verify"""

_VERBS = ("list", "prepare", "info")


def run(argv: list[str]) -> int:
    """Run one of the verbs."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in _VERBS:
        raise ConfigError(
            f"there is no 'sharnn data {verb}'{did_you_mean(verb, _VERBS)}: {', '.join(_VERBS)}"
        )
    return {"list": _list, "prepare": _prepare, "info": _info}[verb](rest)


def _list(argv: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from sharnn.data.corpora import KNOWN_CORPORA

    check_options(argv, ())
    table = Table("corpus", "tokens", "licence", "what it is", box=None)
    for corpus in KNOWN_CORPORA.values():
        table.add_row(corpus.name, corpus.tokenizer, corpus.licence, corpus.description)
    Console().print(table)
    return 0


def _prepare(argv: list[str]) -> int:
    corpus, _ = _prepared("prepare", argv)
    _print_corpus(corpus)
    return 0


def _info(argv: list[str]) -> int:
    corpus, options = _prepared("info", argv)
    if options["verify"]:
        corpus.verify()
    if options["json"]:
        print(json.dumps({"folder": str(corpus.folder), **corpus.manifest}))
    else:
        _print_corpus(corpus)
        if options["verify"]:
            print("every byte is the one that was prepared")
    return 0


def _prepared(verb: str, argv: list[str]) -> tuple[Corpus, dict[str, bool]]:
    from sharnn.data.corpus import MANIFEST, Corpus
    from sharnn.data.prepare import prepare

    own = ["--tokenizer", "--from"] + (["--verify", "--json"] if verb == "info" else [])
    check_options(argv, own)
    parser = make_parser(f"data {verb}", "TEXT… [options]", _USAGE.split("\n\n", 1)[1], "")
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="known corpus, file, folder, glob, -"
    )
    parser.add_argument("--tokenizer", type=str | None, help="byte or word (default: the corpus's)")
    parser.add_argument(
        "--from", dest="source", type=str | None, help="local copy of a known corpus"
    )
    parser.add_argument("--verify", action="store_true", help="read everything, compare digests")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    options = parser.parse_args(argv)
    flags = {"verify": options.verify, "json": options.json}
    if len(options.texts) == 1 and (Path(options.texts[0]) / MANIFEST).is_file():
        return Corpus.open(Path(options.texts[0])), flags
    source = Path(options.source).expanduser() if options.source is not None else None
    with prepare_bar(error_console()) as progress:
        corpus = prepare(
            options.texts, tokenizer=options.tokenizer, local_source=source, progress=progress
        )
    return corpus, flags


def _print_corpus(corpus: Corpus) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "bytes", "characters", "words", "tokens", "SHA-256", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for name, entry in corpus.manifest["splits"].items():
        counts = (entry[f"num_{what}"] for what in ("bytes", "chars", "words", "tokens"))
        table.add_row(name, *(f"{count:,}" for count in counts), entry["sha256"][:12])
    tokenizer = corpus.tokenizer
    print(f"{corpus.name}: {tokenizer.name} tokens, vocabulary of {tokenizer.vocab_size:,}")
    Console().print(table)
    print(f"folder  {corpus.folder}")
    print(f"digest  {corpus.digest}")
