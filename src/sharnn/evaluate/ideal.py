"""The ideal sliding window: every token is predicted from an empty state and exactly the last C tokens.

Legend: B windows · C tokens of context · S tokens scored in a window.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sharnn.data.corpus import Split
from sharnn.errors import ConfigError
from sharnn.evaluate.lane_reader import (
    Report,
    check_readable,
    memory_settings,
    reading,
    segments,
    whole,
)
from sharnn.evaluate.score import Score
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import Tokenizer

#: Tokens of the windows that are read in one batch.
_TOKENS_TOGETHER = 1 << 13


def evaluate_ideal(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: Split,
    *,
    context: int,
    stride: int = 1,
    window: int | None = None,
    report: Report | None = None,
) -> Score:
    """Score a split, every token from an empty state and exactly the last `context` tokens before it.

    Near the beginning all earlier tokens are used, of which the start token is the first. With a
    larger stride the last S tokens of each window are scored, and have between C - S + 1 and C tokens
    before them. S = C scores the text in blocks that each start from an empty state. C tokens are read
    for every S tokens scored.

    Args:
        model: In evaluation mode; its window is restored afterwards.
        tokenizer: The model's tokenizer.
        split: The text.
        context: C.
        stride: S; 1 is exact.
        window: Memory rows in reach within a window's C tokens; None keeps the model's.
        report: Progress.

    Raises:
        DataError: There is nothing to score.
        ConfigError: The context, stride or window is out of range.
    """
    if context < 1:
        raise ConfigError(f"context is {context}: it must be at least 1 token")
    if not 1 <= stride <= context:
        raise ConfigError(
            f"stride is {stride}: it must be from 1 to context {context}, or tokens between two "
            "windows would not be scored"
        )
    check_readable(split, context)
    started, nats, done = time.perf_counter(), 0.0, 0
    with reading(model, window):
        memory = memory_settings(model)
        for inputs_BC, targets_BS in _windows(model, tokenizer, split, context, stride):
            empty = model.initial_state(inputs_BC.shape[0])
            nats += float(_nats_of_last(model, inputs_BC, targets_BS, empty).double().sum())
            done += targets_BS.numel()
            if report is not None:
                report(done, split.num_tokens)
    assert done == split.num_tokens
    return Score(
        "ideal", nats, **whole(split), seconds=time.perf_counter() - started,
        settings={"ideal": {"context": context, "stride": stride}, **memory},
    )  # fmt: skip


def _windows(
    model: LanguageModel, tokenizer: Tokenizer, split: Split, context: int, stride: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the inputs of windows `[B, C]` and their last targets `[B, S]`; every token is a target once.

    The first window scores all its tokens, since no text precedes it. Each later window ends `stride`
    tokens after the one before; the last ends with the text.
    """
    tokens, num_tokens = split.tokens, split.num_tokens
    yield next(segments(tokens, tokenizer.start_token, context, model.device))
    together = max(_TOKENS_TOGETHER // context, 1)
    ends = np.arange(context + stride, num_tokens + 1, stride)
    left = (num_tokens - context) % stride if num_tokens > context else 0
    batches = [(ends[i : i + together], stride) for i in range(0, len(ends), together)]
    if left:
        batches.append((np.array([num_tokens]), left))
    for end_B, scored in batches:
        # The last input token precedes the last target; these windows do not contain the start token.
        first, last = end_B[0] - context - 1, end_B[-1]
        part = np.asarray(tokens[first:last]).astype(np.int64)
        each = np.lib.stride_tricks.sliding_window_view(part, context + 1)[end_B - end_B[0]]
        window_BK = torch.from_numpy(np.ascontiguousarray(each)).to(model.device)
        yield window_BK[:, :-1], window_BK[:, -scored:]


def _nats_of_last(
    model: LanguageModel, inputs_BC: Tensor, targets_BS: Tensor, state: RecurrentState
) -> Tensor:
    """Return the nats of the last S targets, `[B, S]`; the softmax is computed for these only."""
    hidden_BCD, _ = model.hidden(inputs_BC, state)
    last_BSD = hidden_BCD[:, -targets_BS.shape[1] :]
    return model.softmax.nats(last_BSD, model.embedding.weight, targets_BS)
