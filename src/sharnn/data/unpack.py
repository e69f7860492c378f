"""Readers of files; compressed files and archives are recognised by their first bytes and unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from sharnn.data.download import Progress
from sharnn.errors import DataError
from sharnn.files import explain_os_error

CHUNK_BYTES = 1 << 20
#: Compressed bytes read at once. Four bytes of zstd can represent 128 KiB, so these decompress to 32 MiB
#: at most, whatever the compression ratio.
_ZST_BYTES = 1 << 10
#: A compressed file inside a compressed file, and an archive in an archive, are unpacked to this depth.
_DEEPEST = 4
_TAR_HEADER_BYTES = tarfile.BLOCKSIZE

_BROKEN = (
    EOFError,
    NotImplementedError,  # zipfile's word for versions and methods that it does not know
    UnicodeDecodeError,  # of a name in a zip
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    zstandard.ZstdError,
)
#: Members of zip files that are the parts of one document or program, not texts.
_PARTS_OF_DOCUMENTS = ("[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF")


@dataclass(frozen=True)
class Reader:
    """A piece of text that can be read several times, each time from its start.

    Attributes:
        name: Name in messages.
        open: Returns a new binary stream.
        path: The file, if the stream is the file as it lies on the disk.
    """

    name: str
    open: Callable[[], IO[bytes]]
    path: Path | None = None

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the content in chunks.

        Raises:
            DataError: The text cannot be read, or is a damaged compressed file.
        """
        try:
            with closing(self.open()) as stream:
                while chunk := stream.read(size):
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

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes, fewer if there are no more."""
        head = b""
        with closing(self.chunks(size)) as chunks:  # type: ignore[type-var]
            while len(head) < size and (chunk := next(chunks, b"")):
                head += chunk
        return head[:size]


class ChunkStream(io.RawIOBase):
    """A binary stream over an iterator of chunks; a read returns at most the rest of a chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest, self._position = b"", 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, empty at the end."""
        if self._position == len(self._rest):
            self._rest, self._position = next(filter(None, self._chunks), b""), 0
        start = self._position
        end = len(self._rest) if size < 0 else min(start + size, len(self._rest))
        self._position = end
        return self._rest if end - start == len(self._rest) else self._rest[start:end]

    def close(self) -> None:
        """Close what the chunks are read from."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()
        super().close()


def chunk_reader(name: str, chunks: Callable[[], Iterator[bytes]]) -> Reader:
    """Return a reader of what `chunks` yields."""
    return Reader(name, lambda: cast(IO[bytes], ChunkStream(chunks())))


# ------------------------------------------------------------------------------- compressed files


def _through(reader: Reader, wrap: Callable[[Any], Any]) -> Iterator[bytes]:
    with closing(reader.open()) as raw, closing(wrap(raw)) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _gz_chunks(reader: Reader) -> Iterator[bytes]:
    return _through(reader, lambda raw: gzip.GzipFile(fileobj=raw))


def _bz2_chunks(reader: Reader) -> Iterator[bytes]:
    return _through(reader, bz2.BZ2File)


def _xz_chunks(reader: Reader) -> Iterator[bytes]:
    return _through(reader, lzma.LZMAFile)


def _zst_chunks(reader: Reader) -> Iterator[bytes]:
    """Decompress frame by frame: zstandard's own reader takes a truncated frame for the text's end."""
    with closing(reader.open()) as raw:
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


#: By suffix: the first bytes of the format, and how it is decompressed.
_COMPRESSIONS: dict[str, tuple[bytes, Callable[[Reader], Iterator[bytes]]]] = {
    ".gz": (b"\x1f\x8b\x08", _gz_chunks),
    ".bz2": (b"BZh", _bz2_chunks),
    ".xz": (b"\xfd7zXZ\0", _xz_chunks),
    ".zst": (b"\x28\xb5\x2f\xfd", _zst_chunks),
}
#: After `BZh` and a digit: the beginning of a block, or the end of an empty file.
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")


def decompressed(reader: Reader) -> Reader:
    """Return a reader of what is compressed in a file, or the reader itself.

    The first bytes tell. A file with the suffix of a compressed file is one, too: without these bytes it
    is damaged, and reading it says so.
    """
    suffix = reader.path.suffix.lower() if reader.path is not None else ""
    for _ in range(_DEEPEST):
        head = reader.head(10)
        chunks = next(
            (chunks for magic, chunks in _COMPRESSIONS.values() if head.startswith(magic)), None
        )
        if chunks is _bz2_chunks and head[4:] not in _BZ2_BLOCKS:
            chunks = None
        if chunks is None and suffix in _COMPRESSIONS:
            chunks = _COMPRESSIONS[suffix][1]
        if chunks is None:
            break
        inner, unpack, suffix = reader, chunks, ""
        reader = chunk_reader(inner.name, lambda i=inner, u=unpack: u(i))  # type: ignore[misc]
    return reader


def file_reader(path: Path) -> Reader:
    """Return a reader of a file, which is decompressed if it is compressed."""
    return decompressed(plain_reader(path))


def plain_reader(path: Path) -> Reader:
    """Return a reader of a file as it lies on the disk."""
    return Reader(str(path), lambda: path.open("rb"), path)


# --------------------------------------------------------------------------------------- archives


class Scratch:
    """Copies of streams that can be read only once or only forwards, and open archives, until the end.

    Args:
        folder: Where the copies are written; it is removed at the end.
        progress: Called with the number of bytes of a copy.
    """

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self._folder = folder
        self._progress = progress
        self._open = ExitStack()
        self._num_copies = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def copy(self, name: str, chunks: Iterable[bytes]) -> Path:
        """Return a new file with the chunks.

        Raises:
            DataError: The copy cannot be written.
        """
        path = self._folder / f"{self._num_copies}"
        self._num_copies += 1
        num_bytes = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as copy:
                for chunk in chunks:
                    num_bytes += copy.write(chunk)
                    if self._progress is not None:
                        self._progress("unpacking", num_bytes, None)
        except OSError as failure:
            raise DataError(explain_os_error(failure, path, f"copy {name} to")) from failure
        return path

    def open_zip(self, path: Path) -> zipfile.ZipFile:
        """Open a zip file until the end, so that its directory is read once."""
        return self._open.enter_context(zipfile.ZipFile(path))


class _Slice(io.RawIOBase):
    """The part of a file that holds a member of an archive."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb")
        self._file.seek(offset)
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, empty at the end.

        Raises:
            EOFError: The archive ends before the member does.
        """
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left and size:
            raise EOFError("the archive is truncated")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def unpacked(
    reader: Reader, scratch: Scratch, wants: Callable[[str], bool], depth: int = 0
) -> Iterator[tuple[str, Reader]]:
    """Yield the texts in a file with their paths in it: '' for the file itself if it is no archive.

    The members of an archive come in order of their names. Nothing is extracted. A compressed tar, and
    an archive in another one, is copied to `scratch` without its compression, because its members are
    not read in the order in which they lie.

    Args:
        reader: The file.
        scratch: Where copies go.
        wants: Whether the member of this path is read.
        depth: Number of archives that this one lies in.

    Raises:
        DataError: It is damaged, or encrypted.
    """
    reader = decompressed(reader)
    members = _members_of(reader.head(_TAR_HEADER_BYTES)) if depth < _DEEPEST else None
    if members is None:
        yield "", reader
        return
    try:
        path = reader.path or scratch.copy(reader.name, reader.chunks())
        found = members(path, reader.name, scratch)
    except _BROKEN as failure:
        raise DataError(
            f"{reader.name} is a damaged archive ({failure}): get the file again"
        ) from failure
    if found is None:
        yield "", reader
        return
    for name in sorted(found):
        if wants(name):
            for inner, text in unpacked(found[name], scratch, wants, depth + 1):
                yield f"{name}/{inner}" if inner else name, text


_Members = Callable[[Path, str, Scratch], "dict[str, Reader] | None"]


def _members_of(head: bytes) -> _Members | None:
    """Return the function that lists the archive that begins with `head`; None if it is none."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_members
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return None
    return _tar_members


def _tar_members(path: Path, name: str, scratch: Scratch) -> dict[str, Reader]:
    members = {}
    with tarfile.open(path, "r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else each header stays in memory
            if info.isreg() and not info.issparse():
                inside = _path_inside(info.name)
                members[inside] = Reader(
                    f"{name}:{inside}",
                    lambda o=info.offset_data, s=info.size: cast(IO[bytes], _Slice(path, o, s)),  # type: ignore[misc]
                )
    return members


def _zip_members(path: Path, name: str, scratch: Scratch) -> dict[str, Reader] | None:
    """Return the members of a zip file; None if it is one document or program."""
    archive, members = scratch.open_zip(path), {}
    for info in archive.infolist():
        if info.filename in _PARTS_OF_DOCUMENTS:
            return None
        if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            continue
        if info.flag_bits & 1 or info.compress_type not in (0, 8, 12, 14):
            raise DataError(
                f"{name}:{info.filename} is encrypted or compressed in a rare way: unpack {name}, and "
                "give the folder"
            )
        inside = _path_inside(info.filename)
        members[inside] = Reader(f"{name}:{inside}", lambda i=info: archive.open(i))  # type: ignore[misc]
    return members


def _path_inside(name: str) -> str:
    """Return a member's name as a relative path. It is only a name: nothing is written under it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(part for part in parts if part not in ("/", "..")) or name
