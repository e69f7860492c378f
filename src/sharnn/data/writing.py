"""The second pass over the texts: their tokens, and the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharnn.data.corpus import FORMAT_VERSION, MANIFEST, SPLITS, TOKENIZER, TOKENS
from sharnn.data.counting import TextCounter
from sharnn.data.download import Progress
from sharnn.data.reading import WHOLE, Content, Piece
from sharnn.data.splits import LastCut, cut_at, whole_blocks
from sharnn.data.unpack import CHUNK_BYTES
from sharnn.errors import DataError
from sharnn.files import cache_folder, sha256_of_file, write_json
from sharnn.text import (
    ByteTokenizer,
    Tokenizer,
    UnencodableText,
    WordTokenizer,
    save_tokenizer,
)


class Blocks:
    """The text of a corpus, split by split.

    Args:
        name: Name of the corpus.
        content: Its texts.
        ends: The end of each split in the text `all`.
    """

    def __init__(self, name: str, content: Content, ends: Sequence[int]) -> None:
        self._name = name
        self._content = content
        self._ends = ends
        self._key, self._offset = WHOLE, 0  # where the last block yielded begins

    def read(self, last_cut: LastCut, by_line: bool = False) -> Iterator[tuple[str, bytes]]:
        """Yield the text as (split, bytes), in the order train, valid, test.

        A block ends where the tokenizer may cut or where a split ends; without `by_line` a split may end
        inside a line.
        """
        for key, pieces in self._content.pieces.items():
            self._key, self._offset = key, 0
            chunks = (chunk for piece in pieces for chunk in piece.chunks())
            blocks = whole_blocks(chunks, last_cut, self._name)
            if key == WHOLE:
                cut = cut_at(blocks, self._ends, by_line)
            else:
                cut = ((key, block) for block in blocks)
            for split, block in cut:
                yield split, block
                self._offset += len(block)

    @contextlib.contextmanager
    def naming_places(self) -> Iterator[None]:
        """Let errors about unencodable text name the place in the file, not the place in the block."""
        try:
            yield
        except UnencodableText as failure:
            pieces = self._content.pieces[self._key]
            where = _find_line(pieces, self._offset + failure.offset)
            raise DataError(f"{where}: {failure.reason}") from failure


def _find_line(pieces: Sequence[Piece], offset: int) -> str:
    """Return the file, line and byte of an offset in a text, by reading it again."""
    name, line, column = "", 1, 1
    for piece in pieces:
        name, line, column = piece.reader.name, 1, 1
        for chunk in piece.chunks():
            head = chunk[:offset]
            offset -= len(head)
            line += head.count(b"\n")
            newline = head.rfind(b"\n")
            column = len(head) - newline if newline >= 0 else column + len(head)
            if len(head) < len(chunk):
                return f"{name}, line {line:,}, byte {column:,}"
    return f"{name}, line {line:,}, byte {column:,}"


def check_space(tokenizer: Tokenizer, content: Content) -> None:
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


def write_corpus(
    folder: Path,
    blocks: Blocks,
    tokenizer: Tokenizer,
    num_bytes: int,
    facts: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    """Write the tokens, the tokenizer and finally the manifest.

    Args:
        folder: Where to write them.
        blocks: The text.
        tokenizer: The tokenizer.
        num_bytes: Size of the text.
        facts: What the manifest says of the corpus.
        progress: Called with the number of bytes done.

    Raises:
        DataError: The text changed since the first pass, or the tokenizer cannot encode it.
    """
    counters = {split: TextCounter() for split in SPLITS}
    digests = {split: hashlib.sha256() for split in SPLITS}
    num_tokens = dict.fromkeys(SPLITS, 0)
    dtype, done = tokenizer.encode(b"").dtype, 0
    by_line = isinstance(tokenizer, WordTokenizer)
    with (folder / TOKENS).open("wb", buffering=CHUNK_BYTES) as file, blocks.naming_places():
        for split, block in blocks.read(tokenizer.last_cut, by_line):
            tokens = tokenizer.encode(block)
            file.write(np.ascontiguousarray(tokens).data)
            counters[split].add(block)
            digests[split].update(block)
            num_tokens[split] += len(tokens)
            done += len(block)
            if progress is not None:
                progress("preparing", done, num_bytes)
    save_tokenizer(tokenizer, folder / TOKENIZER)
    manifest = {
        "format": FORMAT_VERSION,
        **facts,
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
