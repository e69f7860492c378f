"""Archives, compressed files and files that are not text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import marshal
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import zstandard

from texts import reference_text

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def tar_of(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes(300 * 100))
    head = struct.pack(">IIBBBBB", 100, 100, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


NOT_TEXT = {
    "png": png(),
    "pyc": b"\xa7\r\r\n" + bytes(12) + marshal.dumps(compile("x = [1, 2]\n" * 9, "x.py", "exec")),
    "pdf": b"%PDF-1.7\n" + b"1 0 obj << /Type /Catalog >> endobj\n" * 50,
    "elf": b"\x7fELF" + bytes(60),
    "random": zlib.compress(reference_text(20_000)),
    "floats": struct.pack("<500d", *(index / 7 for index in range(500))),
    "nuls": bytes(100),
    "wave": struct.pack("<500h", *(index * 37 % 900 - 450 for index in range(500))),
}
