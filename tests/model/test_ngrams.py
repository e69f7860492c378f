"""A position's n-gram row is that of its last n tokens and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model import LanguageModel, ngrams
from sharnn.model.ngrams import NgramEmbedding, frequent_ngrams
from sharnn.model.state import NO_TOKEN


def look_up(embedding: NgramEmbedding, text: list[int]) -> Tensor:
    return embedding(torch.tensor([[NO_TOKEN] * (embedding.longest - 1) + text]))[0]


TEXT = np.random.default_rng(0).integers(10, size=2_000)


@pytest.fixture
def embedding() -> NgramEmbedding:
    torch.manual_seed(0)
    made = NgramEmbedding(dim=14, longest=4, num_rows=1_500)
    made.learn_vocabulary(TEXT, min_count=1)
    with torch.no_grad():
        for table in made.tables:
            table.weight.normal_()
    return made


def test_each_order_fills_its_own_features(embedding: NgramEmbedding) -> None:
    """Two texts that agree in the last n tokens agree in the orders up to n, and in no other."""
    width, known = 14 // 3, TEXT[100:104].tolist()
    whole = look_up(embedding, known)[-1]
    assert whole[: 3 * width].all()
    for shared in (2, 3):
        other = look_up(embedding, [11] * (4 - shared) + known[4 - shared :])[-1]
        same = (shared - 1) * width
        assert torch.equal(whole[:same], other[:same])
        assert not torch.isclose(whole[same : 3 * width], other[same : 3 * width]).any()
    assert torch.equal(whole[3 * width :], torch.zeros(14 - 3 * width))


def test_a_text_begins_with_nothing_known(embedding: NgramEmbedding) -> None:
    tokens = TEXT[100:104].tolist()
    rows, width = look_up(embedding, tokens), 14 // 3
    for place in range(4):
        assert rows[place, : place * width].all()
        assert not rows[place, place * width :].any()


def test_an_n_gram_that_the_text_has_not_often_enough_adds_nothing() -> None:
    embedding = NgramEmbedding(dim=2, longest=3, num_rows=5)
    embedding.learn_vocabulary(np.array([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4]), min_count=2)
    with torch.no_grad():
        for table in embedding.tables:
            table.weight.fill_(1.0)
    pairs_and_triples = look_up(embedding, [1, 2, 3, 4, 1, 2, 3, 5, 1, 9])
    assert pairs_and_triples[:, 0].tolist() == [0, 1, 1, 1, 0, 1, 1, 0, 0, 0]
    assert pairs_and_triples[:, 1].tolist() == [0, 0, 1, 1, 0, 0, 1, 0, 0, 0]


def test_the_most_frequent_get_the_rows() -> None:
    embedding = NgramEmbedding(dim=1, longest=2, num_rows=2)
    embedding.learn_vocabulary(np.array([1, 2, 1, 2, 1, 2, 5, 6, 7]), min_count=1)
    with torch.no_grad():
        embedding.tables[0].weight.fill_(1.0)
    assert look_up(embedding, [1, 2, 1, 5, 6])[:, 0].tolist() == [0, 1, 1, 0, 0]


def test_of_a_long_text_stretches_from_all_over_it_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ngrams, "COUNTED_TOKENS", 64)
    text = np.arange(6_400)
    assert (
        len(frequent_ngrams(text, longest=2, min_count=1)[0]) == 63
    )  # the first has none before it
    ends = NgramEmbedding(dim=1, longest=2, num_rows=64)
    monkeypatch.setattr(ngrams, "_STRETCHES", 2)
    ends.learn_vocabulary(text, min_count=1)
    with torch.no_grad():
        ends.tables[0].weight.fill_(1.0)
    for start, known in ((0, 1), (3_200, 0), (6_398, 1)):
        assert look_up(ends, [start, start + 1])[1, 0] == known


def test_vocabulary_is_kept_with_the_weights(embedding: NgramEmbedding) -> None:
    again = NgramEmbedding(dim=14, longest=4, num_rows=1_500)
    again.load_state_dict(embedding.state_dict())
    text = TEXT[:50].tolist()
    assert torch.equal(look_up(again, text), look_up(embedding, text))


def test_only_rows_of_the_text_get_a_gradient() -> None:
    config = ModelConfig(embed_dim=12, num_layers=1, window=4, longest_ngram=3, ngram_rows=64)
    model = LanguageModel(config)
    assert model.ngrams is not None
    model.ngrams.learn_vocabulary(np.array([0, 0, 1, 2, 3, 4]), min_count=1)
    model(torch.tensor([[1, 2, 3, 9]]), model.initial_state(1))[0].sum().backward()
    for table, expected in zip(model.ngrams.tables, (2, 1), strict=True):
        assert (table.weight.grad.abs().sum(1) > 0).sum() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"longest_ngram": 1}, "give 2 or more"),
        ({"longest_ngram": 99}, "at most"),
        ({"longest_ngram": 3, "ngram_rows": 0}, "at least 1"),
        ({"longest_ngram": 3, "ngram_min_count": 0}, "at least 1"),
        ({"ngram_rows": 64}, "no n-grams are embedded"),
        ({"ngram_min_count": 5}, "no n-grams are embedded"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(embed_dim=16, **settings)


@pytest.mark.parametrize("num_tokens", [0, 1, 3])
def test_a_text_shorter_than_an_ngram_has_none(num_tokens: int) -> None:
    keys = frequent_ngrams(np.arange(num_tokens), longest=4, min_count=1)
    assert [len(k) for k in keys] == [0, 0, 0]
