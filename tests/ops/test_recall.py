"""Recall finds what a search through the text finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharnn.model.state import NO_TOKEN
from sharnn.ops import FAST, REFERENCE, Ops
from sharnn.ops import recall as fast_recall

ORDERS = [1, 2, 3, 5]
WAYS = pytest.mark.parametrize("ops", [FAST, REFERENCE], ids=["fast", "reference"])


def as_text(tokens: list[int]) -> Tensor:
    return torch.tensor([[NO_TOKEN] * max(ORDERS) + tokens])


def tables(num_slots: int = 1 << 14, num_lanes: int = 1) -> Tensor:
    return torch.zeros(num_lanes, len(ORDERS), num_slots, dtype=torch.int64)


def searched(tokens: list[int], position: int, order: int) -> list[int]:
    """Return the last two tokens that followed the n-gram which ends at a position, -1 for none."""
    ngram = tokens[position - order + 1 : position + 1]
    ends = range(position - 1, order - 2, -1)
    found = [tokens[end + 1] for end in ends if tokens[end - order + 1 : end + 1] == ngram]
    return [*found, -1, -1][:2]


@WAYS
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_it_finds_what_a_search_finds(ops: Ops, tokens: list[int]) -> None:
    found, _ = ops.recall(as_text(tokens), tables(), ORDERS)
    for position in range(len(tokens)):
        for index, order in enumerate(ORDERS):
            if order <= position + 1:
                expected = searched(tokens, position, order)
                assert found[0, position, index].tolist() == expected


@given(tokens=st.lists(st.integers(0, 999_999), min_size=1, max_size=300), seed=st.integers(0, 9))
def test_fast_is_the_definition_where_slots_are_few(tokens: list[int], seed: int) -> None:
    """Long texts push n-grams out of their slots; three lanes do not disturb each other."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.cat([as_text(tokens), as_text(tokens[::-1]), as_text(sorted(tokens))])
    before = REFERENCE.recall(
        torch.randint(5, (3, 400), generator=generator), tables(256, num_lanes=3), ORDERS
    )[1]
    kept = before.clone()
    ours, theirs = (ops.recall(text, before, ORDERS) for ops in (FAST, REFERENCE))
    assert all(map(torch.equal, ours, theirs))
    assert torch.equal(before, kept)


@WAYS
def test_tables_may_lie_in_any_order(ops: Ops) -> None:
    text = as_text([1, 2, 1, 2, 3, 1, 2])
    filled = ops.recall(text, tables(256), ORDERS)[1]
    strided = filled.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    expected = ops.recall(text, filled, ORDERS)
    assert all(map(torch.equal, ops.recall(text, strided, ORDERS), expected))


@WAYS
def test_in_place_writes_into_the_tables_given(ops: Ops) -> None:
    text, given_tables = as_text([1, 2, 1, 2, 3]), tables()
    found, after = ops.recall(text, given_tables, ORDERS, in_place=True)
    assert after is given_tables
    assert torch.equal(found, ops.recall(text, tables(), ORDERS)[0])
    assert given_tables.any()


def test_without_a_compiler_it_is_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_recall, "_library", lambda: None)
    found, _ = FAST.recall(as_text([1, 2, 1]), tables(), ORDERS)
    assert found[0, 2, 0].tolist() == [2, -1]


def test_an_n_gram_takes_the_slot_of_another() -> None:
    """256 slots, some 3,000 pairs: what was read long ago is gone, what was read last is there."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.randint(60, (3_000,), generator=generator).tolist()
    text = [70, 71, 72, *middle, 70, 71, 80, 70, 71]
    found, _ = FAST.recall(as_text(text), tables(256), ORDERS)
    assert found[0, -1, 1].tolist()[0] == 80
    assert found[0, len(middle) + 4, 1].tolist() == [-1, -1]
