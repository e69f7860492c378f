"""`sharnn tokenizer`: train, import and inspect tokenizers of subwords and words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import (
    READING,
    SOURCE,
    TEXT_HELP,
    error_console,
    local_source,
    make_parser,
    naming_options,
    new_file,
    notice_on,
    print_facts,
    progress_bar,
    reading_of,
    run_subverb,
)
from sharnn.config import did_you_mean, names_tokenizer_file
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.data.corpus import Corpus
    from sharnn.text import Tokenizer

HELP = "train, import and inspect tokenizers of subwords and words"

_USAGE = """\
usage: sharnn tokenizer train TEXT… --kind KIND [--vocab-size N] --out NAME.json [--from PATH]
       sharnn tokenizer import LIBRARY_FILE --out NAME.json
       sharnn tokenizer info NAME.json [TEXT…]
"""

_ABOUT = """\
A tokenizer determines what a model predicts at each step. The default is single bytes.

  bpe           parts of words, merged by frequency (as GPT-2's)
  wordpiece     parts of words, the longest match first (as BERT's)
  unigram       parts of words, the most probable segmentation (as SentencePiece's)
  spelled-word  the most frequent words as one token each, all other words byte by byte
  word          every word of a text in WikiText's tokenised form as one token

Training reads only the train split: a known corpus's own, or the first 90 percent of other texts. All
kinds but 'word' can encode any bytes. docs/tokenization.md has the formulas, and says why scores are
compared per byte, never per token.
"""

_EXAMPLES = """\
examples:
  sharnn tokenizer train my.txt --kind bpe --vocab-size 4096 --out bpe-4096.json
  sharnn tokenizer info bpe-4096.json my.txt                measure it on a text
  sharnn train my.txt --data.tokenizer bpe-4096.json --out runs/bpe
  sharnn tokenizer import gpt2/tokenizer.json --out gpt2.json"""

_KINDS = ("bpe", "wordpiece", "unigram", "spelled-word", "word")
_OUT = {"--out": (str, "file to write; folders above it are made", "NAME.json")}
#: The number of longest tokens that are shown, and of bytes that are encoded to measure the speed.
_SHOWN_TOKENS, _TIMED_BYTES = 12, 4_000_000


def run(argv: list[str]) -> int:
    """Run one of the subverbs."""
    runs = {"train": _train, "import": _import, "info": _info}
    return run_subverb("tokenizer", argv, runs, (_USAGE, _ABOUT, _EXAMPLES))


def _train(argv: list[str]) -> int:
    parser = make_parser("tokenizer train", "TEXT… [options]", _ABOUT, _EXAMPLES)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=TEXT_HELP)
    parser.add_options({
        "--kind": (str, f"one of {', '.join(_KINDS)}"),
        "--vocab-size": (int, "number of tokens, single bytes included; not for 'word'"),
        **_OUT,
        **SOURCE,
        **READING,
    })  # fmt: skip
    options = parser.parse_args(argv)
    out = _new_file(options.out)
    _check_kind(options)

    from sharnn.data.prepare import train_tokenizer
    from sharnn.text import save_tokenizer

    console = error_console()
    with progress_bar(console) as progress, naming_options({"local_source": "--from"}):
        tokenizer = train_tokenizer(
            options.texts,
            options.kind,
            options.vocab_size,
            **reading_of(options),
            local_source=local_source(options),
            progress=progress,
            notice=notice_on(console),
        )
    save_tokenizer(tokenizer, out)
    _print(_describe(tokenizer))
    print(f"written to {out}; train a model with it: sharnn train TEXT --data.tokenizer {out}")
    return 0


def _check_kind(options: Namespace) -> None:
    """Check the kind, and whether it takes a vocabulary size.

    Raises:
        ConfigError: The kind does not exist, or the size is missing or unused.
    """
    kind, size = options.kind, options.vocab_size
    if kind not in _KINDS:
        hint = did_you_mean(kind, _KINDS) if kind else ""
        found = f"there is no kind '{kind}'{hint}" if kind else "--kind is missing"
        raise ConfigError(f"{found}: give one of {', '.join(_KINDS)}")
    if kind == "word" and size is not None:
        raise ConfigError(
            "--vocab-size does nothing for 'word', which takes all words: leave it out, or use "
            "spelled-word"
        )
    if kind != "word" and size is None:
        raise ConfigError(f"--vocab-size is missing: give the number of tokens for {kind}")


def _new_file(out: str | None) -> Path:
    """Return the path of the tokenizer file to write.

    Raises:
        ConfigError: It is missing, does not end in .json, or exists already.
    """
    if out is None or not names_tokenizer_file(out):
        found = "--out is missing" if out is None else f"--out is {out}"
        raise ConfigError(f"{found}: give the tokenizer's file, NAME.json")
    return new_file(out)


def _import(argv: list[str]) -> int:
    about = (
        "Import a tokenizer.json of the library 'tokenizers'. Only byte-level tokenizers, such as\n"
        "GPT-2's, preserve every byte; others are refused, with the first byte that they lose. Texts\n"
        "are split into units by sharnn's own rule, so a few boundaries may differ from the library's.\n"
    )
    parser = make_parser("tokenizer import", "LIBRARY_FILE --out NAME.json", about, _EXAMPLES)
    parser.add_argument("file", metavar="LIBRARY_FILE", help="a tokenizer.json of the library")
    parser.add_options(_OUT)
    options = parser.parse_args(argv)
    out = _new_file(options.out)

    from sharnn.text import SubwordTokenizer, save_tokenizer

    tokenizer = SubwordTokenizer.from_library_file(Path(options.file).expanduser())
    save_tokenizer(tokenizer, out)
    _print(_describe(tokenizer))
    print(f"written to {out}")
    return 0


def _info(argv: list[str]) -> int:
    parser = make_parser("tokenizer info", "NAME.json [TEXT…]", _ABOUT, _EXAMPLES)
    parser.add_argument("file", metavar="NAME.json", help="tokenizer file, also of a model folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to measure it on")
    parser.add_options(READING)
    options = parser.parse_args(argv)

    from sharnn.data.prepare import prepare
    from sharnn.text import load_tokenizer

    tokenizer = load_tokenizer(Path(options.file).expanduser())
    facts = _describe(tokenizer)
    if options.texts:
        console = error_console()
        with progress_bar(console) as progress:
            corpus = prepare(
                options.texts,
                tokenizer=tokenizer,
                **reading_of(options),
                progress=progress,
                notice=notice_on(console),
            )
        # The corpus may come from the cache: check that it is what this tokenizer makes of the text.
        corpus.verify()
        facts |= _measure(load_tokenizer(Path(options.file).expanduser()), corpus)
    _print(facts)
    return 0


def _describe(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the properties of a tokenizer."""
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    longest = sorted(tokens, key=lambda token: (-len(token), token))[:_SHOWN_TOKENS]
    return {
        "kind": getattr(tokenizer, "kind", tokenizer.name),
        "tokens": f"{tokenizer.vocab_size:,}",
        "mean token": f"{sum(map(len, tokens)) / len(tokens):.2f} bytes",
        "longest": "  ".join(_shown(token) for token in longest),
    }


def _shown(token: bytes) -> str:
    """Return a token in readable form, with visible spaces."""
    text = token.decode(errors="replace")
    return text.replace(" ", "␣") if text.isprintable() else repr(token)[2:-1]


def _measure(fresh: Tokenizer, corpus: Corpus) -> dict[str, str]:
    """Measure a tokenizer on a text. `fresh` has an empty cache, so that the speed is a real one."""
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


def _print(facts: dict[str, str]) -> None:
    print_facts((name, [value]) for name, value in facts.items())
