"""A position's n-gram row is that of its last n tokens and of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model import LanguageModel
from sharnn.model.ngrams import NgramEmbedding


def look_up(embedding: NgramEmbedding, text: list[int]) -> Tensor:
    tokens = torch.tensor([text])
    return embedding(tokens, embedding.no_tokens(1))[0][0]


@pytest.fixture
def embedding() -> NgramEmbedding:
    torch.manual_seed(0)
    made = NgramEmbedding(dim=14, longest=4, num_rows=5_003)
    with torch.no_grad():
        for table in made.tables:
            table.weight.normal_()
    return made


def test_each_order_fills_its_own_features(embedding: NgramEmbedding) -> None:
    """Two texts that agree in the last n tokens agree in the orders up to n, and in no other."""
    width = 14 // 3
    whole = look_up(embedding, [9, 7, 5, 3])[-1]
    for shared in (2, 3):
        other = look_up(embedding, [1] * (4 - shared) + [9, 7, 5, 3][4 - shared :])[-1]
        same = (shared - 1) * width
        assert torch.equal(whole[:same], other[:same])
        assert not torch.isclose(whole[same : 3 * width], other[same : 3 * width]).any()
    assert torch.equal(whole[3 * width :], torch.zeros(14 - 3 * width))


def test_a_texts_beginning_is_unlike_any_token(embedding: NgramEmbedding) -> None:
    at_start = look_up(embedding, [4])[0]
    for before in range(256):
        assert not torch.equal(at_start, look_up(embedding, [before, 4])[1])


def test_rows_are_spread_evenly() -> None:
    """All 65,536 pairs of bytes over 1,024 rows: no row has many more than its share."""
    embedding = NgramEmbedding(dim=2, longest=2, num_rows=1_024)
    with torch.no_grad():
        embedding.tables[0].weight.copy_(torch.arange(1_024.0)[:, None].expand(-1, 2))
    firsts = torch.arange(256).repeat_interleave(256)
    tokens = torch.stack([firsts, torch.arange(256).repeat(256)], dim=1)
    rows = embedding(tokens, embedding.no_tokens(len(tokens)))[0][:, 1, 0].long()
    counts = rows.bincount(minlength=1_024)
    assert counts.min() > 20
    assert counts.max() < 130


def test_only_rows_of_the_text_get_a_gradient() -> None:
    config = ModelConfig(embed_dim=12, num_layers=1, window=4, longest_ngram=3, ngram_rows=64)
    model = LanguageModel(config)
    model(torch.tensor([[1, 2, 3]]), model.initial_state(1))[0].sum().backward()
    assert model.ngrams is not None
    for table in model.ngrams.tables:
        assert (table.weight.grad.abs().sum(1) > 0).sum() <= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"longest_ngram": 1}, "give 2 or more"),
        ({"longest_ngram": 99}, "at most"),
        ({"longest_ngram": 3, "ngram_rows": 0}, "at least 1"),
        ({"ngram_rows": 64}, "no n-grams are embedded"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(embed_dim=16, **settings)
