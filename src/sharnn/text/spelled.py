"""Words of an open vocabulary: frequent ones are one token, all others are spelled in bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sharnn.errors import ConfigError, DataError
from sharnn.text.unit_tokenizer import UnitTokenizer
from sharnn.text.units import WORD

_NUM_BYTES = 256
#: Saved as JSON, bytes are written as the first 256 characters of Unicode.
_LATIN = "latin-1"


class SpelledWordTokenizer(UnitTokenizer):
    """Tokens 0 … 255 are bytes, the others are whole units, by falling frequency.

    A unit is a word with the one space before it, or any other white-space byte. One that is in the
    vocabulary is one token; any other is spelled byte by byte, so that nothing is unknown.

    Args:
        words: The units with a token of their own.

    Raises:
        ValueError: One is no unit of more than a byte, or stands twice.
    """

    name = "spelled-word"
    unit_pattern = re.compile(WORD.pattern + rb"|\s")

    def __init__(self, words: Sequence[bytes]) -> None:
        token_bytes = [*(bytes([byte]) for byte in range(_NUM_BYTES)), *words]
        pieces = {spelt: token for token, spelt in enumerate(token_bytes)}
        if len(pieces) != len(token_bytes):
            raise ValueError("a word is empty, a single byte, or stands twice")
        wrong = next((word for word in words if not self.unit_pattern.fullmatch(word)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no word with at most one space before it")
        super().__init__(token_bytes, pieces)

    @classmethod
    def build(cls, text: Iterable[bytes], vocab_size: int) -> SpelledWordTokenizer:
        """Return the vocabulary of a text's most frequent units, then by bytes.

        Args:
            text: Blocks that cut no unit.
            vocab_size: Tokens in all, the 256 bytes among them.

        Raises:
            ConfigError: It has no room for more than the bytes.
            DataError: The text has not so many units.
        """
        if vocab_size <= _NUM_BYTES:
            raise ConfigError(
                f"a vocabulary of {vocab_size:,} is too small: it holds the {_NUM_BYTES} bytes and needs "
                "more than these"
            )
        counts = {unit: n for unit, n in cls.count_units(text).items() if len(unit) > 1}
        if vocab_size > _NUM_BYTES + len(counts):
            raise DataError(
                f"a vocabulary of {vocab_size:,} is more than this text fills: it has {len(counts):,} "
                f"different words, so {_NUM_BYTES + len(counts):,} tokens are the most"
            )
        ranked = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return cls(ranked[: vocab_size - _NUM_BYTES])

    def encode_unit(self, unit: bytes) -> list[int]:
        """Return the unit's token, or its bytes."""
        token = self.pieces.get(unit)
        return list(unit) if token is None else [token]

    def perturb_unit(self, unit: bytes, dropped: Callable[[], bool]) -> list[int]:
        """Return the unit's bytes where its token is given up."""
        known = len(unit) > 1 and unit in self.pieces
        return list(unit) if known and dropped() else self.encode_unit(unit)

    def to_json(self) -> dict[str, Any]:
        """Return the name and the words, each byte written as the character of its number."""
        words = [self.token_bytes(token) for token in range(_NUM_BYTES, self.vocab_size)]
        return {"name": self.name, "words": [word.decode(_LATIN) for word in words]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SpelledWordTokenizer:
        """Return the tokenizer that `to_json` described.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: It describes none.
        """
        if not isinstance(values["words"], list):
            raise TypeError("its words are no list")
        return cls([word.encode(_LATIN) for word in values["words"]])
