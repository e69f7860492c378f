"""Counts of the bytes, characters and words of a text that is read in chunks."""

from __future__ import annotations

_WHITE = b" \t\n\r\x0b\x0c"
#: The bytes that continue a UTF-8 character; each other byte begins one.
_CONTINUATION = bytes(range(0x80, 0xC0))


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
