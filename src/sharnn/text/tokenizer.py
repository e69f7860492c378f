"""The interface of a tokenizer: it encodes bytes as tokens and restores every byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sharnn.errors import ConfigError, DataError


@runtime_checkable
class Tokenizer(Protocol):
    """A reversible map: `decode(encode(data)) == data` for all data that it accepts.

    Attributes:
        name: The kind of tokenizer, as written in `tokenizer.json`.
        vocab_size: Number of tokens `V`; tokens are `0 … V - 1`.
        start_token: Context given to a model before the first token of a text: the end of a line. It is
            never scored and never coded.
    """

    name: str
    vocab_size: int
    start_token: int

    def encode(self, data: bytes | str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of `data`, in the smallest unsigned dtype that holds the vocabulary.

        A string is encoded as UTF-8 first.

        Raises:
            DataError: The vocabulary cannot represent `data`.
        """
        ...

    def last_cut(self, data: bytes) -> int:
        """Return the last offset where `data` may be cut, 0 if there is none.

        Encoding the two parts separately gives the tokens of the whole, whatever comes before or after
        `data`.
        """
        ...

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of `tokens`, joined."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return everything needed to rebuild this tokenizer, as plain JSON values."""
        ...


def as_bytes(data: bytes | str) -> bytes:
    """Return a string as UTF-8, and bytes as they are.

    Raises:
        ConfigError: It is neither.
        DataError: The string has half of a surrogate pair, which UTF-8 cannot represent.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if not isinstance(data, str):
        raise ConfigError(f"{data!r} is no text: give a string or bytes")
    try:
        return data.encode()
    except UnicodeEncodeError as failure:
        raise DataError(f"the text is not valid Unicode: {failure}") from failure
