"""Recall finds what a search through the text finds, and a model with it copies what it has read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model import LanguageModel
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


def test_a_model_repeats_what_it_read_once() -> None:
    """Weights that trust recall make a copying machine of a model that has learnt nothing else."""
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=32, num_layers=1, residual=True, recall_orders=[3])
    model = LanguageModel(config).eval()
    assert model.recall is not None
    with torch.no_grad():
        model.recall.tokens.weight.copy_(100 * model.embedding.weight)
    text = torch.randint(256, (1, 50)).repeat(1, 2)
    logits, _ = model(text, model.initial_state(1))
    guesses = logits.argmax(-1)[0]
    assert torch.equal(guesses[53:99], text[0, 54:])
    assert (guesses[:49] == text[0, 1:50]).float().mean() < 0.2


def test_more_slots_remember_more() -> None:
    config = ModelConfig(embed_dim=8, num_layers=1, recall_orders=[2], recall_slots=256)
    model = LanguageModel(config)
    model.set_recall_slots(1 << 12)
    assert model.initial_state(3).slots.shape == (3, 1, 1 << 12)
    assert model.initial_state(3, 512).slots.shape == (3, 1, 512)
    assert model.state_bytes() == LanguageModel(model.config).state_bytes()
    with pytest.raises(ConfigError, match="power of two"):
        model.set_recall_slots(1_000)
    with pytest.raises(ConfigError, match="nothing is recalled"):
        LanguageModel(ModelConfig(embed_dim=8)).set_recall_slots(256)


def test_gains_and_rows_take_a_gradient() -> None:
    config = ModelConfig(embed_dim=8, num_layers=1, residual=True, recall_orders=[1, 2])
    model = LanguageModel(config)
    text = torch.tensor([[1, 2, 1, 2, 1, 2, 1]])
    model(text, model.initial_state(1))[0].sum().backward()
    assert model.recall is not None
    rows = model.recall.tokens.weight.grad.abs().sum(1).nonzero().flatten()
    assert rows.tolist() == [1, 2]
    assert (model.recall.source.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recall_orders": [0, 2]}, "lengths of 1 or more"),
        ({"recall_orders": [2, 2]}, "each once"),
        ({"recall_slots": 1024}, "nothing is recalled"),
        ({"recall_orders": [2], "recall_slots": 1000}, "power of two"),
        ({"recall_orders": [2], "recall_slots": 128}, "a power of two from 256"),
        ({"recall_orders": [2], "vocab_size": 2_000_000}, "up to 1,000,000 tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{"embed_dim": 16, **settings})


def test_tables_beyond_all_memory_are_refused() -> None:
    config = ModelConfig(embed_dim=8, num_layers=1, recall_orders=ORDERS, recall_slots=1 << 28)
    with pytest.raises(ConfigError, match=r"take 8,388,608 GiB.*lower model.recall_slots"):
        LanguageModel(config).initial_state(1 << 20)
