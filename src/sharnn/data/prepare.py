"""Preparation of texts as a corpus, in two passes over the text, cached by content.

The first pass computes digests, which name the corpus in the cache. The second pass writes the corpus; it
is skipped if the cache has it. Memory holds one chunk at a time, however large the text is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharnn.config import check_tokenizer, did_you_mean, names_tokenizer_file
from sharnn.data.corpora import KNOWN_CORPORA
from sharnn.data.corpus import (
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    TOKENS,
    Corpus,
    corpus_folder,
)
from sharnn.data.counting import TextCounter
from sharnn.data.download import Progress
from sharnn.data.sources import (
    CHUNK_BYTES,
    STDIN,
    Reader,
    chunks_of,
    find_readers,
    is_pipe,
    pipe_reader,
    stdin_reader,
)
from sharnn.errors import ConfigError, DataError
from sharnn.files import atomic_folder, cache_folder, explain_os_error, sha256_of_file, write_json
from sharnn.text import (
    ByteTokenizer,
    SpelledWordTokenizer,
    SubwordTokenizer,
    Tokenizer,
    UnencodableText,
    WordTokenizer,
    load_tokenizer,
    save_tokenizer,
)

LastCut = Callable[[bytes], int]
#: The key of readers whose text is divided into the splits by position.
_WHOLE = "all"
#: Shares of a text without splits of its own: train comes first, then valid; the rest is test.
_TRAIN_SHARE, _VALID_SHARE = 0.90, 0.05
#: A longer stretch without a place to cut is refused, before it fills the memory.
_LONGEST_BLOCK_BYTES = 1 << 26
_STALE_SECONDS = 24 * 3600
_SHOWN_TEXTS = 3


@dataclass(frozen=True)
class _Plan:
    """The texts to read.

    Attributes:
        name: Name for display.
        sources: The texts as named, or the source of a known corpus.
        readers: Readers of train, valid and test, or of `all`, which is cut by position.
        tokenizer: Default kind of tokenizer.
        own_splits: Whether the corpus comes with its own splits.
        sizes: Bytes of each split of a known corpus's `all`; None for 90/5/5 percent.
        content_sha256: Required digest of a known corpus's `all`.
        licence: Licence of a known corpus.
    """

    name: str
    sources: list[str]
    readers: dict[str, list[Reader]]
    tokenizer: str
    own_splits: bool = False
    sizes: Mapping[str, int] | None = None
    content_sha256: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class _Content:
    """Results of the first pass.

    Attributes:
        sha256: Digest of each entry of the plan's readers.
        num_bytes: Number of bytes of each.
    """

    sha256: dict[str, str]
    num_bytes: dict[str, int]


@dataclass
class _Place:
    """Position of a pass over the text: the key of the readers, and the bytes before this block."""

    key: str = _WHOLE
    offset: int = 0


def prepare(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer | str | None = None,
    local_source: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Return the prepared corpus of `texts`, from the cache if it was prepared before.

    Args:
        texts: One known corpus, or files, folders, globs, pipes and `-`, which are concatenated.
            Texts without splits of their own are cut 90/5/5 by position. The name of a known corpus
            takes precedence over a file of that name, which can be given as `./NAME`.
        tokenizer: `byte`; `word`, which builds a vocabulary by frequency in train that also contains
            the words of valid and test; the path of a tokenizer file; or a tokenizer. None uses the
            corpus's own. With a closed vocabulary, splits end at the end of a line; with all other
            tokenizers the same bytes are in the same split.
        local_source: A local copy of a known corpus.
        progress: Called with the name of the task, the bytes done, and the total if known.

    Raises:
        DataError: A text is missing, unreadable, empty or damaged, or the cache cannot be written.
        ConfigError: The texts cannot be combined, or the tokenizer does not exist.
    """
    if isinstance(tokenizer, str):
        check_tokenizer(tokenizer)
        if names_tokenizer_file(tokenizer):
            tokenizer = load_tokenizer(Path(tokenizer).expanduser())
    with _found(texts, local_source, progress) as (plan, content):
        wanted = plan.tokenizer if tokenizer is None else tokenizer
        digest = _digest(plan, content, wanted)
        cached = Corpus.find(digest)
        if cached is not None:
            cached.name = plan.name  # the same text may have been prepared under another name
            return cached
        if isinstance(wanted, str):
            wanted = _make_tokenizer(wanted, plan, content)
        with _cache_told():
            _check_space(wanted, content)
            with atomic_folder(corpus_folder(digest), DataError) as folder:
                _write(folder, plan, content, wanted, digest, progress)
        return Corpus.open(corpus_folder(digest))


def train_tokenizer(
    texts: Sequence[str],
    kind: str,
    vocab_size: int | None = None,
    *,
    local_source: Path | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Return a tokenizer trained on the train split that `prepare` would cut from `texts`.

    Args:
        texts: As for `prepare`.
        kind: `word`, `spelled-word`, or a kind of subwords: `bpe`, `wordpiece`, `unigram`.
        vocab_size: Number of tokens. None only for `word`, whose vocabulary is the one that `prepare`
            builds.
        local_source: A local copy of a known corpus.
        progress: Called with the name of the task, the bytes done, and the total if known.

    Raises:
        DataError: As for `prepare`; or the text does not fill the vocabulary (the message says how many
            tokens it gives).
        ConfigError: As for `prepare`; or the vocabulary is too small or not given, or the library is not
            installed.
    """
    with _found(texts, local_source, progress) as (plan, content):
        if kind == WordTokenizer.name:
            return _make_tokenizer(kind, plan, content)
        if vocab_size is None:
            raise ConfigError(f"vocab_size is None: give the number of tokens for {kind}")
        if kind == SpelledWordTokenizer.name:
            blocks = _train_blocks(plan, content, SpelledWordTokenizer.last_cut, progress)
            return SpelledWordTokenizer.build(blocks, vocab_size)
        blocks = _train_blocks(plan, content, SubwordTokenizer.last_cut, progress)
        return SubwordTokenizer.train(blocks, kind, vocab_size)


@contextlib.contextmanager
def _found(
    texts: Sequence[str], local_source: Path | None, progress: Progress | None
) -> Iterator[tuple[_Plan, _Content]]:
    """Yield the plan and the result of the first pass; copies of pipes are deleted after the block."""
    spools = cache_folder() / f".input.{os.getpid()}.partial"
    try:
        with _cache_told():
            _remove_stale_partials()
            plan = _plan(list(texts), local_source, spools, progress)
        yield plan, _read_once(plan, progress)
    finally:
        shutil.rmtree(spools, ignore_errors=True)


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


def _plan(
    texts: list[str], local_source: Path | None, spools: Path, progress: Progress | None
) -> _Plan:
    if not texts:
        raise ConfigError("no text was given: name a known corpus, a file, a folder, a glob or -")
    known = [text for text in texts if text in KNOWN_CORPORA]
    if known:
        if len(texts) > 1:
            raise ConfigError(
                f"{known[0]} has splits of its own and cannot be joined to other texts: name it alone (a "
                f"file of that name is ./{known[0]})"
            )
        return _plan_known(known[0], local_source, progress)
    if local_source is not None:
        raise ConfigError(
            f"local_source is {local_source}, but {texts[0]} is not a known corpus "
            f"({', '.join(KNOWN_CORPORA)}): name the file itself as the text"
        )
    if texts.count(STDIN) > 1:
        raise ConfigError("standard input (-) was named twice, it can be read only once")
    readers: list[Reader] = []
    for number, text in enumerate(texts):
        spool = spools / f"{number}"
        if text == STDIN:
            readers.append(stdin_reader(spool))
        elif is_pipe(text):
            readers.append(pipe_reader(text, spool))
        else:
            readers.extend(_find(text))
    _refuse_repeats(readers)
    name = " + ".join(texts[:_SHOWN_TEXTS])
    if len(texts) > _SHOWN_TEXTS:
        name += f" + {len(texts) - _SHOWN_TEXTS} more"
    return _Plan(name, texts, {_WHOLE: readers}, ByteTokenizer.name)


def _refuse_repeats(readers: Sequence[Reader]) -> None:
    """Refuse a file that is named twice: the same text could then be in two splits.

    Raises:
        ConfigError: Names the file.
    """
    files: dict[str, str] = {}
    for reader in readers:
        file = os.path.realpath(reader.name)
        if file in files:
            also = f", as {files[file]} too" if files[file] != reader.name else ""
            raise ConfigError(
                f"{reader.name} is named twice{also}: training text would be scored as held-out text, "
                "name each file once"
            )
        files[file] = reader.name


def _plan_known(name: str, local_source: Path | None, progress: Progress | None) -> _Plan:
    corpus = KNOWN_CORPORA[name]
    try:
        located = corpus.locate(local_source, cache_folder(), progress)
    except OSError as failure:
        raise DataError(explain_os_error(failure, local_source or Path(name), "read")) from failure
    return _Plan(
        name=name,
        sources=[corpus.source if local_source is None else str(local_source)],
        readers=located.readers,
        tokenizer=corpus.tokenizer,
        own_splits=True,
        sizes=located.sizes,
        content_sha256=located.content_sha256,
        licence=corpus.licence,
    )


def _find(text: str) -> list[Reader]:
    try:
        return find_readers(text)
    except DataError as failure:
        hint = did_you_mean(text, KNOWN_CORPORA)
        if hint and not os.path.exists(text):
            raise DataError(f"{failure}{hint}") from failure
        raise


def _read_once(plan: _Plan, progress: Progress | None) -> _Content:
    """Compute the digest and size of every text.

    Raises:
        DataError: The text is empty, or is not the known corpus that it should be.
    """
    sha256, num_bytes, done = {}, {}, 0
    for key, readers in plan.readers.items():
        digest, size = hashlib.sha256(), 0
        for chunk in chunks_of(readers):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress("reading", done + size, None)
        sha256[key], num_bytes[key], done = digest.hexdigest(), size, done + size
    if done == 0:
        raise DataError(f"{plan.name} is empty, it has no bytes to read: give another text")
    if plan.sizes and plan.content_sha256 != sha256[_WHOLE]:
        raise DataError(
            f"{plan.readers[_WHOLE][0].name} is not {plan.name}: {done:,} bytes with SHA-256 "
            f"{sha256[_WHOLE]}, expected {sum(plan.sizes.values()):,} with {plan.content_sha256}"
        )
    return _Content(sha256, num_bytes)


def _digest(plan: _Plan, content: _Content, tokenizer: Tokenizer | str) -> str:
    """Return the digest that names the corpus; it covers everything that its files depend on."""
    made = tokenizer if isinstance(tokenizer, str) else tokenizer.to_json()
    if isinstance(made, dict) and set(made) == {"name"}:
        made = made["name"]  # a tokenizer without a vocabulary is described by its name
    ends = _ends(plan, content) if _WHOLE in plan.readers else None
    facts = [FORMAT_VERSION, made, plan.own_splits, ends, content.sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _ends(plan: _Plan, content: _Content) -> list[int]:
    """Return the end of each split, in bytes, of a text that is cut by position."""
    if plan.sizes:
        return [int(end) for end in np.cumsum([plan.sizes[split] for split in SPLITS])]
    size = content.num_bytes[_WHOLE]
    return [int(size * _TRAIN_SHARE), int(size * (_TRAIN_SHARE + _VALID_SHARE)), size]


def _make_tokenizer(kind: str, plan: _Plan, content: _Content) -> Tokenizer:
    if kind == ByteTokenizer.name:
        return ByteTokenizer()
    place, held_out = _Place(), []
    blocks = _blocks(plan, content, place, WordTokenizer.last_cut, by_line=True)

    def train() -> Iterator[bytes]:
        for split, block in blocks:
            if split != "train":
                held_out.append(block)
                return
            yield block

    def valid_and_test() -> Iterator[bytes]:
        yield from held_out
        yield from (block for _, block in blocks)

    with _place_told(plan, place):
        return WordTokenizer.build(train(), also=valid_and_test())


def _train_blocks(
    plan: _Plan, content: _Content, last_cut: LastCut, progress: Progress | None
) -> Iterator[bytes]:
    """Yield the train split in blocks that end where the tokenizer may cut."""
    done = 0
    total = _ends(plan, content)[0] if _WHOLE in plan.readers else content.num_bytes["train"]
    for split, block in _blocks(plan, content, _Place(), last_cut):
        if split != "train":
            break
        yield block
        done += len(block)
        if progress is not None:
            progress("counting", done, total)
    if progress is not None:
        progress("training", 0, None)  # training reports no progress


@contextlib.contextmanager
def _place_told(plan: _Plan, place: _Place) -> Iterator[None]:
    """Let errors about unencodable text name the place in the file, not the place in the block."""
    try:
        yield
    except UnencodableText as failure:
        where = _find_line(plan.readers[place.key], place.offset + failure.offset)
        raise DataError(f"{where}: {failure.reason}") from failure


def _find_line(readers: Sequence[Reader], offset: int) -> str:
    """Return the file, line and byte of an offset in a text, by reading it again."""
    name, line, column = "", 1, 1
    for reader in readers:
        name, line, column = reader.name, 1, 1
        for chunk in reader.chunks():
            head = chunk[:offset]
            offset -= len(head)
            line += head.count(b"\n")
            newline = head.rfind(b"\n")
            column = len(head) - newline if newline >= 0 else column + len(head)
            if len(head) < len(chunk):
                return f"{name}, line {line:,}, byte {column:,}"
    return f"{name}, line {line:,}, byte {column:,}"


def _blocks(
    plan: _Plan, content: _Content, place: _Place, last_cut: LastCut, by_line: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Yield the text as (split, bytes), in the order train, valid, test.

    A block ends where the tokenizer may cut or where a split ends; without `by_line` a split may end
    inside a line. `place` is the beginning of the last block yielded.
    """
    for key, readers in plan.readers.items():
        place.key, place.offset = key, 0
        blocks = _whole(chunks_of(readers), last_cut, plan.name)
        if key == _WHOLE:
            cut = _cut(blocks, _ends(plan, content), by_line)
        else:
            cut = ((key, block) for block in blocks)
        for split, block in cut:
            yield split, block
            place.offset += len(block)


def _cut(blocks: Iterable[bytes], ends: list[int], by_line: bool) -> Iterator[tuple[str, bytes]]:
    """Cut a text at `ends`, or with `by_line` at the ends of the lines that contain them."""
    position, index, last = 0, 0, len(SPLITS) - 1
    for block in blocks:
        while block:
            while index < last and position >= ends[index]:
                index += 1
            take = len(block)
            if index < last and position + take > ends[index]:
                take = ends[index] - position
                if by_line:
                    take = block.find(b"\n", take - 1) + 1 or len(block)
            yield SPLITS[index], block[:take]
            position += take
            block = block[take:]


def _whole(chunks: Iterable[bytes], last_cut: LastCut, name: str) -> Iterator[bytes]:
    """Yield blocks that end where the tokenizer may cut, except the last one.

    Raises:
        DataError: There is no such place for too long a stretch of text.
    """
    pending: list[bytes] = []
    for chunk in chunks:
        end = last_cut(chunk)
        if end:
            yield b"".join([*pending, chunk[:end]])
            pending = []
        pending.append(chunk[end:])
        if sum(map(len, pending)) > _LONGEST_BLOCK_BYTES:
            raise DataError(
                f"{name} has a stretch of more than {_LONGEST_BLOCK_BYTES >> 20} MiB without a line's "
                "end or white space to cut at, so it is not a text of words: use the byte tokenizer"
            )
    if rest := b"".join(pending):
        yield rest


def _check_space(tokenizer: Tokenizer, content: _Content) -> None:
    """Check that the disk has room for the tokens, if their size is known in advance (byte tokens).

    Raises:
        DataError: Names the free space and the required space.
    """
    if not isinstance(tokenizer, ByteTokenizer):
        return
    folder = next((f for f in (cache_folder(), *cache_folder().parents) if f.is_dir()), Path("/"))
    usage, needed = shutil.disk_usage(folder), sum(content.num_bytes.values())
    # A file system that reports no size (total 0) may still have room.
    if usage.total and needed > usage.free:
        raise DataError(
            f"the cache {cache_folder()} has {usage.free / 1e6:,.0f} MB of free space, this text takes "
            f"{needed / 1e6:,.0f} MB: free some space, or set SHARNN_CACHE to a folder on another disk"
        )


def _write(
    folder: Path,
    plan: _Plan,
    content: _Content,
    tokenizer: Tokenizer,
    digest: str,
    progress: Progress | None,
) -> None:
    """Write the tokens, the tokenizer and finally the manifest.

    Raises:
        DataError: The text changed since the first pass, or the tokenizer cannot encode it.
    """
    place, by_line = _Place(), isinstance(tokenizer, WordTokenizer)
    counters = {split: TextCounter() for split in SPLITS}
    digests = {split: hashlib.sha256() for split in SPLITS}
    read_again = {key: hashlib.sha256() for key in plan.readers}
    num_tokens = dict.fromkeys(SPLITS, 0)
    dtype = tokenizer.encode(b"").dtype
    done, total = 0, sum(content.num_bytes.values())
    with (folder / TOKENS).open("wb", buffering=CHUNK_BYTES) as file, _place_told(plan, place):
        for split, block in _blocks(plan, content, place, tokenizer.last_cut, by_line):
            tokens = tokenizer.encode(block)
            file.write(np.ascontiguousarray(tokens).data)
            counters[split].add(block)
            digests[split].update(block)
            if place.key == _WHOLE:
                read_again[_WHOLE].update(block)
            num_tokens[split] += len(tokens)
            done += len(block)
            if progress is not None:
                progress("preparing", done, total)
    for key, read in read_again.items():
        # The cache is by content: a text that changed in between would get the digest of another.
        if (read if key == _WHOLE else digests[key]).hexdigest() != content.sha256[key]:
            raise DataError(
                f"{plan.name} changed while it was read: try again when nothing writes to it"
            )
    save_tokenizer(tokenizer, folder / TOKENIZER)
    manifest = {
        "format": FORMAT_VERSION,
        "name": plan.name,
        "sources": plan.sources,
        "licence": plan.licence,
        "digest": digest,
        "own_splits": plan.own_splits,
        "dtype": dtype.name,
        "tokenizer_sha256": sha256_of_file(folder / TOKENIZER),
        "splits": _describe_splits(counters, digests, num_tokens),
    }
    write_json(folder / MANIFEST, manifest, DataError)


def _describe_splits(
    counters: Mapping[str, TextCounter], digests: Mapping[str, Any], num_tokens: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
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
    return splits
