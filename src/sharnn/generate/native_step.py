"""The step of `step.cpp`: a decoder's weights and state laid out for it, and the call."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharnn import native
from sharnn.generate.packed import Matrix, Norm, PackedLayer
from sharnn.generate.ring import Ring

_SOURCE = Path(__file__).with_name("step.cpp")
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Norm(ctypes.Structure):
    _fields_ = (("gain", _POINTER), ("bias", _POINTER))


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weight", _POINTER), ("scale", _POINTER), ("sum", _POINTER), ("bias", _POINTER),
        ("rows", _LONG), ("columns", _LONG), ("kind", _LONG),
    )  # fmt: skip


class _Ring(ctypes.Structure):
    _fields_ = (
        ("rows", _POINTER), ("scale", _POINTER), ("lengths", _POINTER),
        ("window", _LONG), ("kind", _LONG), ("place", _LONG), ("filled", _LONG),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("start", "mid", "memory", "query_norm", "skip", "boom_norm")),
        *((name, _Matrix) for name in ("from_input", "from_hidden", "query", "boom")),
        ("query_scale", _POINTER), ("value_gate", _POINTER),
        ("hidden", _POINTER), ("cell", _POINTER), ("ring", _Ring),
        ("attends", _LONG),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)), ("final", _Norm),
        ("num_layers", _LONG), ("dim", _LONG), ("residual", _LONG),
    )  # fmt: skip


def available(stored: torch.dtype, memory: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel takes such weights and memory rows here."""
    kinds = stored in _KINDS and memory in _KINDS
    return kinds and device.type == "cpu" and native.load(_SOURCE) is not None


def recur(from_hidden: Matrix, gates_TBD4: Tensor, hidden_BD: Tensor, cell_BD: Tensor) -> Tensor:
    """Run an LSTM's recurrence over a segment; return its hidden states `[T, B, D]`.

    Args:
        from_hidden: `[4D, D]`, the gates of a feature together.
        gates_TBD4: What inputs and biases give, float32 as all the others; overwritten.
        hidden_BD: State before the segment, which becomes that after it.
        cell_BD: As `hidden_BD`.
    """
    library = native.load(_SOURCE)
    assert library is not None
    num_tokens, num_lanes, dim = gates_TBD4.shape[:3]
    out_TBD = hidden_BD.new_empty(num_tokens, num_lanes, dim)
    pointers = (_POINTER(x.data_ptr()) for x in (gates_TBD4, hidden_BD, cell_BD, out_TBD))
    library.recur(
        ctypes.byref(_matrix(from_hidden)), *pointers, _LONG(num_tokens), _LONG(num_lanes),
        torch.get_num_threads(),
    )  # fmt: skip
    return out_TBD


class NativeStep:
    """One decoder's weights and state, bound to the kernel.

    Args:
        layers: Weights.
        final: The norm before the softmax, if there is one.
        residual: The wiring; see `ShaRnnBlock`.
        hidden: `[B, D]` of each layer, float32; the kernel writes into them.
        cell: As `hidden`.
        rings: Memories; None where a layer has none.
    """

    def __init__(
        self,
        layers: Sequence[PackedLayer],
        final: Norm | None,
        residual: bool,
        hidden: Sequence[Tensor],
        cell: Sequence[Tensor],
        rings: Sequence[Ring | None],
    ) -> None:
        self._kept = layers, final, hidden, cell  # what the pointers point to
        self._rings = rings
        self._layers = (_Layer * len(layers))(*map(_layer, layers))
        for bound, h, c, ring in zip(self._layers, hidden, cell, rings, strict=True):
            bound.hidden, bound.cell = h.data_ptr(), c.data_ptr()
            if ring is not None:
                bound.ring, bound.attends = _ring(ring), 1
        dim = hidden[0].shape[1]
        self._model = _Model(self._layers, _norm(final), len(layers), dim, int(residual))
        library = native.load(_SOURCE)
        assert library is not None
        self._step = library.step
        self._threads = _Threads()

    def __call__(self, h_BD: Tensor) -> None:
        """Replace embedded tokens by what the softmax reads; move the state on by one token."""
        kept = []
        for bound, ring in zip(self._layers, self._rings, strict=True):
            if ring is not None:
                bound.ring.place = ring.advance()
                bound.ring.filled = ring.filled
                kept.append((_LONG * len(ring.lengths))(*ring.lengths))
                bound.ring.lengths = ctypes.addressof(kept[-1])
        arguments = ctypes.byref(self._model), _POINTER(h_BD.data_ptr()), _LONG(h_BD.shape[0])
        self._threads.run(lambda num_threads: self._step(*arguments, num_threads))


class _Threads:
    """Chooses between a thread for each core and one fewer, by trying both from time to time.

    A step is a chain of phases of some 10 µs, which wait for their slowest thread. With a thread for
    each core, anything else that runs holds one of them up for a time slice, some ms, in every phase.
    How many threads there are changes no result.
    """

    _PERIOD, _TRIAL = 512, 8

    def __init__(self) -> None:
        self._count = 0
        self._seconds = [0.0, 0.0]
        self._chosen = 0

    def run(self, call: Callable[[int], None]) -> None:
        """Call with a number of threads."""
        cores = torch.get_num_threads()
        if cores == 1:
            call(1)
            return
        position = self._count % self._PERIOD
        self._count += 1
        if position >= 2 * self._TRIAL:
            call(cores - self._chosen)
            return
        fewer = position // self._TRIAL
        if position % self._TRIAL == 0:
            self._seconds[fewer] = 0.0
        started = time.perf_counter()
        call(cores - fewer)
        self._seconds[fewer] += time.perf_counter() - started
        if position == 2 * self._TRIAL - 1:
            self._chosen = int(self._seconds[1] < self._seconds[0])


def _layer(layer: PackedLayer) -> _Layer:
    bound = _Layer()
    bound.start, bound.skip = _norm(layer.start), _norm(layer.skip)
    bound.from_input, bound.from_hidden = _matrix(layer.from_input), _matrix(layer.from_hidden)
    if layer.boom is not None:
        bound.boom_norm, bound.boom = _norm(layer.boom_norm), _matrix(layer.boom)
    head = layer.head
    if head is not None:
        bound.mid, bound.memory = _norm(head.mid), _norm(head.memory)
        bound.query, bound.query_norm = _matrix(head.query), _norm(head.query_norm)
        bound.query_scale = head.query_scale.data_ptr()
        bound.value_gate = head.value_gate.data_ptr()
    return bound


def _norm(norm: Norm | None) -> _Norm:
    return _Norm() if norm is None else _Norm(norm.gain.data_ptr(), norm.bias.data_ptr())


def _matrix(matrix: Matrix) -> _Matrix:
    tensors = (matrix.weight, matrix.scale, matrix.sum, matrix.bias)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    return _Matrix(*pointers, *matrix.weight.shape, _KINDS[matrix.weight.dtype])


def _ring(ring: Ring) -> _Ring:
    scale = None if ring.scale is None else ring.scale.data_ptr()
    return _Ring(ring.rows.data_ptr(), scale, None, ring.rows.shape[1], _KINDS[ring.rows.dtype])
