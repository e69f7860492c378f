"""A key stands for an n-gram: it depends on the last n tokens and on nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sharnn.ops.ngram_keys import ngram_keys

LONGEST = 4


@given(st.lists(st.sampled_from([-1, 0, 1, 999_999]), min_size=LONGEST, max_size=40))
def test_keys_are_equal_where_n_grams_are(tokens: list[int]) -> None:
    keys = list(ngram_keys(torch.tensor([tokens]), LONGEST))
    assert len(keys) == LONGEST
    ends = range(LONGEST, len(tokens) + 1)
    for n, key in enumerate(keys, start=1):
        assert key.shape == (1, len(ends))
        assert 0 <= int(key.min()) <= int(key.max()) < 1 << 31
        ngrams = [tuple(tokens[end - n : end]) for end in ends]
        assert len(set(zip(ngrams, key[0].tolist(), strict=True))) == len(set(ngrams))
        assert len(set(key[0].tolist())) == len(set(ngrams))


def test_keys_of_an_order_are_the_same_whatever_the_longest() -> None:
    text = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
    for n, key in enumerate(ngram_keys(text, LONGEST), start=1):
        *_, alone = ngram_keys(text[:, LONGEST - n :], n)
        assert torch.equal(key, alone)
