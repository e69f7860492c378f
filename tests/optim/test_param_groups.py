"""Every weight has exactly one optimiser."""

from __future__ import annotations

import pytest
import torch

from sharnn.config import ModelConfig, OptimConfig
from sharnn.model import LanguageModel
from sharnn.optim import Muon, make_optimizers, split_matrices


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(ModelConfig(embed_dim=16, window=8))


@pytest.mark.parametrize("name", ["lamb", "adamw", "muon"])
def test_every_parameter_is_moved_once(name: str, model: LanguageModel) -> None:
    optimizers = make_optimizers(model, OptimConfig(name=name, weight_decay=0.01))
    moved = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    nats, _ = model.nats(
        torch.randint(256, (2, 8)), torch.randint(256, (2, 8)), model.initial_state(2)
    )
    nats.mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert all(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )


def test_muon_moves_matrices_at_its_own_rate(model: LanguageModel) -> None:
    adamw, muon = make_optimizers(model, OptimConfig(name="muon", lr=1e-3, matrix_lr=0.02))
    assert isinstance(muon, Muon)
    matrices, _ = split_matrices(model)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for p in matrices]
    assert {g["base_lr"] for g in adamw.param_groups} == {1e-3}
    assert {g["base_lr"] for g in muon.param_groups} == {0.02}
    assert all(p is not model.embedding.weight for p in matrices)


def test_adamw_decays_no_gains_and_biases(model: LanguageModel) -> None:
    (adamw,) = make_optimizers(model, OptimConfig(weight_decay=0.1))
    for group in adamw.param_groups:
        assert all((p.ndim == 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_rows_of_a_split_softmax_are_no_maps() -> None:
    model = LanguageModel(ModelConfig(embed_dim=16, num_layers=1, split_softmax=[10, 50]))
    matrices, others = split_matrices(model)
    rows = model.softmax.tail_vectors
    assert any(p is rows for p in others)
    assert all(p is not rows for p in matrices)
