"""Sums over a head's weights for a whole text, in memory that does not grow with the text.

Legend: T tokens of a segment · M memory rows · K = M + T · R distances · Y stripes of positions ·
X bins of distances · Q quarters of the text.

A row's *distance* is how many rows it lies before a position: 0 is the position's own row.
docs/attention.md has the formula of every figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.evaluate.score import LN2

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: First distances of the bands whose shares of the weight are reported.
BANDS = (0, 1, 16, 128, 1024)
#: Most stripes of positions in the map; shorter texts have one stripe per position.
MAP_STRIPES = 180
#: Bins of distances per doubling of the distance.
_BINS_PER_DOUBLING = 12
#: Parts of the text whose entropies are reported.
_QUARTERS = 4


def by_distance(x_TK: Tensor, num_distances: int) -> Tensor:
    """Return values of rows `[T, K]` by distance, `[T, R]`: at `[t, d]` that of the row d before t.

    Position t has row K - T + t; where there is no row at a distance, the value is 0.
    """
    num_tokens, num_rows = x_TK.shape
    # With positions and rows in reverse order, the own row of position i is in column i. Reading with a
    # stride one longer than a row makes each row begin with its own column.
    padded = F.pad(x_TK.flip(0, 1), (0, num_tokens)).contiguous()
    stride = num_rows + num_tokens + 1
    return padded.as_strided((num_tokens, min(num_rows, num_distances)), (stride, 1)).flip(0)


def distance_edges(num_distances: int) -> Integers:
    """Return the edges of bins of equal width in log(distance), as far as whole rows allow.

    The first bin has distance 0 only; bin i has the distances `edges[i] … edges[i + 1] - 1`.
    """
    doublings = np.log2(max(num_distances, 2))
    steps = np.arange(np.ceil(_BINS_PER_DOUBLING * doublings))
    edges = np.unique(np.round(2 ** (steps / _BINS_PER_DOUBLING)).astype(np.int64))
    return np.concatenate([[0], edges[edges < num_distances], [num_distances]])


class AttentionSums:
    """Running sums over the weights of one head.

    Args:
        num_positions: Positions in the whole text.
        num_distances: Distances 0 … R - 1 within reach of any position.

    Attributes:
        weight_R: Weight at each distance, summed over positions.
        edges: See `distance_edges`.
        map_YX: Weight in each bin of distances, summed over the positions of each stripe.
    """

    def __init__(self, num_positions: int, num_distances: int) -> None:
        self.num_positions = num_positions
        self.weight_R: Floats = np.zeros(num_distances)
        self.edges = distance_edges(num_distances)
        self.map_YX: Floats = np.zeros((min(num_positions, MAP_STRIPES), len(self.edges) - 1))
        self._entropy_bits_Q: Floats = np.zeros(_QUARTERS)
        self._earlier = self._right = 0.0
        self._num_pointing = self._num_right = 0

    def add(self, first: int, weights_TR: Tensor, follows_TR: Tensor) -> Tensor:
        """Add the positions of a segment.

        Args:
            first: Positions of the text before the segment.
            weights_TR: Weight of the row at each distance.
            follows_TR: Whether the token that followed that row is the one to predict.

        Returns:
            The entropy of each position in bits, `[T]`.
        """
        position_T = first + np.arange(len(weights_TR))
        self.weight_R[: weights_TR.shape[1]] += _numpy(weights_TR.sum(0, dtype=torch.float64))
        starts = self.edges[self.edges < weights_TR.shape[1]]
        stripe_T = position_T * len(self.map_YX) // self.num_positions
        binned_TX = np.add.reduceat(weights_TR.cpu().numpy(), starts, axis=1)
        np.add.at(self.map_YX, (stripe_T[:, None], np.arange(len(starts))), binned_TX)

        entropy_bits_T = torch.special.entr(weights_TR).sum(1) / LN2
        quarter_T = position_T * _QUARTERS // self.num_positions
        self._entropy_bits_Q += np.bincount(quarter_T, _numpy(entropy_bits_T), _QUARTERS)
        self._add_pointing(weights_TR[:, 1:], follows_TR[:, 1:])
        return entropy_bits_T

    def _add_pointing(self, weights_TR: Tensor, follows_TR: Tensor) -> None:
        """Add the sums over earlier rows; the token that follows the own row is not known yet."""
        if weights_TR.shape[1] == 0:
            return
        earlier_T = weights_TR.sum(1)
        strongest_T = weights_TR.argmax(1, keepdim=True)
        right_T = follows_TR.gather(1, strongest_T).squeeze(1) & (earlier_T > 0)
        self._earlier += float(earlier_T.double().sum())
        self._right += float((weights_TR * follows_TR).sum(dtype=torch.float64))
        self._num_pointing += int((earlier_T > 0).sum())
        self._num_right += int(right_T.sum())

    @property
    def entropy_bits(self) -> float:
        """Mean entropy of a position's weights in bits; 2 to this power is the effective row count."""
        return float(self._entropy_bits_Q.sum() / self.num_positions)

    @property
    def entropy_bits_by_quarter(self) -> list[float | None]:
        """Mean entropy in each quarter of the text; None where a quarter has no position."""
        quarter = np.arange(self.num_positions) * _QUARTERS // self.num_positions
        counts = np.bincount(quarter, minlength=_QUARTERS).tolist()
        return [_share(s, n) for s, n in zip(self._entropy_bits_Q.tolist(), counts, strict=True)]

    @property
    def share_R(self) -> Floats:
        """Share of the weight at each distance; the shares sum to 1."""
        return self.weight_R / self.num_positions

    @property
    def mean_reach(self) -> float:
        """Mean distance in rows, weighted by the attention weights."""
        return float(self.share_R @ np.arange(len(self.weight_R)))

    @property
    def median_reach(self) -> int:
        """The distance in rows within which half of the weight lies."""
        return int(np.searchsorted(self.weight_R.cumsum(), self.weight_R.sum() / 2))

    @property
    def share_by_band(self) -> dict[str, float]:
        """Share of the weight in each band of distances within reach."""
        stops = (*BANDS[1:], len(self.weight_R))
        return {
            band_name(start): float(self.share_R[start:stop].sum())
            for start, stop in zip(BANDS, stops, strict=True)
            if start < len(self.weight_R)
        }

    @property
    def right_share(self) -> float | None:
        """Of the weight on earlier rows, the share on rows that the true next token followed."""
        return _share(self._right, self._earlier)

    @property
    def strongest_right_share(self) -> float | None:
        """How often the true next token followed the strongest earlier row."""
        return _share(self._num_right, self._num_pointing)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values; a share with a zero denominator is null."""
        return {
            "entropy_bits": self.entropy_bits,
            "entropy_bits_by_quarter": self.entropy_bits_by_quarter,
            "mean_reach_rows": self.mean_reach,
            "median_reach_rows": self.median_reach,
            "share_by_distance": self.share_by_band,
            "right_share": self.right_share,
            "strongest_right_share": self.strongest_right_share,
            "histogram": {
                "edges": self.edges.tolist(),
                "share": np.add.reduceat(self.share_R, self.edges[:-1]).tolist(),
            },
        }


def band_name(start: int) -> str:
    """Return the name of the band of distances that begins at `start`: `0`, `1-15`, … `1024+`."""
    stop = next((edge for edge in BANDS if edge > start), None)
    if stop is None:
        return f"{start}+"
    return f"{start}-{stop - 1}" if stop - start > 1 else f"{start}"


def _numpy(x: Tensor) -> Floats:
    return x.double().cpu().numpy()


def _share(amount: float, whole: float) -> float | None:
    return amount / whole if whole else None
