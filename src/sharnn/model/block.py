"""Blocks of the SHA-RNN and of the baselines it is compared with.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim · H heads.

Every block maps `(h_BTD, LayerState)` to `(h_BTD, LayerState)`, so one model class, one trainer and one
evaluation work for all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharnn.config import ModelConfig
from sharnn.model.attention import LayerNorm, SingleHeadAttention
from sharnn.model.boom import Boom
from sharnn.model.state import AttentionMemory, LayerState
from sharnn.ops import Ops
from sharnn.ops.matmul import in_autocast_dtype
from sharnn.ops.reference import reach_mask


class Block(nn.Module):
    """The interface of a block: its initial state, and the forward pass over a segment.

    `window` is the number of rows that a position reaches. It is an argument, since no weight depends on
    it: a longer memory than in training works without change. A memory keeps `window` rows, although the
    oldest of them is out of reach of every later position. With `window - 1` rows, the matrices of a
    window that is a multiple of 8 would not be aligned (`ops.attention`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim = config.embed_dim
        self.dropout = config.hidden_dropout
        self.reach = config.reach

    def initial_state(self, num_lanes: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return the state of lanes that have seen nothing."""
        raise NotImplementedError

    def forward(
        self, h_BTD: Tensor, state: LayerState, ops: Ops, window: int
    ) -> tuple[Tensor, LayerState]:
        """Return the block's output `[B, T, D]` and the state after the segment."""
        raise NotImplementedError

    def _drop(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.dropout(x, self.dropout) if self.training else x

    def _zeros(self, num_lanes: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        zeros = torch.zeros(num_lanes, self.dim, device=device, dtype=dtype)
        return LayerState(zeros, zeros)

    def _run_lstm(
        self, lstm: nn.LSTM, x_BTD: Tensor, state: LayerState, ops: Ops
    ) -> tuple[Tensor, Tensor, Tensor]:
        return ops.lstm(x_BTD, state.hidden, state.cell, lstm_weights(lstm))


def lstm_weights(lstm: nn.LSTM) -> list[Tensor]:
    """Return `weight_ih [4D, D]`, `weight_hh [4D, D]`, `bias_ih [4D]` and `bias_hh [4D]`."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [getattr(lstm, name) for name in names]


class ShaRnnBlock(Block):
    """LSTM → single-headed attention (in some blocks) → Boom (paper, figure 1).

    The paper's wiring has skips that carry a normalised value, and no skip around the LSTM:

        u = Drop(LSTM(LN_start h))
        u = LN_mid u + Drop(Attn(LN_mid u, memory ++ LN_mem u))
        h = LN_ff u + Drop(Boom(LN_xff u))

    The `residual` wiring has an identity path from the embedding to the softmax:

        h = h + Drop(LSTM(LN_start h))
        h = h + Drop(Attn(LN_mid h, memory ++ LN_mem h))
        h = h + Drop(Boom(LN_xff h))
    """

    def __init__(self, config: ModelConfig, attends: bool) -> None:
        super().__init__(config)
        self.residual = config.residual
        self.start_norm = LayerNorm(self.dim)
        self.lstm = nn.LSTM(self.dim, self.dim, batch_first=True)
        self.attention: SingleHeadAttention | None = None
        if attends:
            self.mid_norm = LayerNorm(self.dim)
            self.memory_norm = LayerNorm(self.dim)
            self.attention = SingleHeadAttention(
                self.dim,
                bool(config.overparam_value_gate),
                config.attention_dropout,
                # At the start a mean of rows carries no information, so the head adds nothing to an
                # identity path until its gate has learnt to open.
                value_gate=0.0 if config.residual else 0.5,
                reads_next=config.reads_next,
            )
        if not self.residual:
            self.skip_norm = LayerNorm(self.dim)
        self.boom_norm = LayerNorm(self.dim)
        self.boom = Boom(self.dim, config.boom_dim, config.hidden_dropout)

    def initial_state(self, num_lanes: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return zeros, and an empty memory if the block attends."""
        state = self._zeros(num_lanes, device, dtype)
        if self.attention is None:
            return state
        rows = torch.zeros(num_lanes, 0, self.dim, device=device, dtype=dtype)
        return LayerState(state.hidden, state.cell, AttentionMemory(rows, (0,) * num_lanes))

    def forward(
        self, h_BTD: Tensor, state: LayerState, ops: Ops, window: int
    ) -> tuple[Tensor, LayerState]:
        """Return the block's output and next state; see the class for the equations."""
        y_BTD, hidden, cell = self._run_lstm(self.lstm, self.start_norm(h_BTD), state, ops)
        u_BTD = self._drop(y_BTD, ops)
        if self.residual:
            u_BTD = h_BTD + u_BTD
        memory = state.memory
        if self.attention is not None:
            assert memory is not None
            u_BTD, memory = self._attend(u_BTD, memory, ops, window)
        skip_BTD = u_BTD if self.residual else self.skip_norm(u_BTD)
        out_BTD = skip_BTD + self._drop(self.boom(self.boom_norm(u_BTD), ops), ops)
        return out_BTD, LayerState(hidden, cell, memory)

    def _attend(
        self, u_BTD: Tensor, memory: AttentionMemory, ops: Ops, window: int
    ) -> tuple[Tensor, AttentionMemory]:
        assert self.attention is not None
        g_BTD = self.mid_norm(u_BTD)
        skip_BTD = u_BTD if self.residual else g_BTD
        if window == 0:
            return skip_BTD, memory.last(0)
        num_tokens = u_BTD.shape[1]
        # `segment`: the original truncates the memory to window - T rows before it attends. So the last
        # position of a segment reaches `window` rows and earlier positions reach fewer.
        segmented = self.reach == "segment"
        memory = memory.last(max(window - num_tokens, 0) if segmented else window)
        # Under autocast, rows are converted once, here, to the dtype that every later product reads.
        new_BTD = in_autocast_dtype(self.memory_norm(u_BTD))
        extended = memory.append(new_BTD)
        mixed = self.attention(g_BTD, extended.rows, new_BTD, window, memory.ragged, ops)
        return skip_BTD + self._drop(mixed, ops), extended.last(window)


class LstmBlock(Block):
    """A plain LSTM layer, with an identity skip if `residual`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.start_norm = LayerNorm(self.dim) if config.residual else None
        self.lstm = nn.LSTM(self.dim, self.dim, batch_first=True)

    def initial_state(self, num_lanes: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return zeros."""
        return self._zeros(num_lanes, device, dtype)

    def forward(
        self, h_BTD: Tensor, state: LayerState, ops: Ops, window: int
    ) -> tuple[Tensor, LayerState]:
        """Return `Drop(LSTM h)`, or `h + Drop(LSTM(LN h))`, and the next state."""
        x_BTD = h_BTD if self.start_norm is None else self.start_norm(h_BTD)
        y_BTD, hidden, cell = self._run_lstm(self.lstm, x_BTD, state, ops)
        out_BTD = self._drop(y_BTD, ops)
        if self.start_norm is not None:
            out_BTD = h_BTD + out_BTD
        return out_BTD, LayerState(hidden, cell)


class TransformerBlock(Block):
    """Pre-norm Transformer block with rotary positions and a sliding memory of keys and values.

    Keys are stored unrotated and rotated when they are used, by their position in the memory. So scores
    depend only on distances, and not on the position in a text or segment.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.attention_norm = LayerNorm(self.dim)
        self.query_key_value = nn.Linear(self.dim, 3 * self.dim)
        self.attention_out = nn.Linear(self.dim, self.dim)
        self.feed_forward_norm = LayerNorm(self.dim)
        self.feed_forward_in = nn.Linear(self.dim, config.boom_dim)
        self.feed_forward_out = nn.Linear(config.boom_dim, self.dim)

    def initial_state(self, num_lanes: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return an empty memory."""
        rows = torch.zeros(num_lanes, 0, 2 * self.dim, device=device, dtype=dtype)
        return LayerState(memory=AttentionMemory(rows, (0,) * num_lanes))

    def forward(
        self, h_BTD: Tensor, state: LayerState, ops: Ops, window: int
    ) -> tuple[Tensor, LayerState]:
        """Return the block's output and next state; the reach is sliding in every layer."""
        assert state.memory is not None
        memory = state.memory.last(window)
        query_BTD, new_keys_values = self.query_key_value(self.attention_norm(h_BTD)).split(
            [self.dim, 2 * self.dim], dim=-1
        )
        rows = torch.cat([memory.rows.to(new_keys_values.dtype), new_keys_values], dim=1)
        mixed_BTD = self._attend(query_BTD, rows, memory.ragged, window)
        h_BTD = h_BTD + self._drop(self.attention_out(mixed_BTD), ops)
        widened_BTF = F.gelu(self.feed_forward_in(self.feed_forward_norm(h_BTD)))
        h_BTD = h_BTD + self._drop(self.feed_forward_out(widened_BTF), ops)
        return h_BTD, LayerState(memory=memory.append(new_keys_values).last(window))

    def _attend(
        self, query_BTD: Tensor, rows: Tensor, lengths: tuple[int, ...] | None, window: int
    ) -> Tensor:
        num_tokens, num_rows = query_BTD.shape[1], rows.shape[1]
        position = torch.arange(num_rows, device=rows.device)
        key, value = (self._heads(x) for x in rows.chunk(2, dim=-1))
        query = rotate(self._heads(query_BTD), position[num_rows - num_tokens :])
        mask = reach_mask(num_tokens, num_rows - num_tokens, window, lengths, rows.device)
        mixed_BHTd = F.scaled_dot_product_attention(
            query,
            rotate(key, position),
            value,
            attn_mask=mask[:, None],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return mixed_BHTd.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """Return `[B, H, rows, D / H]` for `[B, rows, D]`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotate pairs of features by angles proportional to their position (RoPE, arXiv 2104.09864).

    Args:
        x: `[…, rows, d]` with even d; feature j is paired with j + d / 2.
        position: `[rows]`; attention scores depend only on differences of positions.

    Returns:
        The rotated tensor, in the shape and dtype of `x`.
    """
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = position[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
