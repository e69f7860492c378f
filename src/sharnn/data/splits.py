"""The division of a text into train, valid and test: by position, or by a hash of the files' paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sharnn.data.corpus import SPLITS
from sharnn.errors import DataError

LastCut = Callable[[bytes], int]

#: Shares of a text without splits of its own: train comes first, then valid; the rest is test.
_TRAIN_SHARE, _VALID_SHARE = 0.90, 0.05
#: Of this many files or more, whole files are held out.
FEWEST_FILES = 40
#: Share of the bytes that valid and test each have of such texts; at least half of it, at most 1.5 times.
_HELD_OUT_SHARE = 0.05
#: A longer stretch without a place to cut is refused, before it fills the memory.
_LONGEST_BLOCK_BYTES = 1 << 26


def ends_by_position(num_bytes: int) -> list[int]:
    """Return the end of each split of a text, in bytes: after 90, 95 and 100 percent."""
    return [
        int(num_bytes * _TRAIN_SHARE),
        int(num_bytes * (_TRAIN_SHARE + _VALID_SHARE)),
        num_bytes,
    ]


def draw_held_out(sizes: Sequence[tuple[str, int]]) -> list[str] | None:
    """Return the split of each file, drawn by a hash of its path.

    Files are gone through in the order of their hashes, and taken for valid and test as long as these are
    too small and the file does not make them too large. So the draw does not depend on the order of the
    files, and a new file changes little of it.

    Args:
        sizes: Relative path and number of bytes of each file.

    Returns:
        None if there are too few files, or if they are so unequal that no fair share can be held out.
    """
    if len(sizes) < FEWEST_FILES:
        return None
    share = sum(size for _, size in sizes) * _HELD_OUT_SHARE
    held_out = dict.fromkeys(SPLITS[1:], 0)
    splits = [SPLITS[0]] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: _hash(sizes[index][0])):
        size = sizes[index][1]
        for split, taken in held_out.items():
            if taken < share and taken + size <= 1.5 * share:
                splits[index] = split
                held_out[split] += size
                break
    return splits if min(held_out.values()) >= share / 2 else None


def _hash(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


def cut_at(
    blocks: Iterable[bytes], ends: Sequence[int], by_line: bool
) -> Iterator[tuple[str, bytes]]:
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


def whole_blocks(chunks: Iterable[bytes], last_cut: LastCut, name: str) -> Iterator[bytes]:
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


def ends_of_known(sizes: Mapping[str, int]) -> list[int]:
    """Return the end of each split, in bytes, from the sizes of the splits."""
    ends, end = [], 0
    for split in SPLITS:
        end += sizes[split]
        ends.append(end)
    return ends
