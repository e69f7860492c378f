"""Words of an open vocabulary: a frequent word is one token, all others are spelled in bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sharnn.errors import ConfigError, DataError
from sharnn.text.unit_tokenizer import UnitTokenizer
from sharnn.text.units import WORD

_NUM_BYTES = 256
#: In JSON, bytes are written as the first 256 characters of Unicode.
_LATIN = "latin-1"


class SpelledWordTokenizer(UnitTokenizer):
    """Tokens 0 … 255 are bytes; the others are whole units, in order of decreasing frequency.

    A unit is a word with one space before it, or any other white-space byte. A unit in the vocabulary is
    one token. Any other unit is spelled byte by byte, so no text is unknown.

    Args:
        words: The units that have a token of their own.

    Raises:
        ValueError: A word is not a unit of more than one byte, or occurs twice.
    """

    name = "spelled-word"
    unit_pattern = re.compile(WORD.pattern + rb"|\s")

    def __init__(self, words: Sequence[bytes]) -> None:
        token_bytes = [*(bytes([byte]) for byte in range(_NUM_BYTES)), *words]
        pieces = {spelt: token for token, spelt in enumerate(token_bytes)}
        if len(pieces) != len(token_bytes):
            raise ValueError("a word is empty, is a single byte, or occurs twice")
        wrong = next((word for word in words if not self.unit_pattern.fullmatch(word)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not a word with at most one space before it")
        super().__init__(token_bytes, pieces)

    @classmethod
    def build(cls, text: Iterable[bytes], vocab_size: int) -> SpelledWordTokenizer:
        """Return the vocabulary of a text's most frequent units; ties are ordered by bytes.

        Args:
            text: Blocks whose boundaries do not split a unit.
            vocab_size: Number of tokens, including the 256 bytes.

        Raises:
            ConfigError: The vocabulary has no room for more than the bytes.
            DataError: The text has too few different units.
        """
        if vocab_size <= _NUM_BYTES:
            raise ConfigError(
                f"a vocabulary of {vocab_size:,} tokens is too small: it contains the {_NUM_BYTES} bytes "
                "and needs more than these"
            )
        counts = {unit: n for unit, n in cls.count_units(text).items() if len(unit) > 1}
        if vocab_size > _NUM_BYTES + len(counts):
            raise DataError(
                f"a vocabulary of {vocab_size:,} tokens is more than this text fills: it has "
                f"{len(counts):,} different words, so use at most {_NUM_BYTES + len(counts):,} tokens"
            )
        ranked = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return cls(ranked[: vocab_size - _NUM_BYTES])

    def encode_unit(self, unit: bytes) -> list[int]:
        """Return the unit's token, or its bytes."""
        token = self.pieces.get(unit)
        return list(unit) if token is None else [token]

    def to_json(self) -> dict[str, Any]:
        """Return the name and the words, each byte written as the character with its code."""
        words = [self.token_bytes(token) for token in range(_NUM_BYTES, self.vocab_size)]
        return {"name": self.name, "words": [word.decode(_LATIN) for word in words]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SpelledWordTokenizer:
        """Return the tokenizer that `to_json` has described.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: The values do not describe one.
        """
        if not isinstance(values["words"], list):
            raise TypeError("its 'words' are not a list")
        return cls([word.encode(_LATIN) for word in values["words"]])
