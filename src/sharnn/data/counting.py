"""Counts of the bytes, characters, words and errors of a text that is read in chunks."""

from __future__ import annotations

import codecs
import re

_WHITE = b" \t\n\r\x0b\x0c"
#: The bytes that continue a UTF-8 character; each other byte begins one.
_CONTINUATION = bytes(range(0x80, 0xC0))
#: What bytes that are not UTF-8 are decoded to; those that Latin-1 has no printable character for.
_ESCAPED, _ESCAPED_C1 = re.compile("[\udc80-\udcff]"), re.compile("[\udc80-\udc9f]")


class TextCounter:
    """Counts over chunks as if they were one text.

    Attributes:
        num_bytes: Number of bytes.
        num_chars: Number of UTF-8 characters, counted as the bytes that begin one.
        num_words: Number of runs of bytes that are not ASCII white space.
        starts_in_word: Whether the first byte belongs to a word.
        ends_in_word: Whether the last byte does.
    """

    def __init__(self) -> None:
        self.num_bytes = self.num_chars = self.num_words = 0
        self.starts_in_word = self.ends_in_word = False

    def add(self, data: bytes) -> None:
        """Count a chunk."""
        if not data:
            return
        if self.num_bytes == 0:
            self.starts_in_word = data[0] not in _WHITE
        self.num_bytes += len(data)
        self.num_chars += len(data.translate(None, _CONTINUATION))
        self.num_words += len(data.split())
        if self.ends_in_word and data[0] not in _WHITE:
            self.num_words -= 1  # the chunk continues the last word of the previous one
        self.ends_in_word = data[-1] not in _WHITE


class Utf8Checker:
    """Counts the bytes of a text that are not UTF-8.

    Attributes:
        num_invalid: Number of these bytes.
        looks_like_cp1252: Whether some of them are characters of Windows-1252 and not of Latin-1.
    """

    def __init__(self) -> None:
        self.num_invalid = 0
        self.looks_like_cp1252 = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._inside = False

    def add(self, data: bytes, final: bool = False) -> None:
        """Check a chunk; `final` is True for the last one, which may be empty."""
        if data.isascii() and not self._inside:
            return
        text = self._decoder.decode(data, final)
        self._inside = bool(self._decoder.getstate()[0])
        if _ESCAPED.search(text):
            num_bytes = len(text.encode("utf-8", "surrogateescape"))
            self.num_invalid += num_bytes - len(text.encode("utf-8", "ignore"))
            self.looks_like_cp1252 |= bool(_ESCAPED_C1.search(text))
