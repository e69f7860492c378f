"""Reading a text and taking down where the heads look.

Legend: B lanes, of which there is one · T tokens of a segment · M memory rows · K = M + T · D embed_dim ·
R distances · N tokens of the text · S tokens shown · J rows that are kept of each.

Position t has read the tokens before token t and is to predict token t. Its row is written then, so
what stands *behind* a row is the token that its position was to predict.
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

#: Pairs of a position and a row that are kept of all heads together, and of one position.
_MOST_PAIRS, _MOST_ROWS, _FEWEST_ROWS = 160_000, 32, 5
#: Distances, weights and entropies of a segment's positions, as `StrongestRows` has them.
_Rows = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class StrongestRows:
    """The rows that each of the first positions looks at most.

    Attributes:
        distance_SJ: How many rows back they lie, strongest first.
        weight_SJ: Their weights; 0 for a row that is not there.
        entropy_bits_S: Entropy of all the weights of a position.
    """

    distance_SJ: npt.NDArray[np.int64]
    weight_SJ: npt.NDArray[np.float32]
    entropy_bits_S: npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadReading:
    """Where the head of one block looked.

    Attributes:
        layer: The block, counted from 0.
        sums: What its weights come to.
        even: The same for a head that gives every row in reach the same weight.
        rows: What it looks at most, at the positions shown.
    """

    layer: int
    sums: AttentionSums
    even: AttentionSums
    rows: StrongestRows


@dataclass(frozen=True)
class AttentionReading:
    """Where the heads of a model looked while it read a text.

    Attributes:
        heads: One for each block asked for.
        window: Rows in reach of a position, its own included.
        num_tokens: Tokens N of the text.
        nats: Sum of `-log p` over them.
        before: The last tokens of the context, as many as a position may reach.
        tokens: The first tokens of the text, those shown, `[S]`.
        nats_S: `-log p` of each of these.
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
        """Return the numbers of the text and of every head as JSON values."""
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
    """Read a text in one lane, as the strict protocol does, and take down where the heads look.

    Memory is bounded by the window, the segment and the tokens shown, however long the text is.

    Args:
        model: A SHA-RNN with a head; its window is put back afterwards.
        tokenizer: The model's.
        tokens: The text, `[N]`.
        context: What is read before it, and not counted.
        layer: The block to look at, from 0; None takes all that attend.
        window: Memory rows in reach; None keeps the model's.
        num_shown: Of how many tokens, from the first, the strongest rows are kept; 1 at least.
        segment_length: Tokens read at once; it alters nothing with a `sliding` reach.
        report: Progress, in tokens of context and text.

    Raises:
        ConfigError: The model has no head, or none in that block, or no row in reach.
        DataError: The text has fewer than two tokens.
    """
    layers = heads_to_read(model, layer, window)
    if len(tokens) < 2:
        raise DataError(
            f"the text has {len(tokens)} token{'s' * (len(tokens) != 1)}: it takes two, for the first "
            "has nothing to look back at"
        )
    context = tokens[:0] if context is None else context
    num_all, num_shown = len(context) + len(tokens), min(num_shown, len(tokens))
    with evaluating(model, window), torch.inference_mode():
        num_rows = model.typed_blocks[layers[0]].window
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
    """Return the blocks whose heads `read_attention` would look at.

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
            f"this model is {what}: where a single head looks can be shown of a sha-rnn with "
            "model.attention_layers 'one' or 'all'"
        )
    if layer is not None and layer not in attending:
        raise ConfigError(
            f"--layer is {layer}: of blocks 0 … {len(blocks) - 1}, those that attend are "
            f"{', '.join(map(str, attending))}"
        )
    if (blocks[attending[0]].window if window is None else window) == 0:
        raise ConfigError(
            "the window is 0 rows, so the head looks at nothing: give the rows it may reach with --window"
        )
    return attending if layer is None else [layer]


class _Head:
    """Stands in for the attention of one block, and takes down where it looks.

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
        """Compute as `reference.attention` does, of a lane that is only read, and keep the weights."""
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
        """Add the segment that was attended last.

        Args:
            first: Tokens of the text before it.
            targets: The tokens behind the rows that are remembered, those of the segment last.
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
        """Return what was taken down."""
        distance_SJ, weight_SJ, entropy_bits_S = map(torch.cat, zip(*self._rows, strict=True))
        rows = StrongestRows(distance_SJ.numpy(), weight_SJ.numpy(), entropy_bits_S.numpy())
        return HeadReading(self.layer, self._sums, self._even, rows)


class _Reader:
    """Reads segments with a state that is carried, and lets heads take down where they look.

    Attributes:
        num_read: Tokens read.
        nats: Sum of `-log p` over the tokens that counted.
        nats_shown: `-log p` of at least the tokens shown, in parts.
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
        """Read the next segment, one of the text if it counts, else of the context."""
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
