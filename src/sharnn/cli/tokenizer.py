"""`sharnn tokenizer`: train tokenizers of subwords and words, look into them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import (
    error_console,
    make_parser,
    naming_options,
    prepare_bar,
    run_subverb,
)
from sharnn.config import did_you_mean, names_tokenizer_file
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.data.corpus import Corpus
    from sharnn.text import Tokenizer

HELP = "train tokenizers of subwords and words, tell what one does to a text"

_USAGE = """\
usage: sharnn tokenizer train TEXT… --kind KIND [--vocab-size N] --out NAME.json [--from PATH]
       sharnn tokenizer import LIBRARY_FILE --out NAME.json
       sharnn tokenizer info NAME.json [TEXT…]
"""

_ABOUT = """\
A tokenizer decides what a model predicts at each step. Without one a model reads bytes.

  bpe           pieces of words, merged by frequency (as GPT-2's)
  wordpiece     pieces of words, the longest that fits first (as BERT's)
  unigram       pieces of words, the most probable way to spell a word (as SentencePiece's)
  spelled-word  the most frequent words, each one token; all others byte by byte
  word          all words of a text in WikiText's tokenised form, each one token

Only the train split is read: a known corpus's own, or the first 90 percent of other texts. All but
'word' can say any bytes. docs/tokenization.md has the formulas, and why scores are compared in bits per
byte, never per token.
"""

_EXAMPLES = """\
examples:
  sharnn tokenizer train my.txt --kind bpe --vocab-size 4096 --out bpe-4096.json
  sharnn tokenizer info bpe-4096.json my.txt                what it does to a text
  sharnn train my.txt --data.tokenizer bpe-4096.json --out runs/bpe
  sharnn tokenizer import gpt2/tokenizer.json --out gpt2.json"""

_KINDS = ("bpe", "wordpiece", "unigram", "spelled-word", "word")
#: As many of the longest tokens are shown, and so many bytes are encoded to take the time.
_SHOWN_TOKENS, _TIMED_BYTES = 12, 4_000_000


def run(argv: list[str]) -> int:
    """Run one of the verbs."""
    runs = {"train": _train, "import": _import, "info": _info}
    return run_subverb("tokenizer", argv, runs, (_USAGE, _ABOUT, _EXAMPLES))


def _train(argv: list[str]) -> int:
    parser = make_parser("tokenizer train", "TEXT… [options]", _ABOUT, _EXAMPLES)
    what = "known corpus, file, folder, glob in quotes, or - for standard input"
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=what)
    parser.add_argument("--kind", type=str | None, help=f"one of {', '.join(_KINDS)}")
    parser.add_argument(
        "--vocab-size", type=int, help="tokens, the single bytes among them; not for 'word'"
    )
    parser.add_argument("--out", type=str | None, help="file to write, NAME.json")
    parser.add_argument(
        "--from", dest="source", type=str | None, help="local copy of a known corpus (see data)"
    )
    options = parser.parse_args(argv)
    out = _new_file(options.out)
    _check_kind(options)

    from sharnn.data.prepare import train_tokenizer
    from sharnn.text import save_tokenizer

    source = Path(options.source).expanduser() if options.source is not None else None
    with prepare_bar(error_console()) as progress, naming_options({"local_source": "--from"}):
        tokenizer = train_tokenizer(
            options.texts, options.kind, options.vocab_size, local_source=source, progress=progress
        )
    save_tokenizer(tokenizer, out)
    _print_table(_describe(tokenizer))
    print(f"written to {out}; read a text with it: sharnn train TEXT --data.tokenizer {out}")
    return 0


def _check_kind(options: Namespace) -> None:
    """Refuse a kind that does not exist, or a size that it needs or cannot use.

    Raises:
        ConfigError: Says what to give.
    """
    kind, size = options.kind, options.vocab_size
    if kind not in _KINDS:
        hint = did_you_mean(kind, _KINDS) if kind else ""
        found = f"there is no kind '{kind}'{hint}" if kind else "--kind is missing"
        raise ConfigError(f"{found}: give one of {', '.join(_KINDS)}")
    if kind == "word" and size is not None:
        raise ConfigError(
            "--vocab-size does nothing for 'word', which has all words: leave it out, or take "
            "spelled-word"
        )
    if kind != "word" and size is None:
        raise ConfigError(f"--vocab-size is missing: give how many tokens {kind} shall have")


def _new_file(out: str | None) -> Path:
    """Return the path to write.

    Raises:
        ConfigError: It is missing, is no NAME.json, or is there already.
    """
    if out is None or not names_tokenizer_file(out):
        found = "--out is missing" if out is None else f"--out is {out}"
        raise ConfigError(f"{found}: give the tokenizer's file, NAME.json")
    path = Path(out).expanduser()
    if path.exists():
        raise ConfigError(f"--out {path} is there already: give another, or remove it first")
    return path


def _import(argv: list[str]) -> int:
    about = (
        "Import a tokenizer.json of the library 'tokenizers'. Only byte-level ones, such as GPT-2's,\n"
        "give every byte back; any other is refused, with the first byte that it loses. Texts are cut\n"
        "into units by sharnn's own rule, so a few places may be cut otherwise.\n"
    )
    parser = make_parser("tokenizer import", "LIBRARY_FILE --out NAME.json", about, _EXAMPLES)
    parser.add_argument("file", metavar="LIBRARY_FILE", help="a tokenizer.json of the library")
    parser.add_argument("--out", type=str | None, help="file to write, NAME.json")
    options = parser.parse_args(argv)
    out = _new_file(options.out)

    from sharnn.text import SubwordTokenizer, save_tokenizer

    tokenizer = SubwordTokenizer.from_library_file(Path(options.file).expanduser())
    save_tokenizer(tokenizer, out)
    _print_table(_describe(tokenizer))
    print(f"written to {out}")
    return 0


def _info(argv: list[str]) -> int:
    parser = make_parser("tokenizer info", "NAME.json [TEXT…]", _ABOUT, _EXAMPLES)
    parser.add_argument("file", metavar="NAME.json", help="tokenizer file, also of a model folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to read with it")
    options = parser.parse_args(argv)

    from sharnn.data.prepare import prepare
    from sharnn.text import load_tokenizer

    tokenizer = load_tokenizer(Path(options.file).expanduser())
    facts = _describe(tokenizer)
    if options.texts:
        with prepare_bar(error_console()) as progress:
            corpus = prepare(options.texts, tokenizer=tokenizer, progress=progress)
        # The corpus may have been prepared before: what is told must be what the tokenizer does now.
        corpus.verify()
        facts |= _measure(load_tokenizer(Path(options.file).expanduser()), corpus)
    _print_table(facts)
    return 0


def _describe(tokenizer: Tokenizer) -> dict[str, str]:
    """Return what a tokenizer is, by name."""
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    longest = sorted(tokens, key=lambda token: (-len(token), token))[:_SHOWN_TOKENS]
    return {
        "kind": getattr(tokenizer, "kind", tokenizer.name),
        "tokens": f"{tokenizer.vocab_size:,}",
        "mean token": f"{sum(map(len, tokens)) / len(tokens):.2f} bytes",
        "longest": "  ".join(_shown(token) for token in longest),
    }


def _shown(token: bytes) -> str:
    """Return a token's bytes as a person reads them, with its spaces."""
    text = token.decode(errors="replace")
    return text.replace(" ", "␣") if text.isprintable() else repr(token)[2:-1]


def _measure(fresh: Tokenizer, corpus: Corpus) -> dict[str, str]:
    """Return what a tokenizer does to a text; `fresh` has read nothing yet, so that nothing is cached."""
    text = corpus.split("all")
    part, position = b"", 0
    while len(part) < _TIMED_BYTES and position < text.num_tokens:
        part += fresh.decode(text.tokens[position : position + _TIMED_BYTES // 8])
        position += _TIMED_BYTES // 8
    part = part[: fresh.last_cut(part)] or part
    started = time.perf_counter()
    fresh.encode(part)
    seconds = time.perf_counter() - started
    return {
        "text": f"{corpus.name}: {text.num_bytes:,} bytes, {text.num_words:,} words",
        "as tokens": f"{text.num_tokens:,}",
        "bytes a token": f"{text.num_bytes / max(text.num_tokens, 1):.3f}",
        "tokens a word": f"{text.num_tokens / max(text.num_words, 1):.3f}",
        "round trip": "every byte came back",
        "encoding": f"{len(part) / 1e6 / seconds:.1f} MB/s (the first {len(part):,} bytes)",
    }


def _print_table(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
