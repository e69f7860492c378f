"""Decoding one token at a time: packed weights, memory in a ring buffer, no growth with the text.

Legend: B lanes · T tokens · D embed_dim · C chunks of Boom · V vocab_size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sharnn.errors import ConfigError
from sharnn.generation import kernel_embed, kernel_step
from sharnn.generation.kernel_embed import KernelEmbedding
from sharnn.generation.kernel_step import KernelStep, KernelWeights
from sharnn.generation.packed_weights import STORED, PackedHead, PackedLayer, pack, pack_norm
from sharnn.generation.ring import Ring
from sharnn.generation.segments import SegmentReader
from sharnn.model import LanguageModel, LayerState, RecurrentState
from sharnn.ops.reference import GELU_SLOPE

#: Tokens of a prompt that are read at once; this bounds the memory needed for a long prompt.
PREFILL_SEGMENT = 1024
#: Prompts up to this length are read step by step: copying the memory out of its ring and back takes the
#: time of some steps, and more for a longer memory.
STEPPED_TOKENS = 8


class Decoder(Protocol):
    """Reads tokens for B lanes and predicts the next ones.

    A decoder owns its state and updates it in place. `state` and `load` exchange states with the forward
    pass, so that each can read parts of one text. Logits are in float32 or the dtype of the weights;
    those of a split softmax are log-probabilities. Callers may keep or change the returned tensors,
    which are copies.
    """

    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens in every lane; return the logits of the next token, `[B, V]`."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token in every lane; return the logits of the next token, `[B, V]`."""
        ...

    def state(self) -> RecurrentState:
        """Return the state in the form that the model's forward pass takes."""
        ...

    def load(self, state: RecurrentState) -> None:
        """Continue from a state; its number of lanes becomes this decoder's."""
        ...

    def fork(self) -> Decoder:
        """Return an independent decoder with the same state; the weights are shared."""
        ...


def make_decoder(
    model: LanguageModel,
    num_lanes: int = 1,
    dtype: str | None = None,
    memory_dtype: str | None = None,
    window: int | None = None,
) -> Decoder:
    """Return the fastest decoder for a model, with an empty state; see `RingDecoder`.

    Its window is the model's at this time when not given, and stays.

    Raises:
        ConfigError: The model can't be decoded with that dtype.
    """
    for name, value in (("dtype", dtype), ("memory dtype", memory_dtype)):
        if value is not None and model.config.architecture == "transformer":
            raise ConfigError(
                f"{name} {value}: a transformer decodes in its weights' own dtype, leave {name} out"
            )
        if value is not None and value not in STORED:
            raise ConfigError(f"{name} '{value}' is unknown: give fp32, bf16 or int8")
    if dtype == "int8" and model.device.type != "cpu":
        raise ConfigError(
            "dtype int8 decodes on a CPU only: give fp32 or bf16, or load the model on device cpu"
        )
    if model.config.architecture == "transformer":
        return ForwardDecoder(model, num_lanes, window)
    return RingDecoder(model, num_lanes, dtype, memory_dtype, window)


class ForwardDecoder:
    """Decodes with the model's own forward pass; works for every architecture."""

    def __init__(self, model: LanguageModel, num_lanes: int = 1, window: int | None = None) -> None:
        self.model = model
        self._window = model.window if window is None else window
        self._state = model.initial_state(num_lanes)

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens; return `[B, V]`."""
        last_BD, self._state = _read(
            partial(self.model.hidden, window=self._window), tokens_BT, self._state
        )
        return self.model.softmax.logits(last_BD, self.model.embedding.weight)

    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token per lane; return `[B, V]`."""
        return self.prefill(tokens_B[:, None])

    def state(self) -> RecurrentState:
        """Return the state."""
        return self._state

    def load(self, state: RecurrentState) -> None:
        """Continue from `state`."""
        self._state = state

    def fork(self) -> ForwardDecoder:
        """Return an independent decoder with the same state."""
        return copy.copy(self)  # states are values: the shared one is never changed in place


def _read(
    hidden: Callable[[Tensor, RecurrentState], tuple[Tensor, RecurrentState]],
    tokens_BT: Tensor,
    state: RecurrentState,
) -> tuple[Tensor, RecurrentState]:
    """Read tokens in bounded segments; return the softmax's input at the last one, `[B, D]`."""
    for part in tokens_BT.split(PREFILL_SEGMENT, dim=1):
        out_BTD, state = hidden(part, state)
    return out_BTD[:, -1], state


class RingDecoder:
    """The fast decoder of the SHA-RNN and the plain LSTM; equals `model.forward` token by token.

    A step reads every weight and every memory row once, and its memory does not grow. It is one call of
    a C++ kernel where one is available, else a chain of PyTorch operations. A step reaches the whole
    window with either `reach` of the model, since a segment of one token does so too.

    Args:
        model: In evaluation mode; its weights are used as they are at construction.
        num_lanes: B.
        dtype: Dtype of the weights: `fp32`, `bf16` or `int8`; None keeps the model's. int8 has a scale
            for each row of a matrix and also quantizes the inputs of matrix products.
        memory_dtype: Dtype of memory rows: `fp32`, `bf16` or `int8`, with a scale for each row; None
            uses that of the weights.
        window: Rows that a position reaches; the model's at construction when not given.
    """

    def __init__(
        self,
        model: LanguageModel,
        num_lanes: int = 1,
        dtype: str | None = None,
        memory_dtype: str | None = None,
        window: int | None = None,
    ) -> None:
        self.model = model
        own = model.embedding.weight.dtype
        self._stored = own if dtype is None else STORED[dtype]
        self._memory_stored = self._stored if memory_dtype is None else STORED[memory_dtype]
        self._computed = torch.float64 if self._stored == torch.float64 else torch.float32
        self._window = model.window if window is None else window
        self._layers: list[PackedLayer] = []
        self._kernels: KernelWeights | None = None
        self._kernel_embedding: KernelEmbedding | None = None
        self._final = pack_norm(model.final_norm, self._stored)
        with torch.no_grad():
            layers = [pack(block, self._stored) for block in model.typed_blocks]
            if kernel_step.available(self._stored, self._memory_stored, model.device):
                self._kernels = KernelWeights(layers, self._final, model.config.residual)
                if kernel_embed.available(model):
                    self._kernel_embedding = KernelEmbedding(model)
            else:
                self._layers = layers
        self._hidden: list[Tensor] = []
        self._cell: list[Tensor] = []
        self._rings: list[Ring | None] = []
        self._recent: Tensor | None = None
        self._slots: Tensor | None = None
        self.load(model.initial_state(num_lanes))

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Read T ≥ 1 tokens, many at once; return `[B, V]`."""
        if tokens_BT.shape[1] <= STEPPED_TOKENS:
            for token_B in tokens_BT.unbind(1):
                logits = self.step(token_B)
            return logits
        reader = SegmentReader(self.model, self._stored, self._kernels, self._window)
        last_BD, state = _read(reader, tokens_BT, self.state())
        self.load(state)
        return self._logits(last_BD)

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Read one token per lane; return `[B, V]`."""
        h_BD = self._embed(tokens_B.long())
        if self._step is not None:
            self._step(h_BD)
        else:
            h_BD = self._step_in_pytorch(h_BD)
        return self._logits(h_BD)

    def _embed(self, tokens_B: Tensor) -> Tensor:
        if self._kernel_embedding is not None:
            assert self._recent is not None
            return self._kernel_embedding(tokens_B, self._recent, self._slots)
        h_B1D, self._recent, self._slots = self.model.embed(
            tokens_B[:, None], self._recent, self._slots, in_place=True
        )
        return h_B1D[:, 0].to(self._computed)

    def _logits(self, h_BD: Tensor) -> Tensor:
        weight_VD = self.model.embedding.weight
        logits_BV = self.model.softmax.logits(h_BD.to(weight_VD.dtype), weight_VD)
        return logits_BV.float() if logits_BV.itemsize < 4 else logits_BV

    def _step_in_pytorch(self, h_BD: Tensor) -> Tensor:
        for index, layer in enumerate(self._layers):
            h_BD = self._block(h_BD, layer, index)
        return h_BD if self._final is None else self._final(h_BD)

    def _block(self, h_BD: Tensor, layer: PackedLayer, index: int) -> Tensor:
        residual = self.model.config.residual
        x_BD = h_BD if layer.start is None else layer.start(h_BD)
        gates_B4D = layer.from_input(x_BD) + layer.from_hidden(self._hidden[index])
        i, f, g, o = gates_B4D.chunk(4, dim=-1)
        self._cell[index] = f.sigmoid() * self._cell[index] + i.sigmoid() * g.tanh()
        self._hidden[index] = o.sigmoid() * self._cell[index].tanh()
        u_BD = h_BD + self._hidden[index] if residual else self._hidden[index]
        if layer.head is not None:
            u_BD = self._attend(u_BD, layer.head, self._rings[index])
        if layer.boom is None or layer.boom_norm is None:
            return u_BD
        z_BCD = layer.boom(layer.boom_norm(u_BD)).unflatten(-1, (-1, u_BD.shape[-1]))
        skip_BD = u_BD if layer.skip is None else layer.skip(u_BD)
        return skip_BD + (z_BCD * torch.sigmoid(GELU_SLOPE * z_BCD)).sum(-2)

    def _attend(self, u_BD: Tensor, head: PackedHead, ring: Ring | None) -> Tensor:
        g_BD = head.mid(u_BD)
        skip_BD = u_BD if self.model.config.residual else g_BD
        if ring is None:  # a window of 0
            return skip_BD
        ring.write(head.memory(u_BD))
        query_BD = head.query_norm(head.query(g_BD)) * head.query_scale
        return skip_BD + ring.attend(query_BD, head.reads_next) * head.value_gate

    @torch.no_grad()
    def state(self) -> RecurrentState:
        """Return the state for the forward pass, in the dtype of computation, memory oldest first."""
        layers = []
        empty = self.model.initial_state(self._hidden[0].shape[0]).layers
        for hidden, cell, ring, layer in zip(
            self._hidden, self._cell, self._rings, empty, strict=True
        ):
            memory = layer.memory if ring is None else ring.memory(self._window, self._computed)
            layers.append(LayerState(hidden.clone(), cell.clone(), memory))
        return RecurrentState(tuple(layers), _copied(self._recent), _copied(self._slots))

    @torch.no_grad()
    def load(self, state: RecurrentState) -> None:
        """Continue from `state`; its number of lanes becomes this decoder's."""
        self._hidden, self._cell, rings = [], [], []
        for layer, ring in zip(
            state.layers, self._rings or [None] * len(state.layers), strict=True
        ):
            assert layer.hidden is not None
            assert layer.cell is not None
            self._hidden.append(layer.hidden.to(self._computed, copy=True).contiguous())
            self._cell.append(layer.cell.to(self._computed, copy=True).contiguous())
            rings.append(self._loaded(ring, layer, state.num_lanes))
        self._rings = rings
        self._recent, self._slots = _copied(state.recent), _copied(state.slots)
        self._bind()

    def _loaded(self, ring: Ring | None, layer: LayerState, num_lanes: int) -> Ring | None:
        if layer.memory is None or self._window == 0:
            return None
        if ring is None or ring.rows.shape[0] != num_lanes:
            dim, device = layer.memory.rows.shape[2], layer.memory.rows.device
            ring = Ring(num_lanes, self._window, dim, self._memory_stored, device)
        ring.load(layer.memory)
        return ring

    def fork(self) -> RingDecoder:
        """Return an independent decoder with the same state; the weights are shared."""
        other = copy.copy(self)
        with torch.no_grad():
            other._hidden = [hidden.clone() for hidden in self._hidden]
            other._cell = [cell.clone() for cell in self._cell]
            other._rings = [None if ring is None else ring.copy() for ring in self._rings]
            other._recent, other._slots = _copied(self._recent), _copied(self._slots)
        other._bind()
        return other

    def _bind(self) -> None:
        """Give the kernel, where there is one, the addresses of the state."""
        self._step: KernelStep | None = None
        if self._kernels is not None:
            self._step = KernelStep(self._kernels, self._hidden, self._cell, self._rings)


def _copied(tensor: Tensor | None) -> Tensor | None:
    """Return a contiguous copy of a tensor, or None."""
    return None if tensor is None else tensor.clone(memory_format=torch.contiguous_format)
