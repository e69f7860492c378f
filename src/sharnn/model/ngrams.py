"""Embeddings of frequent n-grams: each position looks up the tokens just before it.

Legend: B lanes · T tokens · P = B T positions · D embed_dim · N longest n-gram (in names of tensors its
N - 1 orders) · R rows of a table · d width of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharnn.ops.ngram_keys import PRIME, ngram_keys

#: Key of an empty row: larger than every key, so it never matches and sorts last.
_NO_KEY = PRIME
#: The most tokens of a text that are counted, and the number of stretches they come from.
COUNTED_TOKENS, _STRETCHES = 1 << 22, 64


class NgramEmbedding(nn.Module):
    """One table for each order n = 2 … N; a position reads the row of its last n tokens, if there is one.

    The rows of all orders, each `D // (N - 1)` wide, are concatenated, and the model adds them to the
    token's embedding. A step uses only the rows of its own n-grams. With an identity path to the softmax
    the model works as an n-gram model from the first steps on, and the layers learn the rest.

    Only n-grams that a text uses often have a row (`learn_vocabulary`). With a row for every n-gram, by a
    hash as in the Byte Latent Transformer (arXiv 2412.09871, section 3.2.1), the model memorises what
    followed the rare ones: from the second pass over a text on, held-out text gets worse.
    """

    def __init__(self, dim: int, longest: int, num_rows: int) -> None:
        super().__init__()
        self.dim, self.longest, self.num_rows = dim, longest, num_rows
        num_orders = longest - 1
        # Zeros, so that a row has no effect until its n-gram occurs in training.
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(torch.zeros(num_rows, dim // num_orders), freeze=False)
            for _ in range(num_orders)
        )
        self.keys_NR: Tensor
        self.register_buffer(
            "keys_NR", torch.full((num_orders, num_rows), _NO_KEY, dtype=torch.int32)
        )

    def learn_vocabulary(self, text: npt.NDArray[Any], min_count: int) -> None:
        """Assign rows to the most frequent n-grams of a text.

        Args:
            text: Tokens, any integer dtype; of a long text, evenly spaced stretches are counted.
            min_count: How often an n-gram must occur in what is counted.
        """
        self.keys_NR.fill_(_NO_KEY)
        for order, keys in enumerate(frequent_ngrams(text, self.longest, min_count)):
            kept = keys[: self.num_rows].sort().values
            self.keys_NR[order, : len(kept)] = kept

    def forward(self, text: Tensor) -> Tensor:
        """Look up every position of a segment.

        Args:
            text: The N - 1 tokens before the segment (-1 before the beginning of a text) and the
                segment's T tokens, int64.

        Returns:
            `[B, T, D]`.
        """
        key_NBT = torch.stack(list(_keys(text, self.longest)))
        key_NP = key_NBT.flatten(1)
        row_NP = torch.searchsorted(self.keys_NR, key_NP).clamp_max(self.num_rows - 1)
        unknown_NP = self.keys_NR.gather(1, row_NP) != key_NP
        rows = [table(row_P) for table, row_P in zip(self.tables, row_NP, strict=True)]
        rows_PNd = torch.stack(rows, dim=1).masked_fill(unknown_NP.t()[..., None], 0.0)
        h_BTD = rows_PNd.flatten(1).unflatten(0, key_NBT.shape[1:])
        return F.pad(h_BTD, (0, self.dim - h_BTD.shape[-1]))


def frequent_ngrams(text: npt.NDArray[Any], longest: int, min_count: int) -> list[Tensor]:
    """Return the keys of the frequent n-grams of a text, the most frequent first.

    Args:
        text: Tokens, any integer dtype.
        longest: N.
        min_count: How often an n-gram must occur in what is counted.

    Returns:
        The keys of each order 2 … N, int32.
    """
    tokens = torch.from_numpy(_stretches(text).astype(np.int64))[None]
    if tokens.shape[1] < longest:
        return [torch.empty(0, dtype=torch.int32)] * (longest - 1)
    frequent = []
    for key_1T in _keys(tokens, longest):
        keys, counts = key_1T[0].unique(return_counts=True)
        often = counts >= min_count
        keys, counts = keys[often], counts[often]
        frequent.append(keys[counts.argsort(descending=True, stable=True)])
    return frequent


def _keys(text: Tensor, longest: int) -> Iterator[Tensor]:
    """Yield for n = 2 … N the int32 keys of the n-grams that end at each token from the N-th on."""
    for key in itertools.islice(ngram_keys(text, longest), 1, None):
        yield key.int()


def _stretches(text: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a text, or for a long text evenly spaced stretches of `COUNTED_TOKENS` tokens in all."""
    if len(text) <= COUNTED_TOKENS:
        return np.asarray(text)
    length = COUNTED_TOKENS // _STRETCHES
    starts = np.linspace(0, len(text) - length, _STRETCHES).astype(int)
    return np.concatenate([text[start : start + length] for start in starts])
