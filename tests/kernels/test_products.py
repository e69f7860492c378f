"""The products of a step: the same integers in every build, and no lane depends on another."""

from __future__ import annotations

import pytest
import torch

from models import make_model
from sharnn import kernels
from sharnn.generation import RingDecoder, kernel_step

LANES = 17


def states_at(variant: str, dtype: str, lanes: slice) -> torch.Tensor:
    """Return the hidden states of some lanes, read without the others, after three tokens."""
    torch.manual_seed(0)
    model = make_model(embed_dim=40, window=4)
    tokens = torch.randint(model.config.vocab_size, (LANES, 3))[lanes]
    with kernels.at(variant):
        if not kernel_step.available(torch.float32, torch.float32, model.device):
            pytest.skip("no C++ compiler here")
        decoder = RingDecoder(model, len(tokens), dtype)
        for token_B in tokens.unbind(1):
            decoder.step(token_B)
        return torch.stack([layer.hidden for layer in decoder.state().layers])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("variant", kernels.variants())
def test_a_lane_depends_on_no_other(variant: str, dtype: str) -> None:
    """Whatever tile a lane falls into, of one lane or of as many as registers hold."""
    together = states_at(variant, dtype, slice(0, LANES))
    for lanes in (slice(0, 1), slice(3, 5), slice(4, 9), slice(8, 16)):
        assert torch.equal(states_at(variant, dtype, lanes), together[:, lanes])


@pytest.mark.parametrize("variant", kernels.variants())
def test_integers_are_the_same_in_every_build(variant: str) -> None:
    """What is left are the roundings of floats between the products."""
    found, expected = (
        states_at(name, "int8", slice(0, LANES)) for name in (variant, kernels.variants()[0])
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
