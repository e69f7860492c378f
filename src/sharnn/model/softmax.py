"""The output distribution: a softmax tied to the embedding, whole or split by word frequency.

Legend: N positions · D embed_dim · V vocab_size · S tails of the split.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TiedSoftmax(nn.Module):
    """`softmax(h Embᵀ + b)`; its weight is the embedding's, which is an argument and not a parameter."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def logits(self, hidden: Tensor, embedding_VD: Tensor) -> Tensor:
        """Return logits `[…, V]` for `hidden` `[…, D]`."""
        return F.linear(hidden, embedding_VD, self.bias)

    def nats(self, hidden: Tensor, embedding_VD: Tensor, targets: Tensor) -> Tensor:
        """Return `-log p(target)` in float32, in the shape of `targets` `[…]`."""
        logits = self.logits(hidden, embedding_VD).float()
        nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), reduction="none")
        return nats.view(targets.shape)


class SplitSoftmax(nn.Module):
    """A softmax over a head of frequent words and S tails of rarer ones.

    As in the original (docs/differences_from_2019.md §4). The head contains the words below the first
    cutoff and a tombstone for each tail, which has its own vector and bias: `log p(word) =
    log p(tombstone of its tail) + log p(word | tail)`. The tombstone of tail i is the head's column -i.
    The loss of a position needs the head and, if its target is rare, one tail.
    """

    def __init__(self, vocab_size: int, dim: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        self.bounds = [0, *cutoffs, vocab_size]
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.tail_vectors = nn.Parameter(torch.zeros(len(cutoffs), dim))
        self.tail_bias = nn.Parameter(torch.zeros(len(cutoffs)))

    def _parts(self, embedding_VD: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the weight and bias of the head (words, then tombstones) and of each tail.

        All parts come from one split: the gradient of each separate slice would be V × D, mostly zeros.
        """
        sizes = [stop - start for start, stop in itertools.pairwise(self.bounds)]
        (head, *tails), (head_bias, *tail_biases) = (
            embedding_VD.split(sizes),
            self.bias.split(sizes),
        )
        head = torch.cat([head, self.tail_vectors])
        head_bias = torch.cat([head_bias, self.tail_bias])
        return [(head, head_bias), *zip(tails, tail_biases, strict=True)]

    def logits(self, hidden: Tensor, embedding_VD: Tensor) -> Tensor:
        """Return log-probabilities of all words, `[…, V]`; they are valid logits, too."""
        flat_ND = hidden.flatten(0, -2)
        head, *tails = (_log_probs(flat_ND, *part) for part in self._parts(embedding_VD))
        parts = [head[:, : self.bounds[1]]]
        for tail, within in enumerate(tails, start=1):
            parts.append(head[:, -tail, None] + within)
        return torch.cat(parts, dim=-1).view(*hidden.shape[:-1], -1)

    def nats(self, hidden: Tensor, embedding_VD: Tensor, targets: Tensor) -> Tensor:
        """Return `-log p(target)` in float32, in the shape of `targets` `[…]`."""
        flat_ND, wanted_N = hidden.flatten(0, -2), targets.flatten().long()
        head_part, *tail_parts = self._parts(embedding_VD)
        head = _log_probs(flat_ND, *head_part)
        tail_N = torch.bucketize(wanted_N, torch.tensor(self.bounds[1:-1], device=wanted_N.device),
                                 right=True)  # fmt: skip
        column_N = torch.where(tail_N == 0, wanted_N, head.shape[1] - tail_N)
        log_prob_N = head.gather(1, column_N[:, None]).squeeze(1)
        for tail, part in enumerate(tail_parts, start=1):
            rare = (tail_N == tail).nonzero().squeeze(1)
            if rare.numel():
                within = _log_probs(flat_ND[rare], *part)
                word = wanted_N[rare, None] - self.bounds[tail]
                log_prob_N = log_prob_N.index_add(0, rare, within.gather(1, word).squeeze(1))
        return -log_prob_N.view(targets.shape)


def _log_probs(hidden_ND: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return log-probabilities over the rows of `weight`, in float32."""
    return F.linear(hidden_ND, weight, bias).float().log_softmax(-1)
