"""What holds of all tokenizers that encode a text unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.text import tokenizer_from_json
from text.subwords import KINDS, TEXT, TOKENIZERS, kinds, texts


@given(kinds, texts, texts)
def test_a_text_may_be_cut_where_it_says(kind: str, data: bytes, more: bytes) -> None:
    """Also inside of words that are longer than a unit can be."""
    tokenizer = TOKENIZERS[kind]
    for whole in (data + more, data + b"a" * 150 + more):
        end = tokenizer.last_cut(whole)
        parts = [tokenizer.encode(whole[:end]), tokenizer.encode(whole[end:])]
        assert np.array_equal(np.concatenate(parts), tokenizer.encode(whole))
        assert not any(white in whole[end + 1 :] for white in b" \t\n\r\x0b\x0c")


@given(kinds, texts, st.floats(0, 1), st.integers(0, 99))
def test_perturbed_tokens_say_the_same(kind: str, data: bytes, dropout: float, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode_perturbed(data, dropout, np.random.default_rng(seed))
    assert tokenizer.decode(tokens) == data
    again = tokenizer.encode_perturbed(data, dropout, np.random.default_rng(seed))
    assert np.array_equal(tokens, again)
    assert tokens.dtype == tokenizer.encode(data).dtype


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_goes_from_nothing_to_single_bytes(kind: str) -> None:
    tokenizer, whole = TOKENIZERS[kind], len(TOKENIZERS[kind].encode(TEXT))
    lengths = []
    for dropout in (0.0, 0.1, 0.5, 1.0):
        tokens = tokenizer.encode_perturbed(TEXT, dropout, np.random.default_rng(0))
        assert tokenizer.decode(tokens) == TEXT
        lengths.append(len(tokens))
    assert lengths == sorted(lengths)
    assert whole == lengths[0] < lengths[1]
    assert lengths[-1] == len(TEXT)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            tokenizer.encode_perturbed(TEXT, wrong, np.random.default_rng(0))


def test_the_cache_of_units_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharnn.text.unit_tokenizer._CACHE_BYTES", 5_000)
    tokenizer = tokenizer_from_json(TOKENIZERS["bpe"].to_json())
    for start in range(0, len(TEXT), 1000):
        data = TEXT[start : start + 1000]
        assert tokenizer.decode(tokenizer.encode(data)) == data
    assert len(tokenizer._cache) < len(set(tokenizer.units(TEXT))) / 2
