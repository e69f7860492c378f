"""The memory of one layer during decoding: a ring buffer of rows, in full or lower precision.

Legend: B lanes · D embed_dim · W window · K rows written.

Attention rows carry no positions, so their place does not matter: the newest row overwrites the oldest.
The row that follows another is at the next place of the ring.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.errors import ConfigError
from sharnn.model import AttentionMemory
from sharnn.ops.quantize import quantized


class Ring:
    """A ring buffer of W rows per lane.

    Raises:
        ConfigError: There is not enough memory for the rows.

    Attributes:
        rows: `[B, W, D]`. Places not yet written are uninitialised and never read; the system need not
            allocate memory for them before they are written.
        scale: `[B, W]`, scale of each row's integers; None unless rows are int8.
        next: Place of the next row; that of the oldest row once all are written.
        filled: Number of places written, from the first on.
        lengths: Number of rows that belong to each lane's own text, counted from the newest.
    """

    def __init__(
        self, num_lanes: int, window: int, dim: int, stored: torch.dtype, device: torch.device
    ) -> None:
        try:
            self.rows = torch.empty(num_lanes, window, dim, dtype=stored, device=device)
        except RuntimeError as failure:
            size = num_lanes * window * dim * stored.itemsize / 2**30
            raise ConfigError(
                f"a memory of {window:,} rows takes {size:,.0f} GiB, more than {device} can allocate: "
                "give a smaller window, or a smaller memory dtype"
            ) from failure
        self.scale: Tensor | None = None
        if stored == torch.int8:
            self.scale = torch.empty(num_lanes, window, device=device)
        self.next = 0
        self.filled = 0
        self.lengths = (0,) * num_lanes

    def advance(self) -> int:
        """Add a row and return its place; the caller writes the row there."""
        place, window = self.next, self.rows.shape[1]
        self.next = (place + 1) % window
        self.filled = min(self.filled + 1, window)
        self.lengths = tuple(min(n + 1, window) for n in self.lengths)
        return place

    def write(self, row_BD: Tensor) -> None:
        """Add a row, which overwrites the oldest if all places are written."""
        place = self.advance()
        self._put(slice(place, place + 1), row_BD[:, None])

    def attend(self, query_BD: Tensor, reads_next: bool) -> Tensor:
        """Return `softmax(q rowsᵀ) rows` over each lane's rows, `[B, D]`; at least one must be written.

        Args:
            query_BD: Queries.
            reads_next: See `ops.reference.attention`.
        """
        rows_BKD = self._read(slice(0, self.filled), query_BD.dtype)
        scores_B1K = torch.bmm(query_BD[:, None], rows_BKD.transpose(1, 2))
        if any(n < self.filled for n in self.lengths):
            scores_B1K = scores_B1K.masked_fill(self._foreign()[:, None], -math.inf)
        if not reads_next:
            return torch.bmm(scores_B1K.softmax(-1), rows_BKD)[:, 0]
        scores_B1K[..., self.next - 1] = -math.inf  # no row follows the newest one yet
        weights_B1K = F.pad(scores_B1K, (0, 1)).softmax(-1)[..., :-1]
        return torch.bmm(weights_B1K, rows_BKD.roll(-1, 1))[:, 0]

    def _foreign(self) -> Tensor:
        """Return `[B, K]`, True for rows that are older than a lane's own text."""
        place = torch.arange(self.filled, device=self.rows.device)
        age = (self.next - 1 - place) % self.rows.shape[1]
        return age >= torch.tensor(self.lengths, device=self.rows.device)[:, None]

    def memory(self, keep: int, dtype: torch.dtype) -> AttentionMemory:
        """Return a copy of the newest `keep` rows, oldest first."""
        oldest = self.next if self.filled == self.rows.shape[1] else 0
        parts = [slice(oldest, self.filled), slice(0, oldest)]
        rows = torch.cat([self._read(part, dtype) for part in parts], dim=1)
        return AttentionMemory(rows, self.lengths).last(keep)

    def load(self, memory: AttentionMemory) -> None:
        """Load the newest rows of a state's memory."""
        window = self.rows.shape[1]
        memory = memory.last(window)
        self.filled = memory.rows.shape[1]
        self._put(slice(0, self.filled), memory.rows)
        self.next = self.filled % window
        self.lengths = memory.lengths

    def copy(self) -> Ring:
        """Return an independent ring with the same rows."""
        other = copy.copy(self)
        other.rows = torch.empty_like(self.rows)
        other.rows[:, : self.filled] = self.rows[:, : self.filled]
        if self.scale is not None:
            other.scale = self.scale.clone()
        return other

    def _put(self, places: slice, rows: Tensor) -> None:
        if self.scale is None:
            self.rows[:, places] = rows
        else:
            self.rows[:, places], self.scale[:, places] = quantized(rows)

    def _read(self, places: slice, dtype: torch.dtype) -> Tensor:
        rows = self.rows[:, places].to(dtype)
        return rows if self.scale is None else rows * self.scale[:, places, None]
