"""Initialisation, parameter counts and folding."""

from __future__ import annotations

import math

import pytest
import torch

from models import stir
from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model import LanguageModel, RecurrentState, count_parameters


def by_formula(config: ModelConfig) -> int:
    """The formula in `count_parameters`, for the paper's blocks."""
    d, f, v, blocks = config.embed_dim, config.boom_dim, config.vocab_size, config.num_layers
    heads = len(config.attention_layers)
    block = 8 * d * d + 8 * d + f * d + f + 3 * 2 * d
    head = (d * d + d) + 2 * d + 4 * d + 2 * d + (2 * d * d + 2 * d + d)
    return v * d + v + blocks * block + heads * head


@pytest.mark.parametrize(
    ("placement", "published"), [("none", 50_640_077), ("one", 53_798_093), ("all", 63_272_141)]
)
def test_parameters_are_the_originals_less_the_dead_ones(placement: str, published: int) -> None:
    config = ModelConfig(vocab_size=205, attention_layers=placement)
    heads = len(config.attention_layers)
    dead = 2 * 1024 * 4 + 4 * 1024 * (4 - heads) + 4 * 1024 * heads
    assert count_parameters(config) == by_formula(config) == published - dead
    # Folded, the paper's 52M and 54M.
    folded = count_parameters(ModelConfig(vocab_size=205, attention_layers=placement,
                                          overparam_value_gate=heads and False))  # fmt: skip
    assert count_parameters(config) - folded == heads * (2 * 1024**2 + 2 * 1024)


@pytest.mark.parametrize(
    "settings",
    [
        {"residual": True}, {"architecture": "lstm"}, {"architecture": "lstm", "residual": True},
        {"architecture": "transformer"}, {"split_softmax": [50, 100]}, {"longest_ngram": 4},
        {"recall_orders": [2, 3]},
    ],
)  # fmt: skip
def test_counting_builds_the_same_model(settings: dict[str, object]) -> None:
    config = ModelConfig(embed_dim=32, **settings)
    assert count_parameters(config) == LanguageModel(config).num_parameters()


def test_initialisation_is_the_originals() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=205, embed_dim=128, attention_layers="all"))
    bound = 1 / math.sqrt(128)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            expected = torch.ones_like(parameter) if "weight" in name else 0 * parameter
            assert torch.equal(parameter, expected)
        elif "lstm" in name:
            assert parameter.abs().max() <= bound
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.1 / math.sqrt(128), rel=0.05), name
        else:
            assert not parameter.any(), name
    tokens = torch.randint(205, (4, 32))
    nats, _ = model.nats(tokens, tokens, model.initial_state(4))
    assert nats.mean().item() == pytest.approx(math.log(205), abs=0.05)


def test_forget_bias() -> None:
    torch.manual_seed(0)
    plain = LanguageModel(ModelConfig(embed_dim=16)).blocks[0].lstm.bias_ih_l0
    torch.manual_seed(0)
    raised = LanguageModel(ModelConfig(embed_dim=16, forget_bias=1.5)).blocks[0].lstm.bias_ih_l0
    difference = (raised - plain).view(4, 16)
    assert torch.allclose(difference, torch.tensor([0.0, 1.5, 0.0, 0.0])[:, None])


@pytest.mark.parametrize("overparam", [True, False])
@torch.no_grad()
def test_folding_changes_no_output(overparam: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        embed_dim=16, window=9, attention_layers="all", overparam_value_gate=overparam
    )
    model = stir(LanguageModel(config).double().eval(), 0.2)
    folded = model.fold()
    tokens = torch.randint(256, (2, 20))
    ours, _ = folded(tokens, folded.initial_state(2))
    expected, _ = model(tokens, model.initial_state(2))
    torch.testing.assert_close(ours, expected)
    assert not folded.config.overparam_value_gate
    saved = 4 * (2 * 16**2 + 2 * 16) if overparam else 0
    assert model.num_parameters() - folded.num_parameters() == saved
    assert LanguageModel(folded.config).load_state_dict(folded.state_dict())


def test_windows_that_cannot_be_meant() -> None:
    model = LanguageModel(ModelConfig(embed_dim=16, attention_layers="none"))
    with pytest.raises(ConfigError, match="no attention memory"):
        model.set_window(5)
    transformer = LanguageModel(ModelConfig(architecture="transformer", embed_dim=16))
    with pytest.raises(ConfigError, match="at least 1"):
        transformer.set_window(0)


def test_states_go_through_tensors() -> None:
    model = LanguageModel(ModelConfig(embed_dim=16, window=5))
    _, state = model(torch.randint(256, (3, 7)), model.initial_state(3))
    state = state.detach().reset([1])
    again = RecurrentState.from_tensors(state.to_tensors(), 4)
    for name, tensor in state.to_tensors().items():
        assert torch.equal(again.to_tensors()[name], tensor)
    assert again.num_lanes == 3
    assert state.is_finite()
    assert state.num_bytes() > 0
    assert state.to(torch.float64).layers[0].hidden.dtype == torch.float64
    with pytest.raises(IndexError, match="lane 3"):
        state.reset([3])
