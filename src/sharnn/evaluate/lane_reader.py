"""Reading a text in one lane, from its first token to its last; shared by all scores in one lane.

Legend: T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sharnn.data.corpus import Split, Tokens
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate.continuous_cache import ContinuousCache
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import Tokenizer

#: Called with the number of tokens done and the total number.
Report = Callable[[int, int], None]


@contextmanager
def evaluating(model: LanguageModel, window: int | None) -> Iterator[None]:
    """Set evaluation mode and, if given, another window; restore both at the end.

    Raises:
        ConfigError: The window is out of range.
    """
    training, previous = model.training, model.window
    if window is not None:
        model.set_window(window)
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        model.window = previous


@contextmanager
def reading(model: LanguageModel, window: int | None) -> Iterator[None]:
    """Read with fixed weights: `evaluating` without gradients.

    Raises:
        ConfigError: The window is out of range.
    """
    with evaluating(model, window), torch.inference_mode():
        yield


def check_readable(split: Split, segment_length: int) -> None:
    """Check that there are tokens to read.

    Raises:
        ConfigError: The segment length is below 1.
        DataError: The text has no tokens.
    """
    if segment_length < 1:
        raise ConfigError(f"segment_length is {segment_length}: it must be at least 1")
    if split.num_tokens == 0:
        raise DataError("there is no token to score: the split is empty, give a longer text")


def memory_settings(model: LanguageModel) -> dict[str, dict[str, Any]]:
    """Return the present reach of a model's memory for `Score.settings`; empty where it has no memory."""
    reach: dict[str, Any] = {}
    if model.has_memory:
        reach["window"] = model.window
    if model.recall is not None:
        reach["recall_slots"] = model.config.recall_slots
    return {"memory": reach} if reach else {}


def segments(
    tokens: Tokens, start_token: int, segment_length: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the inputs and targets of each segment in order, `[1, T]` each.

    Args:
        tokens: The text; every token is a target once.
        start_token: The input from which the first token is predicted.
        segment_length: T; the last segment may be shorter.
        device: Device of the tensors.
    """
    previous = start_token
    for start in range(0, len(tokens), segment_length):
        targets = np.asarray(tokens[start : start + segment_length]).astype(np.int64)
        inputs = np.concatenate([[previous], targets[:-1]])
        pair = torch.from_numpy(np.stack([inputs, targets])).to(device)
        yield pair[:1], pair[1:]
        previous = int(targets[-1])


class ReadsSegments(Protocol):
    """A replacement for `LanguageModel.hidden`, such as `generation.SegmentReader`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to report with a score."""
        ...

    def __call__(self, tokens_BT: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return the softmax's inputs, `[B, T, D]`, and the next state."""
        ...


class Reader:
    """Reads a text in one lane, segment by segment, and carries the state of model and cache.

    Args:
        model: In evaluation mode.
        cache: Mixed into the model's distribution; None for no cache.
        hidden: Reads a segment; None uses the model's forward pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: ContinuousCache | None = None,
        hidden: ReadsSegments | None = None,
    ) -> None:
        self.model, self.cache = model, cache
        self._hidden = hidden or model.hidden
        self._state = model.initial_state(1)
        self._cached = None if cache is None else cache.initial_state(model, 1)

    def read(self, inputs_1T: Tensor, targets_1T: Tensor) -> tuple[Tensor, Tensor]:
        """Read the next segment.

        Returns:
            Nats of each target, `[1, T]`, twice: the model's own, with gradients where these are
            enabled, and those to be scored, which include the cache if there is one.
        """
        hidden_1TD, state = self._hidden(inputs_1T, self._state)
        own_nats_1T = self.model.softmax.nats(hidden_1TD, self.model.embedding.weight, targets_1T)
        self._state = state.detach()
        nats_1T = own_nats_1T.detach()
        if self.cache is not None and self._cached is not None:
            nats_1T, self._cached = self.cache.mix(
                nats_1T, hidden_1TD.detach(), targets_1T, self._cached
            )
        return own_nats_1T, nats_1T


def score_all(
    score: Callable[[Tensor, Tensor], Tensor],
    tokenizer: Tokenizer,
    split: Split,
    segment_length: int,
    device: torch.device,
    report: Report | None,
) -> dict[str, Any]:
    """Score every token of a split exactly once, in order.

    Args:
        score: Takes inputs and targets of the next segment and returns the targets' nats, `[1, T]`.
        tokenizer: The first token is predicted from its start token.
        split: The text.
        segment_length: Tokens per call.
        device: Device of the tokens.
        report: Progress.

    Returns:
        Nats and counts, as arguments of `Score`.
    """
    nats, done = 0.0, 0
    for inputs_1T, targets_1T in segments(
        split.tokens, tokenizer.start_token, segment_length, device
    ):
        nats += float(score(inputs_1T, targets_1T).double().sum())
        done += targets_1T.shape[1]
        if report is not None:
            report(done, split.num_tokens)
    return {"nats": nats, **whole(split)}


def whole(split: Split) -> dict[str, int]:
    """Return the counts of a score of every token, as arguments of `Score`."""
    return {
        "num_tokens": split.num_tokens,
        "num_bytes": split.num_bytes,
        "num_chars": split.num_chars,
        "num_words": split.num_words,
    }
