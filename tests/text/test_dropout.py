"""Three ways to drop pieces at random, which without a drop are those of the library."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.text.dropout import best_path, match_longest, merge
from text.subwords import TOKENIZERS, kinds, texts

units = st.text("ab", min_size=1, max_size=7).map(str.encode)
#: The single bytes, and longer pieces of them.
vocabularies = st.sets(st.text("ab", min_size=2, max_size=4).map(str.encode)).map(
    lambda longer: {piece: token for token, piece in enumerate([b"a", b"b", *sorted(longer)])}
)


def segmentations(unit: bytes, pieces: dict[bytes, int]) -> Iterator[list[int]]:
    """Yield all ways to spell a unit in pieces."""
    if not unit:
        yield []
    for stop in range(1, len(unit) + 1):
        if unit[:stop] in pieces:
            for rest in segmentations(unit[stop:], pieces):
                yield [pieces[unit[:stop]], *rest]


@given(units, vocabularies, st.randoms(use_true_random=False))
def test_the_best_path_is_the_best_of_all(
    unit: bytes, pieces: dict[bytes, int], random: Random
) -> None:
    scores = [random.uniform(-9, 0) for _ in pieces]
    every = list(segmentations(unit, pieces))
    path = best_path(unit, pieces, scores, lambda: False)
    assert path in every
    expected = max(sum(scores[token] for token in way) for way in every)
    assert sum(scores[token] for token in path) == pytest.approx(expected)


@given(units, vocabularies, vocabularies)
def test_the_longest_piece_that_matches_is_taken(
    unit: bytes, pieces: dict[bytes, int], continuing: dict[bytes, int]
) -> None:
    start = 0
    for token in match_longest(unit, pieces, continuing, lambda: False):
        known = continuing if start else pieces
        longest = max((piece for piece in known if unit.startswith(piece, start)), key=len)
        assert token == known[longest]
        start += len(longest)
    assert start == len(unit)


@given(units, vocabularies)
def test_where_all_is_dropped_single_bytes_are_left(unit: bytes, pieces: dict[bytes, int]) -> None:
    single = [pieces[bytes([byte])] for byte in unit]
    merges = {(0, 0): (0, 2), (0, 1): (1, 3), (1, 1): (2, 4)}
    assert merge(single, merges, lambda: True) == single
    assert match_longest(unit, pieces, pieces, lambda: True) == single
    assert best_path(unit, pieces, [0.0] * len(pieces), lambda: True) == single


@pytest.mark.parametrize(
    ("coins", "expected"),
    [
        ([False] * 5, [3, 3]),
        ([True, True], [0, 1, 1, 0, 1, 1]),  # no merge is left at the first step
        ([True, False, True, False, False, True], [2, 1, 3]),
    ],
)
def test_merges_are_drawn_anew_at_each_step(coins: list[bool], expected: list[int]) -> None:
    merges = {(0, 1): (0, 2), (2, 1): (1, 3)}
    drawn = iter(coins)
    assert merge([0, 1, 1, 0, 1, 1], merges, lambda: next(drawn)) == expected
    assert not list(drawn)


@given(kinds, texts)
def test_what_drops_nothing_is_what_the_library_does(kind: str, data: bytes) -> None:
    """The merges, the longest match and the best path that dropout is laid upon are the library's."""
    tokenizer = TOKENIZERS[kind]
    for unit in tokenizer.units(data):
        found, own = tokenizer.encode_unit(unit), tokenizer.perturb_unit(unit, lambda: False)
        if kind == "unigram":  # of two ways that are as good either will do
            scores = tokenizer._scores
            assert sum(scores[t] for t in own) == pytest.approx(sum(scores[t] for t in found))
        else:
            assert own == found


def test_a_merge_is_dropped_with_the_probability_that_was_given() -> None:
    """` the` is one token; with one merge in four given up, its first merge fails as often."""
    tokenizer = TOKENIZERS["bpe"]
    assert len(tokenizer.encode(b" t")) == 1
    tokens = tokenizer.encode_perturbed(b" t" * 4000, 0.25, np.random.default_rng(0))
    dropped = len(tokens) - 4000
    assert abs(dropped - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
