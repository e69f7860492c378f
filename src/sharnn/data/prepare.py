"""Preparation of texts as a corpus, in two passes over the text, cached by content.

The first pass finds out what is text and computes digests, which name the corpus in the cache. The second
pass writes the corpus; it is skipped if the cache has it. Memory holds one chunk at a time, however large
the text is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sharnn.config import check_encoding, check_tokenizer, did_you_mean, names_tokenizer_file
from sharnn.data.corpora import KNOWN_CORPORA, Located
from sharnn.data.corpus import FORMAT_VERSION, Corpus, corpus_folder
from sharnn.data.download import Progress
from sharnn.data.encoding import AUTO
from sharnn.data.reading import WHOLE, Content, FirstPass, TextsRead, printable
from sharnn.data.sources import STDIN, Finder, Found, Patterns
from sharnn.data.splits import LastCut, ends_by_position, ends_of_known
from sharnn.data.unpack import Scratch
from sharnn.data.writing import Blocks, check_space, write_corpus
from sharnn.errors import ConfigError, DataError
from sharnn.files import atomic_folder, cache_folder, explain_os_error
from sharnn.text import (
    ByteTokenizer,
    SpelledWordTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)

#: Called with one line that says what was read.
Notice = Callable[[str], None]

_STALE_SECONDS = 24 * 3600
_SHOWN_TEXTS = 3


@dataclass(frozen=True)
class _Source:
    """The texts after the first pass.

    Attributes:
        name: Name for display.
        sources: The texts as named, or the source of a known corpus.
        content: What was found in them.
        tokenizer: Default kind of tokenizer.
        ends: The end of each split, in bytes, of a text that is cut by position; None for other texts.
        own_splits: Whether the corpus comes with its own splits.
        licence: Licence of a known corpus.
        read: What was read and left out; None for a known corpus.
    """

    name: str
    sources: list[str]
    content: Content
    tokenizer: str
    ends: list[int] | None
    own_splits: bool = False
    licence: str | None = None
    read: TextsRead | None = None

    def blocks(self) -> Blocks:
        """Return the text, split by split."""
        return Blocks(self.name, self.content, self.ends or [])

    def digest(self, tokenizer: Tokenizer | str) -> str:
        """Return the digest that names the corpus; it covers everything that its files depend on."""
        made = tokenizer if isinstance(tokenizer, str) else tokenizer.to_json()
        if isinstance(made, dict) and set(made) == {"name"}:
            made = made["name"]  # a tokenizer without a vocabulary is described by its name
        facts = [FORMAT_VERSION, made, self.own_splits, self.ends, self.content.sha256]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def manifest(self, digest: str) -> dict[str, Any]:
        """Return what the manifest says of the corpus beside its splits."""
        return {
            "name": printable(self.name),
            "sources": [printable(source) for source in self.sources],
            "licence": self.licence,
            "digest": digest,
            "own_splits": self.own_splits,
            "read": None if self.read is None else self.read.to_dict(),
        }


def prepare(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer | str | None = None,
    encoding: str = AUTO,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    local_source: Path | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Corpus:
    """Return the prepared corpus of `texts`, from the cache if it was prepared before.

    Args:
        texts: One known corpus, or files, folders, globs, pipes and `-`, which are read one after the
            other. Compressed files and archives are unpacked. Of 40 files and more, whole files are held
            out by a hash of their paths; other texts are cut 90/5/5 by position. The name of a known
            corpus takes precedence over a file of that name, which can be given as `./NAME`.
        tokenizer: `byte`; `word`, which builds a vocabulary by frequency in train that also contains
            the words of valid and test; the path of a tokenizer file; or a tokenizer. None uses the
            corpus's own. With a closed vocabulary, splits end at the end of a line; with all other
            tokenizers the same bytes are in the same split.
        encoding: `auto` (UTF-16, UTF-32 and marks are recognised, all other bytes stay as they are), the
            encoding of all texts, or `bytes` (all bytes stay as they are, also in files that are not
            text).
        include: Globs; of folders and archives only files that match one are read.
        exclude: Globs of files that are not read.
        local_source: A local copy of a known corpus.
        progress: Called with the name of the task, the bytes done, and the total if known.
        notice: Called with one line that says what was read and what was left out; not for a known corpus
            or a single file of UTF-8.

    Raises:
        DataError: A text is missing, unreadable, empty or damaged, or the cache cannot be written.
        ConfigError: The texts cannot be combined, or the tokenizer or encoding does not exist.
    """
    if isinstance(tokenizer, str):
        check_tokenizer(tokenizer)
        if names_tokenizer_file(tokenizer):
            tokenizer = load_tokenizer(Path(tokenizer).expanduser())
    patterns = Patterns(include, exclude)
    with _read(texts, encoding, patterns, local_source, progress) as source:
        if notice is not None and source.read is not None and not source.read.is_plain:
            notice(str(source.read))
        wanted = source.tokenizer if tokenizer is None else tokenizer
        digest = source.digest(wanted)
        facts = source.manifest(digest)
        cached = Corpus.find(digest)
        if cached is not None:
            # The same text may have been prepared under another name, and from other files.
            cached.name = source.name
            cached.manifest |= facts
            return cached
        if isinstance(wanted, str):
            wanted = _make_tokenizer(wanted, source)
        with _cache_told():
            check_space(wanted, source.content)
            num_bytes = sum(source.content.num_bytes.values())
            with atomic_folder(corpus_folder(digest), DataError) as folder:
                write_corpus(folder, source.blocks(), wanted, num_bytes, facts, progress)
        return Corpus.open(corpus_folder(digest))


def train_tokenizer(
    texts: Sequence[str],
    kind: str,
    vocab_size: int | None = None,
    *,
    encoding: str = AUTO,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    local_source: Path | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Tokenizer:
    """Return a tokenizer trained on the train split that `prepare` would cut from `texts`.

    Args:
        texts: As for `prepare`.
        kind: `word`, `spelled-word`, or a kind of subwords: `bpe`, `wordpiece`, `unigram`.
        vocab_size: Number of tokens. None only for `word`, whose vocabulary is the one that `prepare`
            builds.
        encoding: As for `prepare`.
        include: As for `prepare`.
        exclude: As for `prepare`.
        local_source: A local copy of a known corpus.
        progress: Called with the name of the task, the bytes done, and the total if known.
        notice: As for `prepare`.

    Raises:
        DataError: As for `prepare`; or the text does not fill the vocabulary (the message says how many
            tokens it gives).
        ConfigError: As for `prepare`; or the vocabulary is too small or not given, or the library is not
            installed.
    """
    patterns = Patterns(include, exclude)
    with _read(texts, encoding, patterns, local_source, progress) as source:
        if notice is not None and source.read is not None and not source.read.is_plain:
            notice(str(source.read))
        if kind == WordTokenizer.name:
            return _make_tokenizer(kind, source)
        if vocab_size is None:
            raise ConfigError(f"vocab_size is None: give the number of tokens for {kind}")
        if kind == SpelledWordTokenizer.name:
            blocks = _train_blocks(source, SpelledWordTokenizer.last_cut, progress)
            return SpelledWordTokenizer.build(blocks, vocab_size)
        blocks = _train_blocks(source, SubwordTokenizer.last_cut, progress)
        return SubwordTokenizer.train(blocks, kind, vocab_size)


@contextlib.contextmanager
def _read(
    texts: Sequence[str],
    encoding: str,
    patterns: Patterns,
    local_source: Path | None,
    progress: Progress | None,
) -> Iterator[_Source]:
    """Yield the texts after the first pass; copies of pipes and archives are deleted after the block."""
    check_encoding(encoding)
    if not texts:
        raise ConfigError("no text was given: name a known corpus, a file, a folder, a glob or -")
    known = next((text for text in texts if text in KNOWN_CORPORA), None)
    with _cache_told():
        _remove_stale_partials()
    if known is not None:
        _refuse_for_known(known, texts, encoding, patterns)
        yield _read_known(known, local_source, progress)
        return
    if local_source is not None:
        raise ConfigError(
            f"local_source is {local_source}, but {texts[0]} is not a known corpus "
            f"({', '.join(KNOWN_CORPORA)}): name the file itself as the text"
        )
    if list(texts).count(STDIN) > 1:
        raise ConfigError("standard input (-) was named twice, it can be read only once")
    with Scratch(cache_folder() / f".input.{os.getpid()}.partial", progress) as scratch:
        with _cache_told():
            source = _read_texts(list(texts), encoding, Finder(scratch, patterns), progress)
        yield source


def _refuse_for_known(known: str, texts: Sequence[str], encoding: str, patterns: Patterns) -> None:
    """Refuse what does not go together with a known corpus.

    Raises:
        ConfigError: Says what to leave out.
    """
    if len(texts) > 1:
        raise ConfigError(
            f"{known} has splits of its own and cannot be joined to other texts: name it alone (a "
            f"file of that name is ./{known})"
        )
    given = {"encoding": encoding != AUTO, "include": patterns.include, "exclude": patterns.exclude}
    for name in (name for name, value in given.items() if value):
        raise ConfigError(f"data.{name} does nothing for {known}, a known corpus: leave it out")


def _read_texts(
    texts: list[str], encoding: str, finder: Finder, progress: Progress | None
) -> _Source:
    """Return texts after the first pass.

    Raises:
        DataError: They have no bytes, or cannot be read.
    """
    name = " + ".join(texts[:_SHOWN_TEXTS])
    if len(texts) > _SHOWN_TEXTS:
        name += f" + {len(texts) - _SHOWN_TEXTS} more"
    found = chain.from_iterable(_find(finder, text) for text in texts)
    content, read = FirstPass(encoding, progress).read_texts(name, found)
    read.num_unwanted = finder.num_unwanted
    if not sum(content.num_bytes.values()):
        raise DataError(f"{name} is empty, it has no bytes to read: give another text")
    ends = ends_by_position(content.num_bytes[WHOLE]) if WHOLE in content.pieces else None
    return _Source(name, texts, content, ByteTokenizer.name, ends, read=read)


def _find(finder: Finder, text: str) -> Iterator[Found]:
    try:
        yield from finder.find(text)
    except DataError as failure:
        hint = did_you_mean(text, KNOWN_CORPORA)
        if hint and not os.path.exists(text):
            raise DataError(f"{failure}{hint}") from failure
        raise


def _read_known(name: str, local_source: Path | None, progress: Progress | None) -> _Source:
    """Return a known corpus after the first pass.

    Raises:
        DataError: It is not there, or is another text.
    """
    corpus = KNOWN_CORPORA[name]
    try:
        located = corpus.locate(local_source, cache_folder(), progress)
    except OSError as failure:
        raise DataError(explain_os_error(failure, local_source or Path(name), "read")) from failure
    content = FirstPass(progress=progress).read_splits(located.readers)
    _check_known(name, located, content)
    return _Source(
        name=name,
        sources=[corpus.source if local_source is None else str(local_source)],
        content=content,
        tokenizer=corpus.tokenizer,
        ends=ends_of_known(located.sizes) if located.sizes else None,
        own_splits=True,
        licence=corpus.licence,
    )


def _check_known(name: str, located: Located, content: Content) -> None:
    """Check that a text is the known corpus that it should be.

    Raises:
        DataError: It is not, or is empty.
    """
    num_bytes = sum(content.num_bytes.values())
    if not num_bytes:
        raise DataError(f"{name} is empty, it has no bytes to read: give another text")
    if located.sizes and located.content_sha256 != content.sha256[WHOLE]:
        raise DataError(
            f"{located.readers[WHOLE][0].name} is not {name}: {num_bytes:,} bytes with SHA-256 "
            f"{content.sha256[WHOLE]}, expected {sum(located.sizes.values()):,} with "
            f"{located.content_sha256}"
        )


@contextlib.contextmanager
def _cache_told() -> Iterator[None]:
    """Add to an error about the cache's disk the cache's folder and how to change it."""
    try:
        yield
    except DataError as failure:
        cache = str(cache_folder())
        if isinstance(failure.__cause__, OSError) and cache in str(failure):
            raise DataError(
                f"{failure} (the cache is {cache}; the environment variable SHARNN_CACHE moves it)"
            ) from failure.__cause__
        raise


def _remove_stale_partials() -> None:
    """Remove leftovers of killed processes, once they are too old for any process still to write them."""
    now = time.time()
    for folder in (cache_folder(), cache_folder() / "corpora"):
        with contextlib.suppress(OSError):
            for leftover in folder.glob(".*.partial"):
                if now - leftover.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)


def _make_tokenizer(kind: str, source: _Source) -> Tokenizer:
    if kind == ByteTokenizer.name:
        return ByteTokenizer()
    text, held_out = source.blocks(), []
    blocks = text.read(WordTokenizer.last_cut, by_line=True)

    def train() -> Iterator[bytes]:
        for split, block in blocks:
            if split != "train":
                held_out.append(block)
                return
            yield block

    def valid_and_test() -> Iterator[bytes]:
        yield from held_out
        yield from (block for _, block in blocks)

    with text.naming_places():
        return WordTokenizer.build(train(), also=valid_and_test())


def _train_blocks(source: _Source, last_cut: LastCut, progress: Progress | None) -> Iterator[bytes]:
    """Yield the train split in blocks that end where the tokenizer may cut."""
    done, content = 0, source.content
    total = source.ends[0] if source.ends is not None else content.num_bytes["train"]
    for split, block in source.blocks().read(last_cut):
        if split != "train":
            break
        yield block
        done += len(block)
        if progress is not None:
            progress("counting", done, total)
    if progress is not None:
        progress("training", 0, None)  # training reports no progress
