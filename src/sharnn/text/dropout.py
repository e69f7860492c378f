"""Three ways to cut a unit into pieces, each with pieces given up at random.

Where `dropped` always says no, they are the ways of BPE, WordPiece and Unigram themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

Dropped = Callable[[], bool]


def merge(
    tokens: list[int], merges: Mapping[tuple[int, int], tuple[int, int]], dropped: Dropped
) -> list[int]:
    """Merge tokens pair by pair, the earliest learnt merge first (BPE-dropout).

    Provilkov, Emelianenko, Voita 2020, Algorithm 1: before each merge every possible one is given up with
    the same probability, for this time; when none is left, the unit is done.

    Args:
        tokens: Of single bytes.
        merges: By the pair that is merged, the merge's rank and the token that it makes.
        dropped: Tells whether a possible merge is given up this time.
    """
    tokens = list(tokens)
    while True:
        first, place = (len(merges), 0), -1
        for index, pair in enumerate(itertools.pairwise(tokens)):
            found = merges.get(pair)
            # Of merges that come later it need not be known whether they were given up.
            if found is not None and found < first and not dropped():
                first, place = found, index
        if place < 0:
            return tokens
        tokens[place : place + 2] = [first[1]]


def match_longest(
    unit: bytes, pieces: Mapping[bytes, int], continuing: Mapping[bytes, int], dropped: Dropped
) -> list[int]:
    """Take the longest piece that fits, then the longest after it, … (MaxMatch-Dropout).

    Hiraoka 2022: a piece that fits is given up with the same probability, and the next shorter one that
    fits is tried; a single byte never is.

    Args:
        unit: What is cut.
        pieces: Tokens of what a unit can begin with.
        continuing: Tokens of what can follow.
        dropped: Tells whether a piece that fits is given up this time.
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
    """Return the most probable way to spell a unit (Kudo 2018), without the pieces given up at random.

    Args:
        unit: What is cut.
        pieces: Tokens of what it can be made of.
        scores: Log-probability of each token.
        dropped: Tells whether a piece longer than a byte is given up in one place.
    """
    # Of each place: the best score so far, where the last piece of that path begins, and its token.
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
