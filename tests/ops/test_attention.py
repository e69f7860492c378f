"""Every fast path equals its definition, in outputs and gradients, in every dtype it runs in."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sharnn import kernels
from sharnn.kernels import variants as kernel_variants
from sharnn.ops import FAST, REFERENCE, compiled
from sharnn.ops.attention import _QUERY_BLOCK
from sharnn.ops.reference import reach_mask
from sharnn.ops.weighted_rows import _LaidOut

pytestmark = pytest.mark.usefixtures("path")
same_function = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["kernels", "pytorch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels, or what is there without a compiler."""
    if request.param == "pytorch":
        monkeypatch.setattr(compiled, "available", lambda x: False)
    elif not compiled.available(torch.zeros(1)):
        assert shutil.which("g++") is None, "there is a compiler, but the kernels do not build"
        pytest.skip("no C++ compiler here")


def results_of(op: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of its weighted sum with respect to all inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = op(*leaves)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


def assert_equal_with_gradients(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    for ours, expected in zip(results_of(fast, inputs), results_of(slow, inputs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def lstm_inputs(lanes: int, tokens: int, dim: int) -> list[Tensor]:
    weights = [randn(4 * dim, dim), randn(4 * dim, dim), randn(4 * dim), randn(4 * dim)]
    return [randn(lanes, tokens, dim), randn(lanes, dim), randn(lanes, dim), *weights]


def joined_lstm(op: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    return lambda x, h, c, *w: torch.cat([t.flatten() for t in op(x, h, c, w)])


def attend(op: Callable[..., Tensor], memory: Tensor, *settings: object) -> Callable[..., Tensor]:
    """Return attention as a function of what takes gradients."""

    def of_inputs(query: Tensor, current: Tensor, key_gate: Tensor, value_gate: Tensor) -> Tensor:
        rows = torch.cat([memory.to(current.dtype), current.detach()], dim=1)
        return op(query, rows, current, key_gate, value_gate, *settings)

    return of_inputs


@same_function
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 12))
def test_boom(lanes: int, tokens: int, dim: int, extra: int) -> None:
    inputs = [randn(lanes, tokens, dim), randn(dim + extra, dim), randn(dim + extra)]
    assert_equal_with_gradients(FAST.boom, REFERENCE.boom, inputs)


@same_function
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5))
def test_lstm(lanes: int, tokens: int, dim: int) -> None:
    assert_equal_with_gradients(
        joined_lstm(FAST.lstm), joined_lstm(REFERENCE.lstm), lstm_inputs(lanes, tokens, dim)
    )


@settings(max_examples=12)
@given(
    lanes=st.integers(1, 20), tokens=st.integers(1, 5), dim=st.sampled_from([8, 16, 40, 64]),
    variant=st.sampled_from(kernel_variants()),
)  # fmt: skip
def test_the_recurrence_of_every_build(lanes: int, tokens: int, dim: int, variant: str) -> None:
    """Tiles of every number of lanes, whole vectors and cut ones; kernels know no float64."""
    exact = lstm_inputs(lanes, tokens, dim)
    inputs = [x / (dim**0.5 if x.ndim == 2 and x.shape[1] == dim else 1) for x in exact]
    expected = results_of(joined_lstm(REFERENCE.lstm), inputs)
    with kernels.at(variant):
        found = results_of(joined_lstm(FAST.lstm), [x.float() for x in inputs])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * (1 + theirs.norm())


@same_function
@given(
    lengths=st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=2, max_size=2)),
    num_tokens=st.integers(1, 12),
    num_memory=st.integers(0, 9),
    window=st.integers(1, 25),
    block=st.sampled_from([3, _QUERY_BLOCK]),
    reads_next=st.booleans(),
)
def test_attention(
    lengths: list[int] | None,
    num_tokens: int,
    num_memory: int,
    window: int,
    block: int,
    reads_next: bool,
) -> None:
    lengths = lengths and [min(n, num_memory) for n in lengths]
    memory = randn(2, num_memory, 4)
    inputs = [randn(2, num_tokens, 4), randn(2, num_tokens, 4), randn(4), randn(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharnn.ops.attention._QUERY_BLOCK", block)
        assert_equal_with_gradients(
            attend(FAST.attention, memory, window, lengths, 0.0, reads_next),
            attend(REFERENCE.attention, memory, window, lengths, 0.0, reads_next),
            inputs,
        )


@pytest.mark.parametrize("together", [1, 2, 3])
def test_lanes_may_go_together(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """In batched products: all of them on a GPU, on a CPU as many as the cache holds scores of."""
    memory = randn(3, 9, 4)
    inputs = [randn(3, 7, 4), randn(3, 7, 4), randn(4), randn(4)]
    monkeypatch.setattr("sharnn.ops.attention._SCORES_TOGETHER", together * 7 * 14)
    for lengths in (None, [9, 0, 4]):
        assert_equal_with_gradients(
            attend(FAST.attention, memory, 8, lengths),
            attend(REFERENCE.attention, memory, 8, lengths),
            inputs,
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-6), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("name", ["lstm", "attention", "reads_next", "boom"])
def test_every_dtype_follows_the_definition(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    """At sizes where vectors have whole and cut parts, and more than one block of features."""
    torch.manual_seed(0)
    lanes, tokens, dim = 3, 40, 328
    if name == "lstm":
        fast, slow = joined_lstm(FAST.lstm), joined_lstm(REFERENCE.lstm)
        inputs = lstm_inputs(lanes, tokens, dim)
        inputs[3:5] = [weight / dim**0.5 for weight in inputs[3:5]]
    elif name == "boom":
        fast, slow = FAST.boom, REFERENCE.boom
        inputs = [randn(lanes, tokens, dim), randn(3 * dim + 5, dim) / dim**0.5]
        inputs.append(randn(3 * dim + 5))
    else:
        memory = randn(lanes, 70, dim)
        settings = 60, (70, 10, 0), 0.0, name == "reads_next"
        fast = attend(FAST.attention, memory, *settings)
        slow = attend(REFERENCE.attention, memory, *settings)
        inputs = [randn(lanes, tokens, dim), randn(lanes, tokens, dim), randn(dim), randn(dim)]
    expected = results_of(slow, inputs)
    for ours, theirs in zip(results_of(fast, [x.to(dtype) for x in inputs]), expected, strict=True):
        difference = ours.detach().double() - theirs.detach()
        assert float(difference.norm() / theirs.detach().norm()) < tolerance


@pytest.mark.parametrize("multiplied", [False, True])
def test_weighted_rows(multiplied: bool) -> None:
    """By gathering, and as on a GPU by products with the whole of a small table."""
    index = torch.tensor([[0, 4, 4], [2, 2, 2], [1, 0, 3]])

    def by_products(table: Tensor, weight: Tensor) -> Tensor:
        return _LaidOut.apply(index, weight, len(table)) @ table

    fast = by_products if multiplied else lambda t, w: FAST.weighted_rows(t, index, w)
    assert_equal_with_gradients(
        fast, lambda t, w: REFERENCE.weighted_rows(t, index, w), [randn(5, 4), randn(3, 3)]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """A training step is skipped for it, so no kernel may hide it."""
    x = torch.zeros(1, 2, 8, dtype=dtype)
    x[0, 0, 3] = float("nan")
    eye, bias = torch.eye(8, dtype=dtype), torch.zeros(8, dtype=dtype)
    assert FAST.boom(x, eye, bias).isnan().any()
    state, wide = torch.zeros(1, 8, dtype=dtype), eye.repeat(4, 1)
    assert FAST.lstm(x, state, state, [wide, wide, bias.repeat(4), bias.repeat(4)])[2].isnan().any()
    assert FAST.attention(x, x, x, bias + 1, bias + 1, 5).isnan().any()


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_a_head_that_reads_next_reads_what_followed(ops: object) -> None:
    rows, gate = torch.eye(4)[None], torch.ones(4)
    nothing, like_0, like_1 = -torch.ones(4), rows[0, 0], rows[0, 1]
    query = 100 * torch.stack([like_0, nothing, like_0, like_1])[None]
    mixed = ops.attention(query, rows, rows, gate, gate, 4, None, 0.0, True)[0]
    # Position 0 has no row before it, and position 1 none that is like it.
    expected = torch.stack([torch.zeros(4), torch.zeros(4), rows[0, 1], rows[0, 2]])
    torch.testing.assert_close(mixed, expected)


def test_reach_mask_is_what_it_says() -> None:
    for lane, written in enumerate((3, 1)):
        mask = reach_mask(num_tokens=3, num_memory=3, window=4, lengths=(3, 1))[lane]
        for position in range(3):
            for row in range(6):
                seen = 3 - written <= row <= 3 + position and row > 3 + position - 4
                assert bool(mask[position, row]) == seen


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_dropout_keeps_the_mean(ops: object) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.ones(1, 4000, 4), torch.eye(4).repeat(2, 1), torch.zeros(8)
    kept = ops.boom(x, weight, bias, 0.0).mean()
    dropped = ops.boom(x, weight, bias, 0.3).mean()
    torch.testing.assert_close(dropped, kept, rtol=0.03, atol=0)
    rows, gate = torch.ones(1, 2000, 4), torch.ones(4)
    mixed = ops.attention(torch.zeros(1, 2000, 4), rows, rows, gate, gate, 5000, None, 0.3).mean()
    torch.testing.assert_close(mixed, torch.tensor(1.0), rtol=0.03, atol=0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_independently(rate: float) -> None:
    torch.manual_seed(1)
    first, second = (FAST.dropout(torch.ones(1 << 16), rate) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    dropped = torch.stack([first == 0, second == 0, (first == 0).roll(1), (first == 0).roll(64)])
    assert abs(float(dropped[0].float().mean()) - rate) < 0.01
    correlation = torch.corrcoef(dropped.float()) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.02


def test_dropout_goes_backward_through_the_mask_it_went_forward() -> None:
    """Functions with dropout are linear in what is dropped, which makes their gradient known."""
    torch.manual_seed(2)
    x = randn(2, 9, 8).requires_grad_()
    out = FAST.dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    x, weight, bias = randn(1, 6, 8).requires_grad_(), randn(16, 8), randn(16)
    torch.autograd.gradcheck(lambda x: _seeded(FAST.boom, x, weight, bias, 0.4), x)
    memory, gates = randn(1, 5, 8), (randn(8), randn(8))
    mix = attend(FAST.attention, memory, 7, None, 0.4)
    fixed = randn(1, 6, 8)
    torch.autograd.gradcheck(lambda query: _seeded(mix, query, fixed, *gates), x)
    # Of the rows alone: as if what stands in `rows_BKD` followed them, which is what it does.
    query = x.detach()

    def of_rows(current: Tensor) -> Tensor:
        return _seeded(mix, query, current, *gates)

    current, step = fixed.clone().requires_grad_(), 1e-6 * randn(1, 6, 8)
    weight = randn(1, 6, 8)
    (gradient,) = torch.autograd.grad((of_rows(current) * weight).sum(), current)
    slope = ((of_rows(fixed + step) - of_rows(fixed - step)) * weight).sum() / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=1e-6, atol=1e-12)


def _seeded(op: Callable[..., Tensor], *inputs: object) -> Tensor:
    torch.manual_seed(3)
    return op(*inputs)
