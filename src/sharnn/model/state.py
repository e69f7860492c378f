"""The recurrent state that a model carries from one segment to the next.

Legend: B lanes · D embed_dim · M memory rows.

States are values: every method returns a new state and does not change the old one, so a state can be
kept, forked, rolled back and compared. Memory rows have no positions, so a lane's history is dropped by
dropping its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_T = TypeVar("_T")

#: Stands for a token in `recent` before the beginning of a text.
NO_TOKEN = -1


@dataclass(frozen=True)
class AttentionMemory:
    """Rows that later positions may attend to.

    Attributes:
        rows: `[B, M, D]`, oldest first, without gradient. Written once, never projected again.
        lengths: For each lane, how many of the last rows it has written since its last reset. Kept on the
            host, so that shapes need no synchronisation with a device.
    """

    rows: Tensor
    lengths: tuple[int, ...]

    @property
    def ragged(self) -> tuple[int, ...] | None:
        """The lengths if any of them differs from the number of rows, else None."""
        return None if all(n == self.rows.shape[1] for n in self.lengths) else self.lengths

    def append(self, new_BTD: Tensor) -> AttentionMemory:
        """Return a memory with `new_BTD` after the old rows, all in the dtype of the new rows."""
        rows = torch.cat([self.rows.to(new_BTD.dtype), new_BTD.detach()], dim=1)
        lengths = tuple(n + new_BTD.shape[1] for n in self.lengths)
        return AttentionMemory(rows, lengths)

    def last(self, keep: int) -> AttentionMemory:
        """Return a memory of at most the last `keep` rows, without rows that no lane has written."""
        keep = min(keep, max(self.lengths, default=0), self.rows.shape[1])
        rows = self.rows[:, self.rows.shape[1] - keep :]
        return AttentionMemory(rows, tuple(min(n, keep) for n in self.lengths))

    @classmethod
    def join(cls, memories: Sequence[AttentionMemory]) -> AttentionMemory:
        """Return a memory with the lanes of all memories; shorter ones are padded with zeros in front."""
        longest = max(memory.rows.shape[1] for memory in memories)
        rows = [F.pad(m.rows, (0, 0, longest - m.rows.shape[1], 0)) for m in memories]
        lengths = tuple(n for memory in memories for n in memory.lengths)
        return cls(torch.cat(rows), lengths).last(longest)


@dataclass(frozen=True)
class LayerState:
    """The state of one block; parts that the block does not have are None.

    Attributes:
        hidden: LSTM hidden state `[B, D]`.
        cell: LSTM cell state `[B, D]`.
        memory: Attention memory; for a Transformer block its past keys and values, `[B, M, 2D]`.
    """

    hidden: Tensor | None = None
    cell: Tensor | None = None
    memory: AttentionMemory | None = None


@dataclass(frozen=True)
class RecurrentState:
    """The state of a model for B lanes.

    Attributes:
        layers: One `LayerState` for each block.
        recent: The last tokens read, `[B, N]`, if the model embeds or recalls n-grams.
        slots: Recall's tables of followers, `[B, O, S]`, if the model recalls n-grams.
    """

    layers: tuple[LayerState, ...]
    recent: Tensor | None = None
    slots: Tensor | None = None

    @property
    def num_lanes(self) -> int:
        """Number of lanes B."""
        for layer in self.layers:
            if layer.memory is not None:
                return len(layer.memory.lengths)
            if layer.hidden is not None:
                return layer.hidden.shape[0]
        return 0 if self.recent is None else self.recent.shape[0]

    def detach(self) -> RecurrentState:
        """Return the same values without gradient history: truncated back-propagation ends here."""
        return self._map(lambda t: t.detach())

    def to(self, *args: Any, **kwargs: Any) -> RecurrentState:
        """Return a state on another device or in another dtype; arguments as `Tensor.to`."""

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(*args, **kwargs)
            return moved if tensor.is_floating_point() else tensor.to(moved.device)

        return self._map(move)

    def reset(self, lanes: Iterable[int]) -> RecurrentState:
        """Return a state in which `lanes` are as at the beginning; other lanes are unchanged."""
        chosen = set(lanes)
        outside = [lane for lane in chosen if not 0 <= lane < self.num_lanes]
        if outside:
            raise IndexError(
                f"lane {outside[0]} does not exist: the state has {self.num_lanes} lanes, from 0 on"
            )
        keep = [lane not in chosen for lane in range(self.num_lanes)]

        def zero(tensor: Tensor | None, nothing: int = 0) -> Tensor | None:
            if tensor is None:
                return None
            kept = torch.tensor(keep, device=tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            return torch.where(kept, tensor, torch.full_like(tensor, nothing))

        def forget(memory: AttentionMemory | None) -> AttentionMemory | None:
            if memory is None:
                return None
            lengths = tuple(n if k else 0 for n, k in zip(memory.lengths, keep, strict=True))
            return AttentionMemory(memory.rows, lengths).last(memory.rows.shape[1])

        return RecurrentState(
            tuple(LayerState(zero(s.hidden), zero(s.cell), forget(s.memory)) for s in self.layers),
            zero(self.recent, NO_TOKEN),
            zero(self.slots),
        )

    def select(self, lanes: Sequence[int]) -> RecurrentState:
        """Return a state with the given `lanes` of this one, in that order; repeated lanes are copied."""

        def pick(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, torch.tensor(list(lanes), device=tensor.device))

        layers, picked = [], self._map(pick)
        for layer in picked.layers:
            if layer.memory is not None:
                lengths = tuple(layer.memory.lengths[lane] for lane in lanes)
                memory = AttentionMemory(layer.memory.rows, lengths)
                layer = replace(layer, memory=memory.last(memory.rows.shape[1]))
            layers.append(layer)
        return RecurrentState(tuple(layers), picked.recent, picked.slots)

    def expand(self, copies: int) -> RecurrentState:
        """Return a state in which each lane is repeated `copies` times in a row."""
        return self.select([lane for lane in range(self.num_lanes) for _ in range(copies)])

    @classmethod
    def join(cls, states: Sequence[RecurrentState]) -> RecurrentState:
        """Return a state with the lanes of all `states`, in order.

        If memories have different numbers of rows, the shorter ones are padded in front with rows that
        are out of reach. If dtypes differ, the result has the dtype that both can be promoted to.

        Raises:
            ValueError: No state is given, or the states are of models with different blocks.
        """
        if not states:
            raise ValueError("no state was given to join")
        layers = tuple(map(_join_layers, zip(*(s.layers for s in states), strict=True)))
        recent = _all_or_none([state.recent for state in states])
        slots = _all_or_none([state.slots for state in states])
        return cls(
            layers, torch.cat(recent) if recent else None, torch.cat(slots) if slots else None
        )

    def is_finite(self) -> bool:
        """Return whether all values are finite (waits for the device)."""
        return all(bool(tensor.isfinite().all()) for tensor in self.to_tensors().values())

    def num_bytes(self) -> int:
        """Size of the state in bytes."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors, for a file: `layer2.memory`, `layer2.lengths`, …"""
        tensors: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            if layer.hidden is not None and layer.cell is not None:
                tensors[f"layer{index}.hidden"] = layer.hidden
                tensors[f"layer{index}.cell"] = layer.cell
            if layer.memory is not None:
                tensors[f"layer{index}.memory"] = layer.memory.rows
                tensors[f"layer{index}.lengths"] = torch.tensor(layer.memory.lengths)
        if self.recent is not None:
            tensors["recent"] = self.recent
        if self.slots is not None:
            tensors["slots"] = self.slots
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], num_layers: int) -> RecurrentState:
        """Return the state from the tensors of `to_tensors`."""
        layers = []
        for index in range(num_layers):
            memory = None
            if f"layer{index}.memory" in tensors:
                lengths = tuple(int(n) for n in tensors[f"layer{index}.lengths"])
                memory = AttentionMemory(tensors[f"layer{index}.memory"], lengths)
            hidden, cell = (tensors.get(f"layer{index}.{name}") for name in ("hidden", "cell"))
            layers.append(LayerState(hidden, cell, memory))
        return cls(tuple(layers), tensors.get("recent"), tensors.get("slots"))

    def _map(self, change: Callable[[Tensor], Tensor]) -> RecurrentState:
        def apply(layer: LayerState) -> LayerState:
            memory = layer.memory
            return LayerState(
                None if layer.hidden is None else change(layer.hidden),
                None if layer.cell is None else change(layer.cell),
                None if memory is None else replace(memory, rows=change(memory.rows)),
            )

        recent = None if self.recent is None else change(self.recent)
        slots = None if self.slots is None else change(self.slots)
        return RecurrentState(tuple(apply(layer) for layer in self.layers), recent, slots)


def _join_layers(layers: Sequence[LayerState]) -> LayerState:
    hidden = _all_or_none([layer.hidden for layer in layers])
    cell = _all_or_none([layer.cell for layer in layers])
    memories = _all_or_none([layer.memory for layer in layers])
    return LayerState(
        torch.cat(hidden) if hidden else None,
        torch.cat(cell) if cell else None,
        AttentionMemory.join(memories) if memories else None,
    )


def _all_or_none(parts: Sequence[_T | None]) -> list[_T]:
    """Return the parts, or an empty list if all of them are None.

    Raises:
        ValueError: Only some are None.
    """
    there = [part for part in parts if part is not None]
    if there and len(there) < len(parts):
        raise ValueError("states of models with different blocks cannot be joined")
    return there
