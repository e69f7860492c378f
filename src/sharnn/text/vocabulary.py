"""Base of tokenizers with a list of tokens: vocabulary size, dtype and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Vocabulary:
    """Tokens 0 … V - 1, each with its bytes.

    Args:
        token_bytes: The bytes of each token.

    Attributes:
        vocab_size: V.
        dtype: The smallest unsigned dtype that holds all tokens.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._bytes = list(token_bytes)
        self.vocab_size = len(self._bytes)
        sizes = (np.uint8, np.uint16, np.uint32)
        self.dtype = next(d for d in sizes if self.vocab_size <= np.iinfo(d).max + 1)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of the tokens, joined.

        Raises:
            IndexError: There is no such token.
        """
        return b"".join([self.token_bytes(token) for token in np.asarray(tokens).tolist()])

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token.

        Raises:
            IndexError: There is no such token.
        """
        if token < 0:
            raise IndexError(f"token {token} is negative")
        return self._bytes[token]
