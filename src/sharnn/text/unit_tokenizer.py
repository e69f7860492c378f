"""Base of tokenizers that split text into units by a rule and encode each unit separately.

Every white-space byte begins a new unit, and a unit contains no white space except the space that it may
begin with. So a text that is cut before white space has the same tokens as its parts.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sharnn.text.tokenizer import as_bytes
from sharnn.text.vocabulary import Vocabulary

_WHITE = b" \t\n\r\x0b\x0c"
#: Limit of the cache of units, and the approximate size of an entry besides its unit and tokens.
_CACHE_BYTES = 1 << 26
_ENTRY_BYTES = 200


class UnitTokenizer(Vocabulary, ABC):
    """A tokenizer that encodes any bytes, unit by unit.

    Args:
        token_bytes: The bytes of each token. Every single byte must be one of them.
        pieces: See below.

    Attributes:
        pieces: The token of each piece of a unit, by its bytes. Every concatenation of pieces that spells
            a unit is a valid segmentation of it (but see `SubwordTokenizer.pieces` for WordPiece).
    """

    name: str
    unit_pattern: ClassVar[re.Pattern[bytes]]
    pieces: dict[bytes, int]

    def __init__(self, token_bytes: Sequence[bytes], pieces: dict[bytes, int]) -> None:
        super().__init__(token_bytes)
        self.pieces = pieces
        self.start_token = pieces[b"\n"]
        self._cache: dict[bytes, bytes] = {}
        self._cached_bytes = 0

    @classmethod
    def count_units(cls, blocks: Iterable[bytes]) -> Counter[bytes]:
        """Return how often each unit occurs in a text, whose blocks must not split one."""
        counts: Counter[bytes] = Counter()
        for block in blocks:
            counts.update(cls.unit_pattern.findall(block))
        return counts

    @abstractmethod
    def encode_unit(self, unit: bytes) -> list[int]:
        """Return the tokens of one unit."""

    def units(self, data: bytes) -> list[bytes]:
        """Return the units of `data`, whose concatenation is `data`."""
        return self.unit_pattern.findall(data)

    @staticmethod
    def last_cut(data: bytes) -> int:
        """Return the offset of the last white space, 0 if there is none."""
        return max(0, *(data.rfind(white) for white in (_WHITE[i : i + 1] for i in range(6))))

    def encode(self, data: bytes | str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of `data`, which may be any bytes."""
        units = self.units(as_bytes(data))
        known = self._known(units)
        return np.frombuffer(bytearray().join([known[unit] for unit in units]), dtype=self.dtype)

    def _known(self, units: list[bytes]) -> dict[bytes, bytes]:
        """Return the tokens, as bytes of `dtype`, of at least these units.

        Threads may share a tokenizer, so a full cache is replaced and not cleared: another thread may
        still be reading it.
        """
        if self._cached_bytes > _CACHE_BYTES:
            self._cache, self._cached_bytes = {}, 0
        cache = self._cache
        for unit in set(units).difference(cache):
            cache[unit] = np.array(self.encode_unit(unit), dtype=self.dtype).tobytes()
            self._cached_bytes += _ENTRY_BYTES + len(unit) + len(cache[unit])
        return cache

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return everything needed to rebuild this tokenizer, as plain JSON values."""
