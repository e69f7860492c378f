"""Every byte is a token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.text import ByteTokenizer


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.uint8
    assert tokenizer.decode(tokens) == data
    assert b"".join(tokenizer.token_bytes(int(t)) for t in tokens) == data


def test_tokens_that_do_not_exist_are_refused() -> None:
    for tokens in ([256], [-1], np.array([300], np.uint16)):
        with pytest.raises(ValueError, match="0 … 255"):
            ByteTokenizer().decode(tokens)
