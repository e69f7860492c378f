"""Random segmentations of a text (subword regularisation): merges or longer tokens are left out.

If nothing is dropped, they are the segmentations of the tokenizer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.text import SpelledWordTokenizer, SubwordTokenizer

#: Decides at random whether the use of a merge or of a longer token is dropped.
Dropped = Callable[[], bool]
#: Returns tokens of a unit.
Segmenter = Callable[[bytes, Dropped], list[int]]
_COINS = 1 << 12


def encode_perturbed(
    tokenizer: SubwordTokenizer | SpelledWordTokenizer,
    data: bytes,
    dropout: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return a random segmentation of `data`, in which longer tokens are dropped at random.

    Args:
        tokenizer: Of the tokens.
        data: Any bytes; the tokens decode to them.
        dropout: Probability of dropping one use of a merge or of a token longer than a byte. With 1 every
            byte is a token of its own.
        rng: Source of randomness. It draws in blocks, so its state afterwards is unspecified.
    """
    blocks = iter(lambda: (rng.random(_COINS) < dropout).tolist(), None)
    dropped = itertools.chain.from_iterable(blocks).__next__
    segment = segmenter(tokenizer)
    tokens = [token for unit in tokenizer.units(data) for token in segment(unit, dropped)]
    return np.array(tokens, dtype=tokenizer.dtype)


def segmenter(tokenizer: SubwordTokenizer | SpelledWordTokenizer) -> Segmenter:
    """Return the random segmentation of single units that goes with a tokenizer."""
    pieces = tokenizer.pieces
    if isinstance(tokenizer, SpelledWordTokenizer):
        return lambda unit, dropped: spell(unit, pieces, dropped)
    continuing, model = tokenizer.continuing, tokenizer.to_json()["model"]
    if tokenizer.kind == "wordpiece":
        return lambda unit, dropped: match_longest(unit, pieces, continuing, dropped)
    if tokenizer.kind == "unigram":
        scores = [score for _, score in model["vocab"]]
        return lambda unit, dropped: best_path(unit, pieces, scores, dropped)
    vocab = model["vocab"]
    merges = {
        (vocab[one], vocab[other]): (rank, vocab[one + other])
        for rank, (one, other) in enumerate(model["merges"])
    }
    return lambda unit, dropped: merge([pieces[bytes([b])] for b in unit], merges, dropped)


def spell(unit: bytes, pieces: Mapping[bytes, int], dropped: Dropped) -> list[int]:
    """Return a unit's token, or its bytes if it has none or that token is dropped."""
    if unit in pieces and (len(unit) == 1 or not dropped()):
        return [pieces[unit]]
    return list(unit)


def merge(
    tokens: list[int], merges: Mapping[tuple[int, int], tuple[int, int]], dropped: Dropped
) -> list[int]:
    """Merge pairs of tokens, the earliest learnt merge first (BPE-dropout).

    Provilkov, Emelianenko, Voita 2020, Algorithm 1: at each step every possible merge is dropped with the
    same probability, for that step only. The unit is finished at the first step with no merge left.

    Args:
        tokens: The tokens of the unit's single bytes.
        merges: Maps each pair to the rank of its merge and the token that the merge makes.
        dropped: Decides whether a possible merge is dropped at this step.
    """
    tokens = list(tokens)
    while True:
        first, place = (len(merges), 0), -1
        for index, pair in enumerate(itertools.pairwise(tokens)):
            found = merges.get(pair)
            # A merge of higher rank than the best so far cannot be chosen: it needs no draw.
            if found is not None and found < first and not dropped():
                first, place = found, index
        if place < 0:
            return tokens
        tokens[place : place + 2] = [first[1]]


def match_longest(
    unit: bytes, pieces: Mapping[bytes, int], continuing: Mapping[bytes, int], dropped: Dropped
) -> list[int]:
    """Take the longest matching piece from the left, again and again (MaxMatch-Dropout).

    Hiraoka 2022: each matching piece is dropped with the same probability, and then the next shorter
    match is tried. Single bytes are never dropped.

    Args:
        unit: The bytes to segment.
        pieces: Tokens of the pieces that can begin a unit.
        continuing: Tokens of the pieces that can continue one.
        dropped: Decides whether a matching piece is dropped in this place.
    """
    tokens, start = [], 0
    while start < len(unit):
        for stop in range(len(unit), start, -1):
            token = (continuing if start else pieces).get(unit[start:stop])
            if token is not None and (stop == start + 1 or not dropped()):
                tokens.append(token)
                start = stop
                break
    return tokens


def best_path(
    unit: bytes, pieces: Mapping[bytes, int], scores: list[float], dropped: Dropped
) -> list[int]:
    """Return the most probable segmentation of a unit (Kudo 2018) among the pieces not dropped at random.

    Args:
        unit: The bytes to segment.
        pieces: Tokens of the pieces.
        scores: Log-probability of each token.
        dropped: Decides whether a piece longer than a byte is dropped in one place.
    """
    # For each position: the best score so far, the start of the last piece on that path, and its token.
    best = [(0.0, 0, -1)] + [(-math.inf, 0, -1)] * len(unit)
    for start in range(len(unit)):
        for stop in range(start + 1, len(unit) + 1):
            token = pieces.get(unit[start:stop])
            if token is None or (stop > start + 1 and dropped()):
                continue
            score = best[start][0] + scores[token]
            if score > best[stop][0]:
                best[stop] = score, start, token
    tokens, stop = [], len(unit)
    while stop:
        _, stop, token = best[stop]
        tokens.append(token)
    return tokens[::-1]
