"""One long forward == any split with carried state == token by token, for every architecture."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import know_ngrams, stir
from sharnn.config import ModelConfig
from sharnn.model import LanguageModel, RecurrentState
from sharnn.ops import FAST, REFERENCE, Ops

NUM_TOKENS, NUM_LANES, VOCAB = 23, 3, 11

CONFIGS: dict[str, dict[str, Any]] = {
    "one": {"attention_layers": "one"},
    "all-residual": {"attention_layers": "all", "residual": True, "forget_bias": 1.0},
    "reads-next": {"attention_layers": "all", "residual": True, "reads_next": True},
    "reads-next-1": {"window": 1, "residual": True, "reads_next": True},
    "none": {"attention_layers": "none"},
    "plain-gate": {"attention_layers": [0, 2], "overparam_value_gate": False},
    "window-0": {"window": 0},
    "window-1": {"window": 1},
    "lstm": {"architecture": "lstm", "window": None, "boom_dim": None},
    "transformer": {"architecture": "transformer", "num_heads": 2},
    "n-grams": {"longest_ngram": 4, "ngram_rows": 60, "residual": True},
    "recall": {"recall_orders": [1, 2, 4], "recall_slots": 256, "residual": True},
    "recall-n-grams": {"recall_orders": [1], "recall_slots": 256, "longest_ngram": 4},
    "transformer-n-grams": {"architecture": "transformer", "num_heads": 2, "longest_ngram": 3},
}


def make_model(name: str, window: int = 6, ops: Ops = FAST) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "embed_dim": 8, "num_layers": 3, "boom_dim": 20, "window": window}
    config = ModelConfig(**{**sizes, **CONFIGS[name]})
    return stir(know_ngrams(LanguageModel(config, ops)).double().eval())


def tokens_of(seed: int, num_tokens: int = NUM_TOKENS) -> Tensor:
    return torch.randint(
        VOCAB, (NUM_LANES, num_tokens), generator=torch.Generator().manual_seed(seed)
    )


def run_in_parts(
    model: LanguageModel, tokens: Tensor, cuts: list[int], state: RecurrentState | None = None
) -> tuple[Tensor, RecurrentState]:
    state = state or model.initial_state(tokens.shape[0])
    bounds = [0, *sorted(cuts), tokens.shape[1]]
    logits = []
    for start, stop in itertools.pairwise(bounds):
        if start < stop:
            part, state = model(tokens[:, start:stop], state)
            logits.append(part)
    return torch.cat(logits, dim=1), state


def assert_same_state(ours: RecurrentState, theirs: RecurrentState) -> None:
    left, right = ours.to_tensors(), theirs.to_tensors()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12)
@given(
    cuts=st.lists(st.integers(1, NUM_TOKENS - 1), max_size=8),
    window=st.integers(1, 30),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_any_split_equals_one_forward(name: str, cuts: list[int], window: int, seed: int) -> None:
    model, tokens = make_model(name, window), tokens_of(seed)
    whole, whole_state = run_in_parts(model, tokens, [])
    parts, parts_state = run_in_parts(model, tokens, cuts)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    assert_same_state(parts_state, whole_state)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("ops", [FAST, REFERENCE], ids=["fast", "reference"])
@torch.no_grad()
def test_token_by_token_equals_one_forward(name: str, ops: Ops) -> None:
    model, tokens = make_model(name, ops=ops), tokens_of(0)
    whole, _ = run_in_parts(model, tokens, [])
    steps, _ = run_in_parts(model, tokens, list(range(1, NUM_TOKENS)))
    torch.testing.assert_close(steps, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8)
@given(
    cut=st.integers(1, NUM_TOKENS - 1),
    lanes=st.sets(st.integers(0, NUM_LANES - 1), min_size=1),
    more=st.lists(st.integers(1, NUM_TOKENS - 1), max_size=3),
)
@torch.no_grad()
def test_reset_lanes_read_as_if_new(name: str, cut: int, lanes: set[int], more: list[int]) -> None:
    model, before, after = make_model(name), tokens_of(1, cut), tokens_of(2)
    _, state = run_in_parts(model, before, [])
    logits, _ = run_in_parts(model, after, more, state.reset(lanes))
    fresh, _ = run_in_parts(model, after, [])
    carried, _ = run_in_parts(model, after, [], state)
    for lane in range(NUM_LANES):
        expected = fresh if lane in lanes else carried
        torch.testing.assert_close(logits[lane], expected[lane], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_select_and_expand_move_whole_lanes(name: str) -> None:
    model, tokens = make_model(name), tokens_of(3)
    _, state = run_in_parts(model, tokens, [7])
    state = state.reset([1])
    lanes = [2, 1, 1, 0]
    after = tokens_of(4)
    expected, _ = run_in_parts(model, after, [], state)
    selected, _ = run_in_parts(model, after[lanes], [5], state.select(lanes))
    torch.testing.assert_close(selected, expected[lanes], rtol=1e-9, atol=1e-12)
    doubled, _ = run_in_parts(model, after.repeat_interleave(2, 0), [5], state.expand(2))
    torch.testing.assert_close(doubled, expected.repeat_interleave(2, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8)
@given(
    cuts=st.lists(st.integers(1, NUM_TOKENS), min_size=1, max_size=4),
    more=st.lists(st.integers(1, NUM_TOKENS - 1), max_size=3),
)
@torch.no_grad()
def test_joined_lanes_go_on_as_alone(name: str, cuts: list[int], more: list[int]) -> None:
    """States of several texts, each read to another place, some not at all."""
    model, after = make_model(name), tokens_of(2)
    states = [model.initial_state(NUM_LANES)]
    for seed, cut in enumerate(cuts):
        states.append(run_in_parts(model, tokens_of(seed, cut), [], states[0])[1])
    states.append(states[-1].reset([1]).select([1, 2, 0]))
    expected = [run_in_parts(model, after, more, state) for state in states]
    joined, state = run_in_parts(
        model, after.repeat(len(states), 1), more, RecurrentState.join(states)
    )
    torch.testing.assert_close(joined, torch.cat([e for e, _ in expected]), rtol=1e-9, atol=1e-12)
    for index, (_, alone) in enumerate(expected):
        lanes = range(NUM_LANES * index, NUM_LANES * (index + 1))
        assert_same_state(state.select(lanes), alone)


@torch.no_grad()
def test_joining_takes_states_as_they_are() -> None:
    model = make_model("one")
    _, state = run_in_parts(model, tokens_of(0, 4), [])
    joined = RecurrentState.join([state.to(torch.float32), state, model.initial_state(1)])
    assert joined.num_lanes == 2 * NUM_LANES + 1
    assert {t.dtype for k, t in joined.to_tensors().items() if "lengths" not in k} == {
        torch.float64
    }
    memory = joined.layers[1].memory
    assert memory is not None
    assert memory.lengths == (4,) * 2 * NUM_LANES + (0,)
    assert not memory.rows[-1].any()
    assert_same_state(RecurrentState.join([state]), state)
    with pytest.raises(ValueError, match="no state was given"):
        RecurrentState.join([])
    with pytest.raises(ValueError, match="models with different blocks"):
        RecurrentState.join([state, make_model("none").initial_state(1)])


@pytest.mark.parametrize("name", CONFIGS)
def test_state_is_never_altered_in_place(name: str) -> None:
    model, tokens = make_model(name), tokens_of(5)
    _, state = run_in_parts(model, tokens, [9])
    before = {key: tensor.clone() for key, tensor in state.to_tensors().items()}
    nats, later = model.nats(tokens, tokens, state.detach())
    nats.mean().backward()
    later.reset([0]), later.select([0]), state.detach(), state.expand(2)
    RecurrentState.join([state, later])
    for key, tensor in state.to_tensors().items():
        assert torch.equal(tensor, before[key])


@torch.no_grad()
def test_a_position_reaches_exactly_the_window() -> None:
    """With a head alone mixing positions, rows outside the window cannot matter, rows inside do."""
    model = make_model("one", window=4)
    block = model.blocks[1]
    rows = torch.randn(1, 9, 8, dtype=torch.float64)
    query = torch.randn(1, 1, 8, dtype=torch.float64)

    def attend(rows: Tensor) -> Tensor:
        return block.attention(query, rows, rows[:, -1:], 4, None, FAST)

    base = attend(rows)
    for row in range(9):
        changed = rows.clone()
        changed[:, row] += 1.0
        assert torch.equal(attend(changed), base) == (row < 5), row


@torch.no_grad()
def test_segment_reach_depends_on_segments_and_sliding_does_not() -> None:
    """Why `sliding` is the default: the original's reach breaks the law once its memory is full."""
    tokens = tokens_of(6)
    for reach, lawful in (("sliding", True), ("segment", False)):
        CONFIGS["reach"] = {"reach": reach}
        model = make_model("reach")
        whole, _ = run_in_parts(model, tokens, [5, 10, 15, 20])
        parts, _ = run_in_parts(model, tokens, [3, 8, 9, 13, 17])
        assert torch.allclose(whole, parts, rtol=1e-9) is lawful
    del CONFIGS["reach"]


@torch.no_grad()
def test_a_window_set_later_is_in_force() -> None:
    tokens = tokens_of(7)
    built, changed = make_model("one", window=15), make_model("one", window=3)
    changed.set_window(15)
    torch.testing.assert_close(
        run_in_parts(changed, tokens, [4])[0], run_in_parts(built, tokens, [])[0]
    )
    changed.set_window(0)
    forgetful, state = run_in_parts(changed, tokens, [4])
    assert torch.isfinite(forgetful).all()
    assert state.layers[1].memory.rows.shape[1] == 0
