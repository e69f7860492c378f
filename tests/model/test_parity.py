"""The 2019 model, number for number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parity_files import MODELS, ParityFile, relative_error, rename
from sharnn.model.softmax import SplitSoftmax
from sharnn.ops import FAST, REFERENCE, Ops

TOLERANCE = 1e-5


@pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
@pytest.mark.parametrize("name", MODELS)
def test_segments_and_states_equal_the_original(name: str, ops: Ops) -> None:
    parity = ParityFile.load(name)
    model = parity.model(ops)
    state = model.initial_state(parity.config["num_lanes"])
    for index, (tokens, targets) in enumerate(parity.segments()):
        theirs = parity.under(f"segment{index}.")
        nats, _ = model.nats(tokens, targets, state)
        logits, state = model(tokens, state)
        assert relative_error(logits.transpose(0, 1), theirs["logits"]) < TOLERANCE
        assert relative_error(nats.mean(), theirs["loss_nats"]) < TOLERANCE
        state = state.detach()
        for layer, ours in enumerate(state.layers):
            assert relative_error(ours.hidden, theirs[f"layer{layer}.hidden"]) < TOLERANCE
            assert relative_error(ours.cell, theirs[f"layer{layer}.cell"]) < TOLERANCE
            if f"layer{layer}.memory" in theirs:
                rows = ours.memory.rows.transpose(0, 1)
                assert rows.shape == theirs[f"layer{layer}.memory"].shape
                assert relative_error(rows, theirs[f"layer{layer}.memory"]) < TOLERANCE
            else:
                assert ours.memory is None


def gradients(parity: ParityFile, ops: Ops, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the gradients of the second segment's loss, the first one's state carried in."""
    model = parity.model(ops).to(dtype)
    (first, _), (tokens, targets) = parity.segments()[:2]
    _, state = model(first, model.initial_state(parity.config["num_lanes"]))
    nats, _ = model.nats(tokens, targets, state.detach())
    nats.mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


# The files' own gradients stand up to 7e-6 from the exact ones: they are held against both forms in
# float64, which adds no rounding of its own, and the fast path in float32 against the exact ones.
@pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_the_original(name: str, ops: Ops) -> None:
    parity = ParityFile.load(name)
    ours = gradients(parity, ops, torch.float64)
    theirs = rename(parity.under("segment1.grad."), ours)
    assert set(theirs) == set(ours)
    for weight, gradient in theirs.items():
        assert relative_error(ours[weight], gradient) < TOLERANCE, weight


@pytest.mark.parametrize("name", MODELS)
def test_fast_gradients_in_float32_are_the_exact_ones(name: str) -> None:
    parity = ParityFile.load(name)
    exact = gradients(parity, REFERENCE, torch.float64)
    for weight, ours in gradients(parity, FAST, torch.float32).items():
        assert relative_error(ours.double(), exact[weight]) < TOLERANCE, weight


def test_split_softmax_equals_the_original() -> None:
    parity = ParityFile.load("split_softmax")
    config, tensors = parity.config, parity.tensors
    softmax = SplitSoftmax(config["vocab_size"], config["embed_dim"], config["splits"])
    with torch.no_grad():
        softmax.bias.copy_(tensors["bias"])
        softmax.tail_vectors.copy_(tensors["criterion.tail_vectors"])
        softmax.tail_bias.copy_(tensors["criterion.tail_bias"])
    weight = tensors["weight"].requires_grad_()
    nats = softmax.nats(tensors["hidden"], weight, tensors["targets"])
    nats.mean().backward()
    assert relative_error(nats.mean(), tensors["loss_nats"]) < TOLERANCE
    assert relative_error(weight.grad, tensors["grad_weight"]) < TOLERANCE


def test_split_softmax_is_a_distribution_that_agrees_with_its_loss() -> None:
    torch.manual_seed(0)
    softmax = SplitSoftmax(120, 16, [20, 60, 100])
    torch.nn.init.normal_(softmax.tail_vectors)
    hidden, weight = torch.randn(2, 3, 16), torch.randn(120, 16)
    log_probs = softmax.logits(hidden, weight)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3))
    for target in (0, 19, 20, 59, 60, 100, 119):
        targets = torch.full((2, 3), target)
        torch.testing.assert_close(softmax.nats(hidden, weight, targets), -log_probs[..., target])
