"""What the bytes of a file are: text in UTF-8 or another encoding, or no text; and decoding to UTF-8."""

from __future__ import annotations

import codecs
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from sharnn.data.unpack import Reader, chunk_reader
from sharnn.errors import DataError

#: Values of the setting `data.encoding` that name no codec.
AUTO, BYTES = "auto", "bytes"
#: Bytes of a file that are looked at.
HEAD_BYTES = 1 << 16

#: The marks at the beginning of a text, the longer before those they begin with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LABELS = {"utf-8-sig": "UTF-8 with a mark", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
#: First bytes of files that are no text, also where most of them look like it.
_KNOWN_MAGIC = {
    b"\x89PNG": "PNG picture", b"\xff\xd8\xff": "JPEG picture", b"GIF87a": "GIF picture",
    b"GIF89a": "GIF picture", b"%PDF-": "PDF document", b"\x7fELF": "program", b"\0asm": "program",
    b"\xca\xfe\xba\xbe": "program", b"\xcf\xfa\xed\xfe": "program", b"SQLite format 3\0": "database",
    b"OggS\0": "sound", b"fLaC": "sound", b"ID3\3": "sound", b"ID3\4": "sound", b"\x93NUMPY": "array",
    b"\x89HDF": "array", b"PK\3\4": "document or program in a zip file",
}  # fmt: skip
#: First bytes of archives and compressed files that this library cannot unpack.
_SEALED_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "7z archive", b"Rar!\x1a\x07": "RAR archive",
    b"\x1f\x9d\x90": "file of compress", b"\x04\x22\x4d\x18": "lz4 file",
    b"LZIP\x01": "lzip file", b"\x5d\0\0": "LZMA file",
}  # fmt: skip
#: Control bytes that texts have: tab, line ends, form feed and escape (colours of a terminal).
_CONTROL = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r\x1b")) + b"\x7f"
#: A text has a smaller share of other control bytes. Of random bytes, a tenth are.
_MOST_CONTROL = 1 / 30
#: UTF-16 without a mark: of one byte of each pair at least this share is NUL, of the other at most this.
_NUL_SHARE, _OTHER_NUL_SHARE = 0.4, 0.02
_FEWEST_PAIRS = 8


@dataclass(frozen=True)
class Form:
    """What a file is.

    Attributes:
        codec: Python's name of the encoding to decode; None if the bytes stay as they are.
        not_text: What it is instead of text; empty for text.
        sealed: Whether it is an archive or compressed file that this library cannot unpack.
    """

    codec: str | None = None
    not_text: str = ""
    sealed: bool = False

    @property
    def label(self) -> str:
        """The encoding, for people."""
        return "UTF-8" if self.codec is None else _LABELS.get(self.codec, self.codec.upper())


def form_of(head: bytes, encoding: str = AUTO) -> Form:
    """Return what a file is that begins with `head`, which is `HEAD_BYTES` long or the whole file.

    Args:
        head: The beginning.
        encoding: `auto`, `bytes` (nothing is decoded, everything is taken), or a codec, which is not
            questioned.
    """
    if encoding == BYTES:
        return Form()
    codec = (_marked_codec(head) or _codec_by_nuls(head)) if encoding == AUTO else None
    if codec is not None:
        return Form(codec)
    given = None if encoding == AUTO else codec_name(encoding)
    for magic, what in _SEALED_MAGIC.items():
        if head.startswith(magic):
            return Form(given, what, sealed=True)
    for magic, what in _KNOWN_MAGIC.items():
        if head.startswith(magic):
            return Form(given, what)
    if given is not None and given.startswith(("utf-16", "utf-32")):
        return Form(given)
    return Form(given, "binary data" if _too_much_control(head) else "")


def codec_name(encoding: str) -> str:
    """Return Python's name of an encoding; that of UTF-8 drops a mark."""
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def _marked_codec(head: bytes) -> str | None:
    """Return the codec of a mark at the beginning, if what follows can be decoded."""
    for mark, codec in _MARKS:
        if head.startswith(mark) and (codec == "utf-8-sig" or _decodes(head, codec)):
            return codec
    return None


def _codec_by_nuls(head: bytes) -> str | None:
    """Return the codec of UTF-16 without a mark: every other byte of most alphabets' text is NUL."""
    num_pairs = len(head) // 2
    if num_pairs < _FEWEST_PAIRS:
        return None
    first, second = (head[start : 2 * num_pairs : 2].count(0) / num_pairs for start in (0, 1))
    for codec, high, low in (("utf-16-le", second, first), ("utf-16-be", first, second)):
        if high >= _NUL_SHARE and low <= _OTHER_NUL_SHARE and _decodes(head, codec):
            text = codecs.getincrementaldecoder(codec)().decode(head)
            return None if _too_much_control(text.encode()) else codec
    return None


def _decodes(head: bytes, codec: str) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(head, len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return True


def _too_much_control(head: bytes) -> bool:
    return len(head) - len(head.translate(None, _CONTROL)) > len(head) * _MOST_CONTROL


def decoded(reader: Reader, codec: str | None, strict: bool) -> Reader:
    """Return a reader of a text as UTF-8.

    Args:
        reader: The text.
        codec: Its encoding; None to leave the bytes as they are.
        strict: Whether the codec was given. Else bytes of UTF-8 after a mark are not checked.
    """
    if codec is None:
        return reader
    if codec == "utf-8-sig" and not strict:
        return chunk_reader(reader.name, partial(_without_mark, reader))
    return chunk_reader(reader.name, partial(_decode, reader, codec))


def as_utf8(data: bytes) -> bytes:
    """Return a short text as UTF-8 if it is recognised as UTF-16 or UTF-32, and without a mark.

    Raises:
        DataError: It begins so, and has an error later.
    """
    reader = Reader("the text", lambda: io.BytesIO(data))
    return b"".join(decoded(reader, form_of(data[:HEAD_BYTES]).codec, strict=False).chunks())


def _without_mark(reader: Reader) -> Iterator[bytes]:
    left = len(codecs.BOM_UTF8)
    for chunk in reader.chunks():
        yield chunk[left:]
        left = max(left - len(chunk), 0)


def _decode(reader: Reader, codec: str) -> Iterator[bytes]:
    """Yield a text as UTF-8.

    Raises:
        DataError: The text is not in this encoding.
    """
    decoder, num_read = codecs.getincrementaldecoder(codec)(), 0
    for chunk in itertools.chain(reader.chunks(), [b""]):
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final=not chunk).encode()
        except UnicodeError as failure:
            place = num_read - pending + getattr(failure, "start", 0)
            reason = getattr(failure, "reason", failure)
            raise DataError(
                f"{reader.name} is not {codec.removesuffix('-sig')} text: byte {place:,} ({reason}); set "
                "data.encoding to its encoding, or to bytes to read it as it is"
            ) from failure
        num_read += len(chunk)
