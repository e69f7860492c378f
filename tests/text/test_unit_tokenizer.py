"""What holds of all tokenizers that encode a text unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from sharnn.text import tokenizer_from_json
from text.subwords import TEXT, TOKENIZERS, kinds, texts


@given(kinds, texts, texts)
def test_a_text_may_be_cut_where_it_says(kind: str, data: bytes, more: bytes) -> None:
    """Also inside of words that are longer than a unit can be."""
    tokenizer = TOKENIZERS[kind]
    for whole in (data + more, data + b"a" * 150 + more):
        end = tokenizer.last_cut(whole)
        parts = [tokenizer.encode(whole[:end]), tokenizer.encode(whole[end:])]
        assert np.array_equal(np.concatenate(parts), tokenizer.encode(whole))
        assert not any(white in whole[end + 1 :] for white in b" \t\n\r\x0b\x0c")


def test_the_cache_of_units_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharnn.text.unit_tokenizer._CACHE_BYTES", 5_000)
    tokenizer = tokenizer_from_json(TOKENIZERS["bpe"].to_json())
    for start in range(0, len(TEXT), 1000):
        data = TEXT[start : start + 1000]
        assert tokenizer.decode(tokenizer.encode(data)) == data
    assert len(tokenizer._cache) < len(set(tokenizer.units(TEXT))) / 2
