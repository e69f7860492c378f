"""Counting bytes, characters and words of a text that comes in chunks."""

from __future__ import annotations

_WHITE = b" \t\n\r\x0b\x0c"
#: Leaves the bytes of UTF-8 that continue a character, to be counted by what they are not.
_CONTINUATION = bytes(range(0x80, 0xC0))


class TextCounter:
    """Adds up chunks as if they were one text.

    Attributes:
        num_bytes: Bytes.
        num_chars: UTF-8 characters that begin: bytes but those that continue one.
        num_words: Runs of bytes that are not ASCII white space.
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
            self.num_words -= 1  # the chunk begins inside the last one's last word
        self.ends_in_word = data[-1] not in _WHITE
