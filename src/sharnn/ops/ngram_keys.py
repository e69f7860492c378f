"""Hash keys of n-grams.

Legend: B lanes · T tokens · N longest n-gram.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sharnn.kernels.table import MULTIPLIER, PRIME


def ngram_keys(text: Tensor, longest: int) -> Iterator[Tensor]:
    """Yield the keys of the n-grams that end at each token, except the first N - 1 tokens.

    Two different n-grams have the same key with a probability of one in two billion.

    Args:
        text: Tokens `[B, T]`, int64; -1 before the beginning of a text.
        longest: N.

    Yields:
        For each n = 1, 2, … N the keys, `[B, T - N + 1]`, int64 below 2³¹.
    """
    before = longest - 1
    key = text[:, before:] + 2
    yield key
    for back in range(1, longest):
        earlier = text[:, before - back : text.shape[1] - back]
        key = (key * MULTIPLIER + earlier + 2) % PRIME
        yield key
