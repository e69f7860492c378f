"""Perturbed tokens spell the same bytes, and merges are dropped at the given rate."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.experiments.attack.dropout import (
    best_path,
    encode_perturbed,
    match_longest,
    merge,
    segmenter,
)  # fmt: skip
from sharnn.text import SpelledWordTokenizer
from text.subwords import TEXT, texts
from text.subwords import TOKENIZERS as SUBWORDS

SPELLED = SpelledWordTokenizer.build([TEXT], 500)
TOKENIZERS = {**SUBWORDS, "spelled": SPELLED}

kinds = st.sampled_from(sorted(TOKENIZERS))
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


@given(kinds, texts, st.floats(0, 1), st.integers(0, 99))
def test_perturbed_tokens_spell_the_same_bytes(
    kind: str, data: bytes, dropout: float, seed: int
) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = encode_perturbed(tokenizer, data, dropout, np.random.default_rng(seed))
    assert tokenizer.decode(tokens) == data
    again = encode_perturbed(tokenizer, data, dropout, np.random.default_rng(seed))
    assert np.array_equal(tokens, again)
    assert tokens.dtype == tokenizer.encode(data).dtype


@pytest.mark.parametrize("kind", SUBWORDS)
def test_a_unit_begins_and_continues_with_pieces_that_may(kind: str) -> None:
    tokenizer, rng = SUBWORDS[kind], np.random.default_rng(1)
    begin, go_on = set(tokenizer.pieces.values()), set(tokenizer.continuing.values())
    for unit in 20 * [b" statement", b" the", b"\xff\xfe", b"__", b"\n"]:
        first, *others = encode_perturbed(tokenizer, unit, 0.5, rng).tolist()
        assert first in begin
        assert go_on.issuperset(others)


@pytest.mark.parametrize("kind", SUBWORDS)
def test_dropout_goes_from_nothing_to_single_bytes(kind: str) -> None:
    tokenizer, lengths = SUBWORDS[kind], [len(SUBWORDS[kind].encode(TEXT))]
    for dropout in (0.0, 0.1, 0.5, 1.0):
        tokens = encode_perturbed(tokenizer, TEXT, dropout, np.random.default_rng(0))
        assert tokenizer.decode(tokens) == TEXT
        lengths.append(len(tokens))
    assert lengths == sorted(lengths)
    assert lengths[0] == lengths[1] < lengths[2]
    assert lengths[-1] == len(TEXT)


@given(kinds, texts)
def test_what_drops_nothing_is_the_tokenizers_segmentation(kind: str, data: bytes) -> None:
    """The merges, the longest match and the best path are those of the library."""
    tokenizer = TOKENIZERS[kind]
    segment = segmenter(tokenizer)
    for unit in tokenizer.units(data):
        found, own = tokenizer.encode_unit(unit), segment(unit, lambda: False)
        if kind == "unigram":  # of two equally probable segmentations either is right
            scores = [score for _, score in tokenizer.to_json()["model"]["vocab"]]
            assert sum(scores[t] for t in own) == pytest.approx(sum(scores[t] for t in found))
        else:
            assert own == found


def test_a_merge_is_dropped_at_the_given_rate() -> None:
    """` t` is one token; with one merge in four dropped, its merge fails as often."""
    assert len(SUBWORDS["bpe"].encode(b" t")) == 1
    tokens = encode_perturbed(SUBWORDS["bpe"], b" t" * 4000, 0.25, np.random.default_rng(0))
    dropped = len(tokens) - 4000
    assert abs(dropped - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_known_words_are_spelled_at_the_given_rate(dropout: float) -> None:
    known = np.sum(SPELLED.encode(TEXT) >= 256)
    tokens = encode_perturbed(SPELLED, TEXT, dropout, np.random.default_rng(0))
    left = np.sum(tokens >= 256)
    assert abs(left - known * (1 - dropout)) <= 4 * (known * dropout * (1 - dropout)) ** 0.5
