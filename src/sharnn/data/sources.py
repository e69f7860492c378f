"""Byte streams from what the user names: files, folders, globs, standard input, compressed files."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from sharnn.errors import DataError
from sharnn.files import explain_os_error

STDIN = "-"
CHUNK_BYTES = 1 << 20
#: Compressed bytes read at once. Four bytes of zstd can represent 128 KiB, so these decompress to 32 MiB
#: at most, whatever the compression ratio.
_ZST_BYTES = 1 << 10

_BROKEN = (
    EOFError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    zstandard.ZstdError,
)


@dataclass(frozen=True)
class Reader:
    """A piece of text that can be read several times, each time from its start.

    Attributes:
        name: Name in messages.
        open: Returns a new binary stream.
    """

    name: str
    open: Callable[[], IO[bytes]]

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in chunks.

        Raises:
            DataError: The text cannot be read, or is a damaged compressed file.
        """
        try:
            with closing(self.open()) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except _BROKEN as failure:
            raise DataError(
                f"{self.name} is damaged or cut ({failure}), it cannot be decompressed to its end: get "
                "the file again"
            ) from failure
        except OSError as failure:
            # bz2, and gzip for some kinds of damage, raise a plain OSError without an error number.
            if failure.errno is None:
                raise DataError(
                    f"{self.name} is damaged or cut ({failure}): get the file again"
                ) from failure
            raise DataError(explain_os_error(failure, Path(self.name), "read")) from failure


def file_reader(path: Path) -> Reader:
    """Return a reader of a file; its suffix .gz, .bz2, .xz or .zst selects the decompression."""
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": _open_zst,
    }
    opener = openers.get(path.suffix.lower(), lambda p: p.open("rb"))
    return Reader(str(path), lambda: opener(path))


class ChunkStream(io.RawIOBase):
    """A binary stream over an iterator of chunks; a read returns the next chunk, whatever its size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        """Return the next chunk, empty at the end."""
        return next(self._chunks, b"")


def _open_zst(path: Path) -> IO[bytes]:
    return cast(IO[bytes], ChunkStream(_zst_chunks(path)))


def _zst_chunks(path: Path) -> Iterator[bytes]:
    """Decompress frame by frame: zstandard's own reader takes a truncated frame for the text's end."""
    with path.open("rb") as raw:
        frame, data = zstandard.ZstdDecompressor().decompressobj(), b""
        pending: list[bytes] = []
        while data := data or raw.read(_ZST_BYTES):
            pending.append(frame.decompress(data))
            if sum(map(len, pending)) >= CHUNK_BYTES:
                yield b"".join(pending)
                pending = []
            data = b""
            if frame.eof:
                data = frame.unused_data
                frame = zstandard.ZstdDecompressor().decompressobj()
                if not data and not (data := raw.read(_ZST_BYTES)):
                    yield b"".join(pending)
                    return
        raise EOFError("the last frame is truncated")


def spooled_reader(name: str, stream: BinaryIO, spool: Path) -> Reader:
    """Copy a stream that can be read only once to the file `spool`, and return a reader of the copy.

    Raises:
        DataError: The stream cannot be read, or the copy cannot be written.
    """
    try:
        spool.parent.mkdir(parents=True, exist_ok=True)
        with spool.open("wb") as copy:
            while chunk := stream.read(CHUNK_BYTES):
                copy.write(chunk)
    except OSError as failure:
        raise DataError(explain_os_error(failure, spool, f"copy {name} to")) from failure
    return Reader(name, lambda: spool.open("rb"))


def stdin_reader(spool: Path) -> Reader:
    """Return a reader of standard input, copied to `spool`.

    Raises:
        DataError: Standard input cannot be copied.
    """
    return spooled_reader("standard input", sys.stdin.buffer, spool)


def pipe_reader(text: str, spool: Path) -> Reader:
    """Return a reader of a named pipe, copied to `spool`.

    Raises:
        DataError: The pipe cannot be opened or copied.
    """
    try:
        with open(text, "rb") as pipe:
            return spooled_reader(text, pipe, spool)
    except OSError as failure:
        raise DataError(explain_os_error(failure, Path(text), "read")) from failure


def is_pipe(text: str) -> bool:
    """Return whether `text` names a pipe, such as the shell's `<(command)`."""
    try:
        return stat.S_ISFIFO(os.stat(text).st_mode)
    except (OSError, ValueError):
        return False


def find_readers(text: str) -> list[Reader]:
    """Return readers of the files that a path or glob names, in a fixed order.

    Args:
        text: A file; a folder, read recursively in order of relative paths, without hidden files and
            folders; or a glob, read in order of paths, in which `**` matches any depth. `~` is the home
            folder.

    Raises:
        DataError: There is no file, or one cannot be read.
    """
    path = Path(os.path.expanduser(text))
    try:
        if path.is_file():
            return [_checked(path)]
        if path.is_dir():
            files = sorted(_visible_files(path), key=lambda p: p.relative_to(path).as_posix())
            if not files:
                raise DataError(
                    f"the folder {text} has no files (hidden ones do not count): give another one"
                )
            return [_checked(file) for file in files]
        if path.exists():
            raise DataError(f"{text} is neither a file nor a folder: pipe it in and name it '-'")
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "read")) from failure
    if glob.has_magic(text):
        # A set, because `**/**` matches a file several times.
        matches = sorted({Path(m) for m in glob.glob(str(path), recursive=True)})
        files = [match for match in matches if match.is_file()]
        if not files:
            raise DataError(f"the pattern {text} matches no file: quote it, and check the folder")
        return [_checked(file) for file in files]
    raise DataError(f"there is no text at {text}: no such file or folder, check the spelling")


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files that are neither hidden nor in hidden folders, in no particular order.

    Raises:
        OSError: A folder cannot be read; skipping it would silently lose its text.
    """

    def refuse(failure: OSError) -> None:
        raise failure

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(base, name)
            for name in files
            if not name.startswith(".") and Path(base, name).is_file()
        )


def _checked(path: Path) -> Reader:
    """Return a reader of a file after opening it once: missing permissions then fail at the start."""
    try:
        path.open("rb").close()
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "read")) from failure
    return file_reader(path)


def chunks_of(readers: Sequence[Reader]) -> Iterator[bytes]:
    """Yield the contents of all readers, one after the other."""
    for reader in readers:
        yield from reader.chunks()
