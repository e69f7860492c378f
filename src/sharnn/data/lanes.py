"""Lanes: a text is read in B places in parallel, and each place has its own recurrent state.

Legend: N tokens of the text · B lanes · n = (N - 1) // B tokens of a lane · T tokens of a segment.

    text   ├──────── lane 0 ────────┼──────── lane 1 ────────┼──────── lane 2 ────────┤
            segment 0 │ segment 1 │ …

Lane b reads tokens `b·n … (b + 1)·n - 1` and predicts the token after each, so every target belongs to
exactly one lane. At most B tokens at the end of the text are unused.

With blocks, the lanes read stretches of the text in a random order, which is redrawn in each epoch:

    text   ├─ 0 ─┼─ 1 ─┼─ 2 ─┼─ 3 ─┼─ 4 ─┼─ 5 ─┤      lane 0 reads 4, 1; lane 1 reads 0, 5; …

Segments never cross the end of a block. States are carried across it, as across the end of a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.data.corpus import Tokens
from sharnn.errors import DataError

#: Random segment lengths of the original: standard deviation, minimum, and how often T is not halved.
_LENGTH_STD = 5
_MIN_LENGTH = 5
_FULL_LENGTH_SHARE = 0.95


@dataclass(frozen=True)
class Segment:
    """The tokens of one training step.

    Attributes:
        inputs: `[B, T]`.
        targets: `[B, T]`, the token after each input.
        first: Whether the lanes start from their beginning here: the state must be an initial one.
        epoch: Passes over the lanes after this segment, as a fraction.
    """

    inputs: Tokens
    targets: Tokens
    first: bool
    epoch: float


def lane_length(num_tokens: int, num_lanes: int) -> int:
    """Return the number of tokens of each lane.

    Raises:
        DataError: There are too few tokens for one token and its successor in each lane.
    """
    length = (num_tokens - 1) // num_lanes
    if length < 1:
        fewer = f", or data.num_lanes of at most {num_tokens - 1}" if num_tokens > 1 else ""
        raise DataError(
            f"the text has {num_tokens} tokens to train on, too few for {num_lanes} lanes of at least "
            f"one token and its successor: use a longer text{fewer}"
        )
    return length


class LaneStream:
    """An endless sequence of segments that can be resumed at the exact token.

    Args:
        tokens: The text, usually a memory map; segments are copied out of it one at a time.
        num_lanes: B.
        segment_length: T; the upper limit if lengths are random.
        random_segments: Draw lengths as the original does: base T with probability 0.95, else T / 2;
            then `min(T, max(5, int(N(base, 5))))`.
        seed: Seed of the lengths and of the order of blocks.
        block_length: Tokens of a block; 0 reads each lane's part of the text from beginning to end.

    Raises:
        DataError: The text is too short for a segment of one token in each lane.
    """

    def __init__(
        self,
        tokens: Tokens,
        num_lanes: int,
        segment_length: int,
        random_segments: bool = False,
        seed: int = 0,
        block_length: int = 0,
    ) -> None:
        whole = lane_length(len(tokens), num_lanes)
        self.block_length = min(block_length, whole) or whole
        self._num_blocks = (len(tokens) - 1) // self.block_length
        self.lane_length = self._num_blocks // num_lanes * self.block_length
        self.tokens = tokens
        self.num_lanes = num_lanes
        self.segment_length = segment_length
        self.random_segments = random_segments
        self._shuffled = block_length > 0
        self._seed = seed
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._cursor = 0
        self._epoch = 0
        self._order = self._draw_order()

    def next_segment(self) -> Segment:
        """Return the next segment; after the end of the lanes they start again from their beginning."""
        if self._cursor >= self.lane_length:
            self._cursor = 0
            self._epoch += 1
            self._order = self._draw_order()
        start = self._cursor
        block, place = divmod(start, self.block_length)
        length = min(self._draw_length(), self.block_length - place)
        stop = self._cursor = start + length
        firsts = self._order[:, block] * self.block_length + place
        window = np.stack([self.tokens[first : first + length + 1] for first in firsts])
        epoch = self._epoch + stop / self.lane_length
        return Segment(window[:, :-1], window[:, 1:], first=start == 0, epoch=epoch)

    def _draw_order(self) -> npt.NDArray[np.int64]:
        """Return which blocks each lane reads in this epoch, `[B, blocks of a lane]`."""
        blocks = np.arange(self._num_blocks)
        if self._shuffled:
            blocks = np.random.Generator(np.random.PCG64([self._seed, self._epoch])).permutation(
                blocks
            )
        per_lane = self._num_blocks // self.num_lanes
        return blocks[: per_lane * self.num_lanes].reshape(self.num_lanes, per_lane)

    def _draw_length(self) -> int:
        longest = self.segment_length
        if not self.random_segments:
            return longest
        base = longest if self._rng.random() < _FULL_LENGTH_SHARE else longest / 2
        return min(longest, max(_MIN_LENGTH, int(self._rng.normal(base, _LENGTH_STD))))

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the random state, as JSON values."""
        return {
            "cursor": self._cursor,
            "epoch": self._epoch,
            "lane_length": self.lane_length,
            "seed": self._seed,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of `state_dict`.

        Raises:
            DataError: The lanes had another length: the text or the number of lanes was different.
        """
        if state["lane_length"] != self.lane_length:
            raise DataError(
                f"the position to resume from is in lanes of {state['lane_length']} tokens, these have "
                f"{self.lane_length}: the text or data.num_lanes is not the same, give those of the run"
            )
        self._cursor = int(state["cursor"])
        self._epoch = int(state["epoch"])
        self._seed = int(state["seed"])
        self._rng.bit_generator.state = state["rng"]
        self._order = self._draw_order()
