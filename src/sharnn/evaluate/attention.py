"""Recording the attention weights of the heads while the model reads a text.

Legend: B lanes, always one · T tokens of a segment · M memory rows · K = M + T · D embed_dim ·
R distances · N tokens of the text · S tokens shown · J rows kept for each of them.

Position t has read the tokens before token t and predicts token t. It writes its row at that time, so
the token that *follows* a row is the one that its position had to predict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.errors import ConfigError, DataError
from sharnn.evaluate.attention_sums import AttentionSums, by_distance
from sharnn.evaluate.lane_reader import Report, Tokens, evaluating, segments
from sharnn.evaluate.score import LN2
from sharnn.evaluate.static import SEGMENT_LENGTH
from sharnn.model import LanguageModel
from sharnn.model.block import ShaRnnBlock
from sharnn.ops import reference
from sharnn.text import Tokenizer

#: Pairs of position and row kept for all heads together; most and fewest rows kept per position.
_MOST_PAIRS, _MOST_ROWS, _FEWEST_ROWS = 160_000, 32, 5
#: Distances, weights and entropies of a segment's positions, as in `StrongestRows`.
_Rows = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class StrongestRows:
    """The rows with the largest weights, for each of the first positions.

    Attributes:
        distance_SJ: Their distance in rows, largest weight first.
        weight_SJ: Their weights; 0 where there is no such row.
        entropy_bits_S: Entropy of all the weights of a position.
    """

    distance_SJ: npt.NDArray[np.int64]
    weight_SJ: npt.NDArray[np.float32]
    entropy_bits_S: npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadReading:
    """The attention weights of one block's head.

    Attributes:
        layer: The block, counted from 0.
        sums: Sums over its weights.
        even: The same sums for a uniform head, which gives every row in reach the same weight.
        rows: Its strongest rows at the positions shown.
    """

    layer: int
    sums: AttentionSums
    even: AttentionSums
    rows: StrongestRows


@dataclass(frozen=True)
class AttentionReading:
    """The attention weights of a model's heads while it read a text.

    Attributes:
        heads: One for each requested block.
        window: Rows in reach of a position, including its own.
        num_tokens: Tokens N of the text.
        nats: Sum of `-log p` over them.
        before: The last tokens of the context, as many as a position can reach.
        tokens: The tokens shown, which are the first of the text, `[S]`.
        nats_S: `-log p` of each token shown.
    """

    heads: list[HeadReading]
    window: int
    num_tokens: int
    nats: float
    before: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    nats_S: npt.NDArray[np.float32]

    @property
    def bits_per_token(self) -> float:
        """Bits per token of the text."""
        return self.nats / LN2 / self.num_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the text and of every head as JSON values."""
        return {
            "window": self.window,
            "num_tokens": self.num_tokens,
            "nats": self.nats,
            "bits_per_token": self.bits_per_token,
            "heads": [
                {"layer": h.layer, **h.sums.to_dict(), "even": h.even.to_dict()} for h in self.heads
            ],
        }


def read_attention(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tokens: Tokens,
    *,
    context: Tokens | None = None,
    layer: int | None = None,
    window: int | None = None,
    num_shown: int = 1,
    segment_length: int = SEGMENT_LENGTH,
    report: Report | None = None,
) -> AttentionReading:
    """Read a text in one lane, as the strict protocol does, and record the attention weights.

    Memory use depends on the window, the segment and the tokens shown, not on the length of the text.

    Args:
        model: A SHA-RNN with a head; its window is restored afterwards.
        tokenizer: The model's tokenizer.
        tokens: The text, `[N]`.
        context: Tokens read before the text and not counted.
        layer: The block to record, from 0; None records all blocks that attend.
        window: Memory rows in reach; None keeps the model's.
        num_shown: Number of tokens, from the first, whose strongest rows are kept; at least 1.
        segment_length: Tokens read at once; with a `sliding` reach it changes no result.
        report: Progress, in tokens of context and text.

    Raises:
        ConfigError: The model has no head, or none in that block, or no row in reach.
        DataError: The text has fewer than two tokens.
    """
    layers = heads_to_read(model, layer, window)
    if len(tokens) < 2:
        raise DataError(
            f"the text has {len(tokens)} token{'s' * (len(tokens) != 1)}: give at least two, for the "
            "first one has no earlier row to attend to"
        )
    context = tokens[:0] if context is None else context
    num_all, num_shown = len(context) + len(tokens), min(num_shown, len(tokens))
    with evaluating(model, window), torch.inference_mode():
        num_rows = model.window
        num_distances = min(num_rows, num_all)
        most_kept = min(max(_MOST_PAIRS // (num_shown * len(layers)), _FEWEST_ROWS), _MOST_ROWS)
        heads = [_Head(index, len(tokens), num_distances, num_shown, most_kept) for index in layers]
        reader = _Reader(model, num_distances, num_shown, heads)
        for part, start, counted in (
            (context, tokenizer.start_token, False),
            (tokens, int(context[-1]) if len(context) else tokenizer.start_token, True),
        ):
            for segment in segments(part, start, segment_length, model.device):
                reader.read(*segment, counted)
                if report is not None:
                    report(reader.num_read, num_all)
    return AttentionReading(
        heads=[head.result() for head in heads],
        window=num_rows,
        num_tokens=len(tokens),
        nats=reader.nats,
        before=np.asarray(context[max(len(context) - num_rows + 1, 0) :]).astype(np.int64),
        tokens=np.asarray(tokens[:num_shown]).astype(np.int64),
        nats_S=torch.cat(reader.nats_shown)[:num_shown].numpy(),
    )


def heads_to_read(model: LanguageModel, layer: int | None, window: int | None) -> list[int]:
    """Return the blocks whose heads `read_attention` would record.

    Raises:
        ConfigError: The model has no head, or none in that block, or no row in reach.
    """
    config, blocks = model.config, model.typed_blocks
    attending = [
        index
        for index, block in enumerate(blocks)
        if isinstance(block, ShaRnnBlock) and block.attention is not None
    ]
    if not attending:
        what = {
            "sha-rnn": "a sha-rnn that attends in no block",
            "lstm": "an lstm, which does not attend",
            "transformer": f"a transformer with {config.num_heads} heads in every block",
        }[config.architecture]
        raise ConfigError(
            f"this model is {what}: attention can be shown only for a sha-rnn with "
            "model.attention_layers 'one' or 'all'"
        )
    if layer is not None and layer not in attending:
        raise ConfigError(
            f"layer is {layer}: of blocks 0 … {len(blocks) - 1}, those that attend are "
            f"{', '.join(map(str, attending))}"
        )
    if (model.window if window is None else window) == 0:
        raise ConfigError(
            "the window is 0 rows, so the head has nothing to attend to: give a window of at least 1 row"
        )
    return attending if layer is None else [layer]


class _Head:
    """Replaces the attention operation of one block and records its weights.

    Args:
        layer: The block.
        num_positions: Tokens N of the text.
        num_distances: R.
        num_shown: S.
        num_kept: J.
    """

    def __init__(
        self, layer: int, num_positions: int, num_distances: int, num_shown: int, num_kept: int
    ) -> None:
        self.layer = layer
        self._num_distances, self._num_shown, self._num_kept = num_distances, num_shown, num_kept
        self._sums = AttentionSums(num_positions, num_distances)
        self._even = AttentionSums(num_positions, num_distances)
        self._rows: list[_Rows] = []

    def attend(
        self,
        query_BTD: Tensor,
        rows_BKD: Tensor,
        current_BTD: Tensor,
        key_gate_D: Tensor,
        value_gate_D: Tensor,
        window: int,
        lengths: Sequence[int] | None,
        dropout: float,
        reads_next: bool,
    ) -> Tensor:
        """Compute `reference.attention` for one lane, without dropout, and keep the weights."""
        assert lengths is None
        assert dropout == 0
        num_tokens, num_memory = current_BTD.shape[1], rows_BKD.shape[1] - current_BTD.shape[1]
        weights_BTK = reference.attention_weights(
            query_BTD, key_gate_D * rows_BKD, window, reads_next=reads_next
        )
        self._weights_TK = weights_BTK[0]
        self._reach_TK = reference.reach_mask(num_tokens, num_memory, window, own=not reads_next)[0]
        values_BKD = reference.next_rows(rows_BKD) if reads_next else rows_BKD
        return weights_BTK @ (value_gate_D * values_BKD)

    def take_down(self, first: int, targets: Tensor) -> None:
        """Add the weights of the last segment.

        Args:
            first: Tokens of the text before the segment.
            targets: The tokens that follow the rows in memory, those of the segment last.
        """
        num_tokens, num_rows = self._weights_TK.shape
        follows_TK = targets[-num_rows:] == targets[-num_tokens:, None]
        follows_TR = by_distance(follows_TK, self._num_distances)
        weights_TR = by_distance(self._weights_TK, self._num_distances)
        reach_TR = by_distance(self._reach_TK.to(weights_TR), self._num_distances)
        even_TR = reach_TR / reach_TR.sum(-1, keepdim=True).clamp(min=1)
        self._even.add(first, even_TR, follows_TR)
        entropy_bits_T = self._sums.add(first, weights_TR, follows_TR)
        shown = slice(max(self._num_shown - first, 0))
        self._rows.append(self._strongest(weights_TR[shown], entropy_bits_T[shown]))

    def _strongest(self, weights_SR: Tensor, entropy_bits_S: Tensor) -> _Rows:
        top = weights_SR.topk(min(self._num_kept, weights_SR.shape[1]))
        fill = (0, self._num_kept - top.values.shape[1])
        return F.pad(top.indices, fill).cpu(), F.pad(top.values, fill).cpu(), entropy_bits_S.cpu()

    def result(self) -> HeadReading:
        """Return what was recorded."""
        distance_SJ, weight_SJ, entropy_bits_S = map(torch.cat, zip(*self._rows, strict=True))
        rows = StrongestRows(distance_SJ.numpy(), weight_SJ.numpy(), entropy_bits_S.numpy())
        return HeadReading(self.layer, self._sums, self._even, rows)


class _Reader:
    """Reads segments with carried state and lets the heads record their weights.

    Attributes:
        num_read: Tokens read.
        nats: Sum of `-log p` over the counted tokens.
        nats_shown: `-log p` of at least the tokens shown, by segment.
    """

    def __init__(
        self, model: LanguageModel, num_distances: int, num_shown: int, heads: list[_Head]
    ) -> None:
        self.num_read, self.nats = 0, 0.0
        self.nats_shown: list[Tensor] = []
        self._num_counted, self._num_shown = 0, num_shown
        self._model, self._num_distances, self._heads = model, num_distances, heads
        self._ops = [model.ops] * len(model.blocks)
        for head in heads:
            self._ops[head.layer] = dataclasses.replace(model.ops, attention=head.attend)
        self._state = model.initial_state(1)
        self._targets = torch.zeros(0, dtype=torch.long, device=model.device)

    def read(self, inputs_1T: Tensor, targets_1T: Tensor, counted: bool) -> None:
        """Read the next segment: of the text if it is counted, else of the context."""
        model, num_tokens = self._model, targets_1T.shape[1]
        out_1TD, self._state = model.hidden(inputs_1T, self._state, self._ops)
        self._targets = torch.cat([self._targets, targets_1T[0]])[
            -self._num_distances - num_tokens :
        ]
        self.num_read += num_tokens
        if not counted:
            return
        nats_T = model.softmax.nats(out_1TD, model.embedding.weight, targets_1T)[0]
        self.nats += float(nats_T.double().sum())
        for head in self._heads:
            head.take_down(self._num_counted, self._targets)
        if self._num_counted < self._num_shown:
            self.nats_shown.append(nats_T.cpu())
        self._num_counted += num_tokens
