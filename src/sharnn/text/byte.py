"""Bytes as tokens: no vocabulary to train, and any data can be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.text.tokenizer import as_bytes

_NEWLINE = 10


class ByteTokenizer:
    """Every byte is one token, so any data is valid text."""

    name = "byte"
    vocab_size = 256
    start_token = _NEWLINE

    def encode(self, data: bytes | str) -> npt.NDArray[np.uint8]:
        """Return the bytes as uint8."""
        return np.frombuffer(
            bytearray(as_bytes(data)), dtype=np.uint8
        )  # a copy, so that it is writable

    @staticmethod
    def last_cut(data: bytes) -> int:
        """Return the end of `data`: bytes may be cut anywhere."""
        return len(data)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the tokens as bytes.

        Raises:
            ValueError: A token is out of range; a cast to uint8 would wrap it to another byte.
        """
        values = np.asarray(tokens)
        if values.dtype != np.uint8 and values.size and not 0 <= values.min() <= values.max() < 256:
            raise ValueError(
                f"byte tokens must lie in 0 … 255, found {values.min()} … {values.max()}"
            )
        return values.astype(np.uint8, copy=False).tobytes()

    def token_bytes(self, token: int) -> bytes:
        """Return the byte."""
        return bytes([token])

    def to_json(self) -> dict[str, Any]:
        """Return the name, which describes this tokenizer completely."""
        return {"name": self.name}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ByteTokenizer:
        """Return the tokenizer."""
        return cls()
