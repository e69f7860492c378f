"""Calls of the kernels in `step.cpp`, and the layout of a decoder's weights and state for them.

Legend: B lanes · T tokens · D embed_dim · P parts of a matrix, of D rows each · K its columns.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharnn import kernels
from sharnn.generation.packed_weights import Matrix, Norm, PackedLayer
from sharnn.generation.panels import KINDS, MatrixStruct, by_panels, lines
from sharnn.generation.ring import Ring
from sharnn.ops.reference import LstmResult

_SOURCE = Path(__file__).with_name("step.cpp")
_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Norm(ctypes.Structure):
    _fields_ = (("gain", _POINTER), ("bias", _POINTER))


class _Ring(ctypes.Structure):
    _fields_ = (
        ("rows", _POINTER), ("scale", _POINTER), ("lengths", _POINTER),
        ("window", _LONG), ("kind", _LONG), ("place", _LONG), ("filled", _LONG),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("start", "mid", "memory", "query_norm", "skip", "boom_norm")),
        *((name, MatrixStruct) for name in ("from_input", "from_hidden", "query", "boom")),
        ("query_scale", _POINTER), ("value_gate", _POINTER),
        ("hidden", _POINTER), ("cell", _POINTER), ("ring", _Ring),
        ("attends", _LONG), ("reads_next", _LONG),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)), ("final", _Norm),
        ("num_layers", _LONG), ("dim", _LONG), ("residual", _LONG),
    )  # fmt: skip


def available(stored: torch.dtype, memory: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel is available on a device for weights and memory rows of these dtypes."""
    kinds = stored in KINDS and memory in KINDS
    return kinds and device.type == "cpu" and kernels.load(_SOURCE) is not None


def _library() -> ctypes.CDLL:
    library = kernels.load(_SOURCE)
    assert library is not None
    return library


class KernelWeights:
    """A model's weights in the kernel's layout; any number of decoders can share them.

    Args:
        layers: The packed blocks; the tensors of their matrices are not kept.
        final: The final norm, if there is one.
        residual: Whether blocks have residual connections.
    """

    def __init__(self, layers: Sequence[PackedLayer], final: Norm | None, residual: bool) -> None:
        self.residual = residual
        self._kept: list[Tensor] = []  # keeps alive what the pointers point to
        self.layers = [self._layer(layer) for layer in layers]
        self.final = self._norm(final)

    def lstm(self, layer: int, x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor) -> LstmResult:
        """Run an LSTM over the inputs of a segment, with the same matrix products as a step."""
        bound, x_BTD = self.layers[layer], x_BTD.float().contiguous()
        hidden_BD, cell_BD = (x.to(torch.float32, copy=True) for x in (hidden_BD, cell_BD))
        num_lanes, num_tokens, _ = x_BTD.shape
        out_BTD = torch.empty_like(x_BTD)
        _library().read_lstm(
            ctypes.byref(bound.from_input), ctypes.byref(bound.from_hidden),
            *map(_pointer, (x_BTD, hidden_BD, cell_BD, out_BTD)),
            _LONG(num_lanes), _LONG(num_tokens), torch.get_num_threads(),
        )  # fmt: skip
        return out_BTD, hidden_BD, cell_BD

    def boom(self, layer: int, x_BTD: Tensor) -> Tensor:
        """Return Boom of a segment, `[B, T, D]` in float32, with the same matrix products as a step."""
        x_BTD = x_BTD.float().contiguous()
        out_BTD = torch.empty_like(x_BTD)
        _library().read_boom(
            ctypes.byref(self.layers[layer].boom), _pointer(x_BTD), _pointer(out_BTD),
            _LONG(x_BTD.shape[0] * x_BTD.shape[1]), torch.get_num_threads(),
        )  # fmt: skip
        return out_BTD

    def _layer(self, layer: PackedLayer) -> _Layer:
        bound = _Layer()
        bound.start, bound.skip = self._norm(layer.start), self._norm(layer.skip)
        bound.from_input = self._matrix(layer.from_input, 4)
        bound.from_hidden = self._matrix(layer.from_hidden, 4)
        if layer.boom is not None:
            num_chunks = layer.boom.weight.shape[0] // layer.boom.weight.shape[1]
            bound.boom_norm = self._norm(layer.boom_norm)
            bound.boom = self._matrix(layer.boom, num_chunks)
        head = layer.head
        if head is not None:
            bound.mid, bound.memory = self._norm(head.mid), self._norm(head.memory)
            bound.query, bound.query_norm = self._matrix(head.query, 1), self._norm(head.query_norm)
            bound.query_scale = self._kept_pointer(head.query_scale)
            bound.value_gate = self._kept_pointer(head.value_gate)
            bound.reads_next = int(head.reads_next)
        return bound

    def _norm(self, norm: Norm | None) -> _Norm:
        if norm is None:
            return _Norm()
        return _Norm(self._kept_pointer(norm.gain), self._kept_pointer(norm.bias))

    def _matrix(self, matrix: Matrix, num_parts: int) -> MatrixStruct:
        columns, kind = matrix.weight.shape[1], KINDS[matrix.weight.dtype]
        scale = total = None
        if matrix.scale is not None:
            scale = self._kept_pointer(by_panels(matrix.scale, num_parts))
            sums = matrix.weight.sum(-1, dtype=torch.int32)
            total = self._kept_pointer(by_panels(sums, num_parts))
        bias = by_panels(matrix.bias, num_parts)
        pointers = (
            self._kept_pointer(lines(matrix.weight, num_parts)),
            scale,
            total,
            self._kept_pointer(bias),
        )
        return MatrixStruct(*pointers, len(bias), columns, kind)

    def _kept_pointer(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return _POINTER(tensor.data_ptr())


class KernelStep:
    """The step kernel bound to the weights and to one decoder's state.

    Args:
        weights: Weights of all blocks.
        hidden: `[B, D]` of each block in float32; updated in place.
        cell: As `hidden`.
        rings: Memory of each block; None where it has none.
    """

    def __init__(
        self,
        weights: KernelWeights,
        hidden: Sequence[Tensor],
        cell: Sequence[Tensor],
        rings: Sequence[Ring | None],
    ) -> None:
        self._kept = weights, hidden, cell  # keeps alive what the pointers point to
        self._rings = rings
        self._layers = (_Layer * len(rings))(*weights.layers)
        for bound, h, c, ring in zip(self._layers, hidden, cell, rings, strict=True):
            bound.hidden, bound.cell = h.data_ptr(), c.data_ptr()
            if ring is not None:
                bound.ring, bound.attends = _ring(ring), 1
        dim = hidden[0].shape[1]
        self._model = _Model(self._layers, weights.final, len(rings), dim, int(weights.residual))
        self._step = _library().step
        self._threads = _Threads()

    def __call__(self, h_BD: Tensor) -> None:
        """Replace embedded tokens by the softmax's inputs; advance the state by one token."""
        kept = []
        for bound, ring in zip(self._layers, self._rings, strict=True):
            if ring is not None:
                bound.ring.place = ring.advance()
                bound.ring.filled = ring.filled
                kept.append((_LONG * len(ring.lengths))(*ring.lengths))
                bound.ring.lengths = ctypes.addressof(kept[-1])
        arguments = ctypes.byref(self._model), _pointer(h_BD), _LONG(h_BD.shape[0])
        self._threads.run(lambda num_threads: self._step(*arguments, num_threads))


class _Threads:
    """Chooses between one thread per core and one fewer, by timing both at intervals.

    A step is a chain of phases of some 10 µs, each of which waits for its slowest thread. With one thread
    per core, any other process delays one of them by a time slice of some ms in every phase. The number
    of threads does not change the results.
    """

    _PERIOD, _TRIAL = 512, 8

    def __init__(self) -> None:
        self._count = 0
        # Times with one thread per core, and with one fewer.
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._fewer = 0

    def run(self, call: Callable[[int], None]) -> None:
        """Call with a number of threads."""
        cores = torch.get_num_threads()
        if cores == 1:
            call(1)
            return
        position = self._count % self._PERIOD
        self._count += 1
        if position >= 2 * self._TRIAL:
            call(cores - self._fewer)
            return
        fewer = position % 2
        started = time.perf_counter()
        call(cores - fewer)
        self._seconds[fewer].append(time.perf_counter() - started)
        if position == 2 * self._TRIAL - 1:
            # Medians, because the very first steps run with cold caches.
            all_cores, one_fewer = map(statistics.median, self._seconds)
            self._fewer = int(one_fewer < all_cores)
            self._seconds = ([], [])


def _ring(ring: Ring) -> _Ring:
    scale = None if ring.scale is None else ring.scale.data_ptr()
    return _Ring(ring.rows.data_ptr(), scale, None, ring.rows.shape[1], KINDS[ring.rows.dtype])
