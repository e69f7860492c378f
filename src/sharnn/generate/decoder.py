"""One token at a time: weights packed once, memory in a ring, nothing that grows with the text.

Legend: B lanes · T tokens · D embed_dim · F boom_dim · V vocab_size · W window.

Attention rows carry no positions, so their order in the ring is of no matter: the newest row takes
the place of the oldest.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.model import AttentionMemory, LanguageModel, LayerState, RecurrentState
from sharnn.model.attention import NORM_EPS
from sharnn.model.block import Block, LstmBlock, ShaRnnBlock, lstm_weights
from sharnn.ops.reference import GELU_SLOPE

#: Tokens of a prompt that are read at once; bounds what a long prompt needs.
PREFILL_SEGMENT = 512
#: Smallest float32 matrix, in bytes, that is read in two halves; smaller ones stay in a core's cache.
_HALVED_FROM_BYTES = 4 << 20


class Decoder(Protocol):
    """Reads tokens for B lanes and says what may come next.

    It owns its state and alters it; `state` and `load` exchange values with the forward pass, so that
    both can read parts of one text. Logits come in the dtype of the weights, those of a split softmax
    are log-probabilities. All tensors handed out are copies and may be kept or changed.
    """

    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens in every lane; return the logits of the next one, `[B, V]`."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token in every lane; return the logits of the next one, `[B, V]`."""
        ...

    def state(self) -> RecurrentState:
        """Return the state as a model's forward pass takes it."""
        ...

    def load(self, state: RecurrentState) -> None:
        """Go on from a state; its number of lanes becomes this decoder's."""
        ...

    def fork(self) -> Decoder:
        """Return a decoder that goes on from here on its own; the weights are shared."""
        ...


def make_decoder(model: LanguageModel, num_lanes: int = 1) -> Decoder:
    """Return the quickest decoder for a model, with an empty state."""
    if model.config.architecture == "transformer":
        return ForwardDecoder(model, num_lanes)
    return RingDecoder(model, num_lanes)


class ForwardDecoder:
    """Steps through the model's own forward pass; serves every architecture."""

    def __init__(self, model: LanguageModel, num_lanes: int = 1) -> None:
        self.model = model
        self._state = model.initial_state(num_lanes)

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens; return `[B, V]`."""
        logits, self._state = _read(self.model, tokens_BT, self._state)
        return logits

    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token a lane; return `[B, V]`."""
        return self.prefill(tokens_B[:, None])

    def state(self) -> RecurrentState:
        """Return the state."""
        return self._state

    def load(self, state: RecurrentState) -> None:
        """Go on from `state`."""
        self._state = state

    def fork(self) -> ForwardDecoder:
        """Return a decoder that goes on from here on its own."""
        return copy.copy(self)  # states are values: what both begin with is never altered


def _read(
    model: LanguageModel, tokens_BT: Tensor, state: RecurrentState
) -> tuple[Tensor, RecurrentState]:
    """Read tokens in bounded segments; V-wide logits are made for the last position alone."""
    last_B1D = None
    for part in tokens_BT.split(PREFILL_SEGMENT, dim=1):
        out_BTD, state = model.hidden(part, state)
        last_B1D = out_BTD[:, -1:]
    assert last_B1D is not None
    return model.softmax.logits(last_B1D, model.embedding.weight)[:, 0], state


class _Matrix:
    """`x Wᵀ + b`, read as fast as the memory gives it.

    For one float32 lane on a CPU the time is that of reading W, and MKL's matrix-vector product falls
    far short of the memory's bandwidth once W is out of the cache: it runs in one thread, at about 20
    GB/s where 30 are to be had in that thread and 40 in two. As a batch of two halves the product
    takes another kernel, which reaches that. It is the layout of the vector that picks the kernel: a
    column with stride 1 *across* would take one six times slower.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.detach(), bias.detach()
        rows, columns = weight.shape
        num_bytes = weight.numel() * weight.element_size()
        self._halved = (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and num_bytes >= _HALVED_FROM_BYTES
            and rows % 2 == 0
        )
        if self._halved:
            self._halves = self.weight.view(2, rows // 2, columns)
            self._bias_halves = self.bias.view(2, rows // 2, 1)

    def __call__(self, x_BD: Tensor) -> Tensor:
        """Return `[B, rows]`."""
        if not self._halved or x_BD.shape[0] != 1:
            return F.linear(x_BD, self.weight, self.bias)
        column = x_BD.t().expand(2, -1, -1)
        return torch.baddbmm(self._bias_halves, self._halves, column).view(1, -1)


@dataclass(frozen=True)
class _PackedLayer:
    """Weights of a block as the step reads them; gates and slopes are folded in.

    Attributes:
        start_norm: Gain and bias of the norm before the LSTM; None where there is none.
        lstm: `[4D, 2D]`, input and recurrent weights side by side, and the sum of both biases.
        attention: Weights of the head; None where the block has none.
        skip_norm: Norm of Boom's skip in the paper's wiring.
        boom_norm: Norm before Boom; None for the plain LSTM.
        boom: `[n D, D]` and its bias, both scaled by the activation's slope.
    """

    start_norm: tuple[Tensor, Tensor] | None
    lstm: _Matrix
    attention: _PackedHead | None = None
    skip_norm: tuple[Tensor, Tensor] | None = None
    boom_norm: tuple[Tensor, Tensor] | None = None
    boom: _Matrix | None = None


@dataclass(frozen=True)
class _PackedHead:
    """Weights of the single head; the query's scale holds both gates and 1 / √D."""

    mid_norm: tuple[Tensor, Tensor]
    memory_norm: tuple[Tensor, Tensor]
    query: _Matrix
    query_norm: tuple[Tensor, Tensor]
    query_scale: Tensor
    value_gate: Tensor


class _Ring:
    """The memory of one layer: W rows a lane, written round and round.

    Attributes:
        rows: `[B, W, D]`. Places that were never written hold anything and are never read; until
            they are written the system need not even find memory for them.
        next: Place of the next row, the oldest once all are written.
        filled: Places written, from the first on.
        lengths: Rows of each lane's own text, counted from the newest.
    """

    def __init__(self, num_lanes: int, window: int, weight_VD: Tensor) -> None:
        self.rows = weight_VD.new_empty(num_lanes, window, weight_VD.shape[1])
        self.next = 0
        self.filled = 0
        self.lengths = (0,) * num_lanes

    def write(self, row_BD: Tensor) -> None:
        """Put a row in place of the oldest."""
        window = self.rows.shape[1]
        self.rows[:, self.next] = row_BD
        self.next = (self.next + 1) % window
        self.filled = min(self.filled + 1, window)
        self.lengths = tuple(min(n + 1, window) for n in self.lengths)

    def attend(self, query_BD: Tensor) -> Tensor:
        """Return `softmax(q rowsᵀ) rows` over each lane's rows, `[B, D]`; at least one is written."""
        rows_BKD = self.rows[:, : self.filled]
        if rows_BKD.shape[0] == 1:  # two matrix-vector products, the quickest there are
            weights_K = torch.mv(rows_BKD[0], query_BD[0]).softmax(0)
            return torch.mv(rows_BKD[0].t(), weights_K)[None]
        scores_B1K = torch.bmm(query_BD[:, None], rows_BKD.transpose(1, 2))
        if any(n < self.filled for n in self.lengths):
            scores_B1K = scores_B1K.masked_fill(self._foreign()[:, None], -math.inf)
        return torch.bmm(scores_B1K.softmax(-1), rows_BKD)[:, 0]

    def _foreign(self) -> Tensor:
        """Return `[B, K]`, True for rows older than a lane's own text."""
        place = torch.arange(self.filled, device=self.rows.device)
        age = (self.next - 1 - place) % self.rows.shape[1]
        return age >= torch.tensor(self.lengths, device=self.rows.device)[:, None]

    def memory(self, keep: int) -> AttentionMemory:
        """Return a copy of the newest `keep` rows, oldest first."""
        oldest = self.next if self.filled == self.rows.shape[1] else 0
        rows = torch.cat([self.rows[:, oldest : self.filled], self.rows[:, :oldest]], dim=1)
        return AttentionMemory(rows, self.lengths).last(keep)

    def load(self, memory: AttentionMemory) -> None:
        """Take the rows of a state."""
        window = self.rows.shape[1]
        memory = memory.last(window)
        self.filled = memory.rows.shape[1]
        self.rows[:, : self.filled] = memory.rows
        self.next = self.filled % window
        self.lengths = memory.lengths

    def copy(self) -> _Ring:
        """Return a ring of its own with the same rows."""
        other = copy.copy(self)
        other.rows = torch.empty_like(self.rows)
        other.rows[:, : self.filled] = self.rows[:, : self.filled]
        return other


class RingDecoder:
    """The step path of the SHA-RNN and the plain LSTM; equals `model.forward` token by token.

    A step reads every weight once and every memory row twice, and makes nothing that grows. The
    reach of a step is the window whatever the model's `reach`, for a segment of one token sees just
    that.

    Args:
        model: In evaluation mode; its weights and window are taken as they are now.
        num_lanes: B.
    """

    _hidden: list[Tensor]
    _cell: list[Tensor]
    _rings: list[_Ring | None]

    def __init__(self, model: LanguageModel, num_lanes: int = 1) -> None:
        self.model = model
        with torch.inference_mode():
            self._layers = [_pack(block) for block in model.typed_blocks]
        self._window = model.typed_blocks[0].window
        self._rings = [None] * len(self._layers)
        self.load(model.initial_state(num_lanes))

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens, many at once; return `[B, V]`."""
        if tokens_BT.shape[1] == 1:
            return self.step(tokens_BT[:, 0])
        logits, state = _read(self.model, tokens_BT, self.state())
        self.load(state)
        return logits

    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token a lane; return `[B, V]`."""
        one_on_cpu = tokens_B.shape[0] == 1 and self.model.device.type == "cpu"
        with torch.inference_mode(), _leave_a_core() if one_on_cpu else contextlib.nullcontext():
            logits_BV = self._step(tokens_B)
        return logits_BV.clone()  # an ordinary tensor, which callers may change in place

    def _step(self, tokens_B: Tensor) -> Tensor:
        model, residual = self.model, self.model.config.residual
        h_BD = F.embedding(tokens_B.long(), model.embedding.weight)
        for index, layer in enumerate(self._layers):
            x_BD = h_BD if layer.start_norm is None else _norm(h_BD, layer.start_norm)
            hidden, cell = _lstm(x_BD, self._hidden[index], self._cell[index], layer.lstm)
            self._hidden[index], self._cell[index] = hidden, cell
            u_BD = h_BD + hidden if residual else hidden
            if layer.attention is not None:
                u_BD = self._attend(u_BD, layer.attention, self._rings[index], residual)
            h_BD = _boom(u_BD, layer)
        return model.softmax.logits(model.final_norm(h_BD), model.embedding.weight)

    def _attend(
        self, u_BD: Tensor, head: _PackedHead, ring: _Ring | None, residual: bool
    ) -> Tensor:
        g_BD = _norm(u_BD, head.mid_norm)
        skip_BD = u_BD if residual else g_BD
        if ring is None:  # a window of 0
            return skip_BD
        ring.write(_norm(u_BD, head.memory_norm))
        query_BD = _norm(head.query(g_BD), head.query_norm)
        return skip_BD + ring.attend(query_BD * head.query_scale) * head.value_gate

    @torch.no_grad()
    def state(self) -> RecurrentState:
        """Return the state as the forward pass takes it, memory oldest first."""
        keep = self._window if self.model.config.reach == "segment" else self._window - 1
        layers = []
        for hidden, cell, ring, layer in zip(
            self._hidden, self._cell, self._rings, self._layers, strict=True
        ):
            memory = None
            if ring is not None:
                memory = ring.memory(keep)
            elif layer.attention is not None:
                rows = hidden.new_zeros(hidden.shape[0], 0, hidden.shape[1])
                memory = AttentionMemory(rows, (0,) * hidden.shape[0])
            layers.append(LayerState(hidden.clone(), cell.clone(), memory))
        return RecurrentState(tuple(layers))

    @torch.no_grad()
    def load(self, state: RecurrentState) -> None:
        """Go on from `state`; its number of lanes becomes this decoder's."""
        weight_VD = self.model.embedding.weight
        self._hidden, self._cell = [], []
        for index, layer in enumerate(state.layers):
            assert layer.hidden is not None
            assert layer.cell is not None
            self._hidden.append(layer.hidden.to(weight_VD))
            self._cell.append(layer.cell.to(weight_VD))
            if layer.memory is None or self._window == 0:
                continue
            ring = self._rings[index]
            if ring is None or ring.rows.shape[0] != state.num_lanes:
                ring = self._rings[index] = _Ring(state.num_lanes, self._window, weight_VD)
            ring.load(layer.memory)

    def fork(self) -> RingDecoder:
        """Return a decoder that goes on from here on its own; the weights are shared."""
        other = copy.copy(self)
        other._hidden, other._cell = list(self._hidden), list(self._cell)
        with torch.no_grad():
            other._rings = [None if ring is None else ring.copy() for ring in self._rings]
        return other


def _num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _leave_a_core() -> Iterator[None]:
    """Let PyTorch use one thread fewer than there are cores.

    A step of one lane is a chain of products of some 0.1 to 1 ms, and each waits for its slowest
    thread. With as many threads as cores, anything else that runs holds one of them up for a time
    slice, 8 ms, in every product: on two cores a step then takes ten times as long. A core left free
    costs little, for a few threads saturate the memory.
    """
    before = torch.get_num_threads()
    fewer = max(min(before, _num_cores() - 1), 1)
    if fewer == before:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _norm(x_BD: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(x_BD, x_BD.shape[-1:], *norm, NORM_EPS)


def _lstm(
    x_BD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, matrix: _Matrix
) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell state, `[B, D]` each; the hidden one is also the output."""
    gates_B4D = matrix(torch.cat([x_BD, hidden_BD], dim=-1))
    i, f, _, o = gates_B4D.sigmoid().chunk(4, dim=-1)
    candidate_BD = gates_B4D.chunk(4, dim=-1)[2].tanh()
    cell_BD = torch.addcmul(f * cell_BD, i, candidate_BD)
    return o * cell_BD.tanh(), cell_BD


def _boom(u_BD: Tensor, layer: _PackedLayer) -> Tensor:
    if layer.boom_norm is None or layer.boom is None:
        return u_BD
    dim = u_BD.shape[-1]
    z = layer.boom(_norm(u_BD, layer.boom_norm))
    boomed_BD = F.silu(z).view(-1, z.shape[-1] // dim, dim).sum(1) / GELU_SLOPE
    return (u_BD if layer.skip_norm is None else _norm(u_BD, layer.skip_norm)) + boomed_BD


def _affine(norm: torch.nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight.detach(), norm.bias.detach()


def _pack(block: Block) -> _PackedLayer:
    assert isinstance(block, ShaRnnBlock | LstmBlock)
    weight_ih, weight_hh, bias_ih, bias_hh = lstm_weights(block.lstm)
    lstm = _Matrix(torch.cat([weight_ih, weight_hh], dim=1), bias_ih + bias_hh)
    start_norm = None if block.start_norm is None else _affine(block.start_norm)
    if isinstance(block, LstmBlock):
        return _PackedLayer(start_norm, lstm)
    boom = block.boom.linear
    used = boom.weight.shape[0] // block.dim * block.dim
    return _PackedLayer(
        start_norm,
        lstm,
        _pack_head(block),
        None if block.residual else _affine(block.skip_norm),
        _affine(block.boom_norm),
        _Matrix(boom.weight[:used] * GELU_SLOPE, boom.bias[:used] * GELU_SLOPE),
    )


def _pack_head(block: ShaRnnBlock) -> _PackedHead | None:
    head = block.attention
    if head is None:
        return None
    scale = head.query_gate.sigmoid() * head.key_gate.sigmoid() / math.sqrt(block.dim)
    return _PackedHead(
        _affine(block.mid_norm),
        _affine(block.memory_norm),
        _Matrix(head.query.weight, head.query.bias),
        _affine(head.query_norm),
        scale.detach(),
        head.value_gate().detach(),
    )
