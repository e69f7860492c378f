"""The contract of a tokenizer: bytes in, tokens out, and every byte back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class Tokenizer(Protocol):
    """A reversible map between bytes and tokens; `decode(encode(data)) == data` for all it accepts.

    Attributes:
        name: The kind of tokenizer, as written in `tokenizer.json`.
        vocab_size: Number of tokens `V`; tokens are `0 … V - 1`.
        start_token: The context given to a model before the first token of a text. It is never
            scored and never coded: a text begins as if after a line's end.
    """

    name: str
    vocab_size: int
    start_token: int

    def encode(self, data: bytes) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of `data`, in the smallest unsigned dtype that holds the vocabulary.

        Raises:
            DataError: `data` holds something this vocabulary lacks.
        """
        ...

    def last_cut(self, data: bytes) -> int:
        """Return the last place where `data` may be cut, 0 where there is none.

        Encoded apart, the parts before and after give the tokens of the whole, whatever comes before
        or after `data`.
        """
        ...

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes that `tokens` stand for."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token; their number is the token's share of the text."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all that is needed to build this tokenizer again, as plain JSON values."""
        ...
