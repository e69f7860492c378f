"""Turning texts into a prepared corpus: read twice, in chunks, kept by content.

The first reading takes digests, which name the corpus in the cache; only a corpus that is not there
is read again and written. Memory holds a chunk at a time however large the text is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharnn.config import did_you_mean
from sharnn.data.corpora import KNOWN_CORPORA
from sharnn.data.corpus import (
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    TOKENS,
    Corpus,
    cache_folder,
    corpus_folder,
)
from sharnn.data.counting import TextCounter
from sharnn.data.download import Progress
from sharnn.data.sources import CHUNK_BYTES, STDIN, Reader, chunks_of, find_readers, stdin_reader
from sharnn.errors import ConfigError, DataError
from sharnn.files import atomic_folder, write_json
from sharnn.text import ByteTokenizer, Tokenizer, WordTokenizer, save_tokenizer

#: Shares of a text without splits of its own: the first for training, the last for the test.
_TRAIN_SHARE, _VALID_SHARE = 0.90, 0.05


@dataclass(frozen=True)
class _Plan:
    """What is to be read: for each split its readers, or one list that is cut by position."""

    name: str
    readers: dict[str, list[Reader]]
    own_splits: bool
    tokenizer: str


@dataclass(frozen=True)
class _Content:
    """What the first reading found.

    Attributes:
        sha256: Digest of each entry of the plan.
        num_bytes: Bytes of each.
    """

    sha256: dict[str, str]
    num_bytes: dict[str, int]


def prepare(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer | str | None = None,
    local_source: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Return the prepared corpus of `texts`, from the cache where it was prepared before.

    Args:
        texts: One known corpus, or files, folders, globs and `-`, read one after the other. Texts
            without splits of their own are cut 90/5/5 by position.
        tokenizer: `byte`, `word` (a vocabulary is built from the train split), or one that exists;
            None takes the corpus's own.
        local_source: A local copy of a known corpus.
        progress: Told what is done, bytes so far and bytes in all where known.

    Raises:
        DataError: A text is missing, unreadable, empty or damaged, or the cache cannot be written.
        ConfigError: Texts that do not go together.
    """
    spool = cache_folder() / f".stdin.{os.getpid()}.partial"
    try:
        plan = _plan(list(texts), local_source, spool, progress)
        content = _read_once(plan, progress)
        wanted = plan.tokenizer if tokenizer is None else tokenizer
        digest = _digest(plan, content, wanted)
        cached = Corpus.find(digest)
        if cached is not None:
            return cached
        if isinstance(wanted, str):
            wanted = _make_tokenizer(wanted, plan, content)
        with atomic_folder(corpus_folder(digest), DataError) as folder:
            _write(folder, plan, content, wanted, digest, progress)
        return Corpus.open(corpus_folder(digest))
    finally:
        with contextlib.suppress(OSError):
            spool.unlink(missing_ok=True)


def _plan(
    texts: list[str], local_source: Path | None, spool: Path, progress: Progress | None
) -> _Plan:
    if not texts:
        raise ConfigError("no text was given: name a known corpus, a file, a folder, a glob or -")
    known = [text for text in texts if text in KNOWN_CORPORA and not Path(text).exists()]
    if known:
        if len(texts) > 1:
            raise ConfigError(
                f"{known[0]} has splits of its own and cannot be joined to other texts"
            )
        corpus = KNOWN_CORPORA[known[0]]
        readers = corpus.locate(local_source, cache_folder(), progress)
        return _Plan(corpus.name, readers, True, corpus.tokenizer)
    if local_source is not None:
        raise ConfigError(
            f"--from is for known corpora ({', '.join(KNOWN_CORPORA)}), {texts[0]} is none: name the "
            "file itself"
        )
    readers_found: list[Reader] = []
    for text in texts:
        if text == STDIN:
            readers_found.append(stdin_reader(spool))
        else:
            readers_found.extend(_find(text))
    return _Plan(" + ".join(texts), {"all": readers_found}, False, ByteTokenizer.name)


def _find(text: str) -> list[Reader]:
    try:
        return find_readers(text)
    except DataError as failure:
        hint = did_you_mean(text, KNOWN_CORPORA)
        if hint and not Path(text).exists():
            raise DataError(f"{failure}{hint}") from failure
        raise


def _read_once(plan: _Plan, progress: Progress | None) -> _Content:
    """Take the digest and the size of everything.

    Raises:
        DataError: There is not one byte.
    """
    sha256, num_bytes, done = {}, {}, 0
    for split, readers in plan.readers.items():
        digest, size = hashlib.sha256(), 0
        for chunk in chunks_of(readers):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress("reading", done + size, None)
        sha256[split], num_bytes[split], done = digest.hexdigest(), size, done + size
    if done == 0:
        raise DataError(f"{plan.name} is empty: there is nothing to read in it")
    return _Content(sha256, num_bytes)


def _digest(plan: _Plan, content: _Content, tokenizer: Tokenizer | str) -> str:
    """Return the name of the corpus: all that its files depend on."""
    made = tokenizer if isinstance(tokenizer, str) else tokenizer.to_json()
    if isinstance(made, dict) and set(made) == {"name"}:
        made = made["name"]  # a tokenizer without a vocabulary is its name
    facts = [FORMAT_VERSION, made, plan.own_splits, content.sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _make_tokenizer(kind: str, plan: _Plan, content: _Content) -> Tokenizer:
    if kind == ByteTokenizer.name:
        return ByteTokenizer()
    if kind != WordTokenizer.name:
        known = (ByteTokenizer.name, WordTokenizer.name)
        raise ConfigError(f"there is no tokenizer '{kind}'{did_you_mean(kind, known)}")
    blocks = _blocks(plan, content, by_line=True)
    lines = (line for split, block in blocks if split == "train"
             for line in block.splitlines(keepends=True))  # fmt: skip
    return WordTokenizer.build(lines)


def _blocks(plan: _Plan, content: _Content, by_line: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the text as (split, bytes), in the order train, valid, test; whole lines if asked."""
    if plan.own_splits:
        for split in SPLITS:
            chunks = chunks_of(plan.readers[split])
            yield from ((split, block) for block in (_whole_lines(chunks) if by_line else chunks))
        return
    size = content.num_bytes["all"]
    ends = [int(size * _TRAIN_SHARE), int(size * (_TRAIN_SHARE + _VALID_SHARE)), size]
    chunks = chunks_of(plan.readers["all"])
    position = 0
    for block in _single_lines(chunks) if by_line else chunks:
        while block:
            index = next(i for i, end in enumerate(ends) if position < end or i == len(ends) - 1)
            # A line belongs where it begins; other blocks are cut at the very byte.
            take = len(block) if by_line or index == 2 else min(len(block), ends[index] - position)
            yield SPLITS[index], block[:take]
            position += take
            block = block[take:]


def _single_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for block in _whole_lines(chunks):
        yield from block.splitlines(keepends=True)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks that end where a line ends (but for the last)."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _write(
    folder: Path,
    plan: _Plan,
    content: _Content,
    tokenizer: Tokenizer,
    digest: str,
    progress: Progress | None,
) -> None:
    """Write tokens, tokenizer and, last, the manifest.

    Raises:
        DataError: The text changed since it was first read, or is not the tokenizer's.
    """
    by_line = tokenizer.name != ByteTokenizer.name
    counters = {split: TextCounter() for split in SPLITS}
    digests = {split: hashlib.sha256() for split in SPLITS}
    num_tokens = dict.fromkeys(SPLITS, 0)
    dtype = tokenizer.encode(b"").dtype
    done, total = 0, sum(content.num_bytes.values())
    with (folder / TOKENS).open("wb", buffering=CHUNK_BYTES) as file:
        for split, block in _blocks(plan, content, by_line):
            tokens = tokenizer.encode(block)
            file.write(np.ascontiguousarray(tokens).data)
            counters[split].add(block)
            digests[split].update(block)
            num_tokens[split] += len(tokens)
            done += len(block)
            if progress is not None:
                progress("preparing", done, total)
    _check_unchanged(plan, content, digests, done)
    save_tokenizer(tokenizer, folder / TOKENIZER)
    splits, offset, in_word = {}, 0, False
    for split, counter in counters.items():
        splits[split] = {
            "offset": offset,
            "num_tokens": num_tokens[split],
            "num_bytes": counter.num_bytes,
            "num_chars": counter.num_chars,
            "num_words": counter.num_words,
            "words_begun_before": int(in_word and counter.starts_in_word),
            "sha256": digests[split].hexdigest(),
        }
        offset += num_tokens[split]
        in_word = counter.ends_in_word if counter.num_bytes else in_word
    manifest = {
        "format": FORMAT_VERSION,
        "name": plan.name,
        "digest": digest,
        "own_splits": plan.own_splits,
        "dtype": dtype.name,
        "splits": splits,
    }
    write_json(folder / MANIFEST, manifest, DataError)


def _check_unchanged(
    plan: _Plan, content: _Content, digests: dict[str, Any], num_bytes: int
) -> None:
    same = num_bytes == sum(content.num_bytes.values())
    if plan.own_splits:
        same &= all(digests[s].hexdigest() == content.sha256[s] for s in content.sha256)
    if not same:
        raise DataError(f"{plan.name} changed while it was read: try again when it is at rest")
