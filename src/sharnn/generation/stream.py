"""Streaming of text as tokens arrive: only whole characters, and nothing after a stop string."""

from __future__ import annotations

import codecs
import functools

import torch
from torch import Tensor

from sharnn.errors import ConfigError

#: For each lead byte: the number of bytes that follow and the range of the first of them (RFC 3629,
#: section 4: no overlong forms, no surrogates, nothing above U+10FFFF).
_LEADS: dict[int, tuple[int, int, int]] = {
    **dict.fromkeys(range(0x80), (0, 0, 0)),
    **dict.fromkeys(range(0xC2, 0xE0), (1, 0x80, 0xBF)),
    **dict.fromkeys(range(0xE1, 0xF0), (2, 0x80, 0xBF)),
    0xE0: (2, 0xA0, 0xBF),
    0xED: (2, 0x80, 0x9F),
    **dict.fromkeys(range(0xF1, 0xF4), (3, 0x80, 0xBF)),
    0xF0: (3, 0x90, 0xBF),
    0xF4: (3, 0x80, 0x8F),
}


_LONGEST_CHARACTER = 4  # bytes
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


def unfinished_character(text: bytes) -> bytes:
    """Return the incomplete character at the end of `text`: at most three bytes."""
    for start in range(max(len(text) - 3, 0), len(text)):
        need, low, high = _LEADS.get(text[start], (0, 0, 0))
        second, later = text[start + 1 : start + 2], text[start + 2 :]
        if (
            len(text) - start <= need
            and all(low <= byte <= high for byte in second)
            and all(0x80 <= byte <= 0xBF for byte in later)
        ):
            return text[start:]
    return b""


@functools.cache
def _continuations(low: int, high: int) -> Tensor:
    mask = torch.zeros(256, dtype=torch.bool)
    mask[low : high + 1] = True
    return mask


@functools.cache
def _leads(bytes_left: int) -> Tensor:
    mask = torch.zeros(256, dtype=torch.bool)
    mask[[lead for lead, (need, _, _) in _LEADS.items() if need < bytes_left]] = True
    return mask


class Utf8Constraint:
    """Tracks the bytes of a text and gives the allowed next bytes, so that the text stays valid UTF-8.

    Attributes:
        pending: Number of bytes that the current character still needs.
    """

    def __init__(self, text_so_far: bytes = b"") -> None:
        self.pending = 0
        self._low, self._high = 0x80, 0xBF
        for byte in unfinished_character(text_so_far):
            self.advance(byte)

    def allowed(self, bytes_left: int) -> Tensor:
        """Return `[256]`, True where a byte may come next and its character fits in `bytes_left`.

        The tensor is cached, so callers must not change it.
        """
        if self.pending:
            return _continuations(self._low, self._high)
        return _leads(min(bytes_left, _LONGEST_CHARACTER))

    def advance(self, byte: int) -> None:
        """Take the next byte, which must be allowed."""
        if self.pending:
            self.pending, self._low, self._high = self.pending - 1, 0x80, 0xBF
        else:
            self.pending, self._low, self._high = _LEADS[byte]


class WholeCharacters:
    """Passes bytes on as whole characters; invalid UTF-8 becomes U+FFFD.

    Args:
        text_so_far: The text shown before. Where it ends inside a character, the first piece has the
            bytes that complete it.
    """

    def __init__(self, text_so_far: bytes = b"") -> None:
        self._begun = unfinished_character(text_so_far)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(self._begun)

    def feed(self, data: bytes) -> bytes:
        """Return the characters that are now complete."""
        shown = self._decoder.decode(data).encode()
        if shown and self._begun:
            # The text shown before began the first character, which is now complete or invalid.
            begun, self._begun = self._begun, b""
            return shown[len(begun if shown.startswith(begun) else _REPLACEMENT) :]
        return shown


class StopFilter:
    """Passes text on up to the first complete stop string; holds back a possible beginning of one.

    Args:
        stops: Strings that end the text and are not part of it.

    Raises:
        ConfigError: A stop string is empty.

    Attributes:
        stopped: Whether a stop string was found.
    """

    def __init__(self, stops: list[str]) -> None:
        if "" in stops:
            raise ConfigError(
                "a stop string is empty: it would end the text before anything is written, leave it out"
            )
        self._stops = [stop.encode("utf-8", "surrogateescape") for stop in stops]
        self._held = b""
        self.stopped = False

    def feed(self, data: bytes) -> bytes:
        """Return the text that can be shown now."""
        self._held += data
        found = [
            (place + len(stop), place)
            for stop in self._stops
            if (place := self._held.find(stop)) >= 0
        ]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)[1]], b""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> bytes:
        """Return the text held back, at the end of the text."""
        shown, self._held = self._held, b""
        return shown

    def _overlap(self, stop: bytes) -> int:
        """Return the number of bytes at the end of the held text that begin `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
