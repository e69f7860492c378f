"""Scoring a text with fixed weights.

Legend: B lanes · T tokens of a segment.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch

from sharnn.data.corpus import Split
from sharnn.data.counting import TextCounter
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate.continuous_cache import ContinuousCache
from sharnn.evaluate.lane_reader import (
    Reader,
    ReadsSegments,
    Report,
    Tokens,
    check_readable,
    memory_settings,
    reading,
    score_all,
)
from sharnn.evaluate.score import Score
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer

Protocol = Literal["strict", "paper"]

#: Default number of tokens read at once; with a `sliding` reach it changes no score.
SEGMENT_LENGTH = 512
#: Evaluation lanes of the original code, by split.
PAPER_LANES = {"valid": 16, "test": 8}


def evaluate_static(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: Split,
    *,
    protocol: Protocol = "strict",
    num_lanes: int = PAPER_LANES["test"],
    segment_length: int = SEGMENT_LENGTH,
    window: int | None = None,
    cache: ContinuousCache | None = None,
    hidden: ReadsSegments | None = None,
    report: Report | None = None,
) -> Score:
    """Score a split of a corpus.

    `strict` reads the text in one lane, from an empty state and the tokenizer's start token, and
    scores every token exactly once. `paper` reproduces the original code: the text is split into lanes
    that each start from an empty state; the tail that does not fill them and each lane's first token are
    not scored; and a lane's sum over n - 1 predictions is divided by n.

    Args:
        model: In evaluation mode; its window is restored afterwards.
        tokenizer: The model's tokenizer.
        split: The text.
        protocol: How it is read.
        num_lanes: Lanes of `paper`; `strict` has one.
        segment_length: Tokens read at once.
        window: Memory rows in reach; None keeps the model's.
        cache: Mixed into the model's distribution, with `strict` only; None for no cache.
        hidden: Reads a segment, with `strict` only, for example in lower precision; None uses the
            model's forward pass.
        report: Progress.

    Raises:
        DataError: There is nothing to score.
        ConfigError: The window, segment length or number of lanes is out of range, or `cache` or `hidden`
            is given with `paper`.
    """
    check_readable(split, segment_length)
    if num_lanes < 1:
        raise ConfigError(f"num_lanes is {num_lanes}: it must be at least 1")
    if cache is not None and protocol != "strict":
        raise ConfigError(
            f"cache does not go with protocol '{protocol}', which scores without one as in 2019: leave "
            "the cache out, or use protocol 'strict'"
        )
    if hidden is not None and protocol != "strict":
        raise ConfigError(
            f"hidden does not go with protocol '{protocol}', which uses the weights as they are: leave "
            "hidden out, or use protocol 'strict'"
        )
    started = time.perf_counter()
    with reading(model, window):
        settings = memory_settings(model)
        if hidden is not None:
            settings["products"] = hidden.settings
        if protocol == "strict":
            reader = Reader(model, cache, hidden)
            scored = score_all(
                lambda inputs_1T, targets_1T: reader.read(inputs_1T, targets_1T)[1],
                tokenizer, split, segment_length, model.device, report,
            )  # fmt: skip
        else:
            scored = _score_paper(model, tokenizer, split, num_lanes, segment_length, report)
    if protocol == "paper":
        settings["paper"] = {"lanes": num_lanes, "segment_length": segment_length}
    if cache is not None:
        settings["cache"] = cache.to_dict()
    return Score(protocol, **scored, seconds=time.perf_counter() - started, settings=settings)


def score_lanes(
    model: LanguageModel,
    tokens: Tokens,
    num_lanes: int,
    segment_lengths: Iterable[int],
    report: Report | None = None,
) -> tuple[float, int]:
    """Return the nats of a text read in lanes, and the number of tokens scored.

    All lanes are read together, in segments of the given lengths, until their end or until there are no
    more lengths.

    Every lane starts from an empty state, and its first token is not scored. This is faster than one
    lane where a machine is efficient on batches, at a slightly worse score. It is used for validation
    during training.

    Raises:
        DataError: A lane would have fewer than two tokens.
    """
    rows = len(tokens) // num_lanes
    if rows < 2:
        raise DataError(
            f"the text has {len(tokens)} tokens, too few to score in {num_lanes} lanes: give a longer "
            "text, fewer lanes, or the strict protocol"
        )
    nats, device = 0.0, model.device
    state = model.initial_state(num_lanes)
    lanes_Bn = np.asarray(tokens[: rows * num_lanes]).reshape(num_lanes, rows)
    start = 0
    for length in segment_lengths:
        if start == rows - 1:
            break
        stop = min(start + length, rows - 1)
        part = torch.from_numpy(lanes_Bn[:, start : stop + 1].astype(np.int64)).to(device)
        nats_BT, state = model.nats(part[:, :-1], part[:, 1:], state, consume=True)
        nats += float(nats_BT.double().sum())
        if report is not None:
            report(stop * num_lanes, (rows - 1) * num_lanes)
        start = stop
    return nats, start * num_lanes


def _score_paper(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: Split,
    num_lanes: int,
    segment_length: int,
    report: Report | None,
) -> dict[str, Any]:
    lengths = itertools.repeat(segment_length)
    nats, num_scored = score_lanes(model, split.tokens, num_lanes, lengths, report)
    rows = split.num_tokens // num_lanes
    counter = TextCounter()
    for lane in range(num_lanes):
        counter.add(tokenizer.decode(split.tokens[lane * rows + 1 : (lane + 1) * rows]))
    return {
        "nats": nats * (rows - 1) / rows,
        "num_tokens": num_scored,
        "num_bytes": counter.num_bytes,
        "num_chars": counter.num_chars,
        "num_words": counter.num_words,
        "unscored_tokens": split.num_tokens - num_scored,
        "unscored_bytes": split.num_bytes - counter.num_bytes,
    }
