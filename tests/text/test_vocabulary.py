"""Tokens have the smallest dtype, and those that do not exist are refused."""

from __future__ import annotations

import numpy as np
import pytest

from sharnn.text import WordTokenizer
from sharnn.text.vocabulary import Vocabulary


def test_the_dtype_holds_the_vocabulary() -> None:
    for size, dtype in ((256, np.uint8), (257, np.uint16), (70_000, np.uint32)):
        tokenizer = WordTokenizer(["<eos>", *(f"w{i}" for i in range(size - 1))])
        assert tokenizer.encode(b" w3 \n").dtype == dtype


def test_tokens_that_do_not_exist_are_refused() -> None:
    for token in (-1, 2):
        with pytest.raises(IndexError):
            Vocabulary([b" \n", b" the"]).decode([token])
