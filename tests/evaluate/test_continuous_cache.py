"""The continuous cache: its definition, its recurrence law, and what it is good for."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import make_model
from sharnn.data.corpus import Split
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError
from sharnn.evaluate import ContinuousCache, evaluate_dynamic, evaluate_static
from sharnn.evaluate.dynamic import SgdRule
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text

BYTES = ByteTokenizer()
SPLIT_SOFTMAX = {"vocab_size": 50, "split_softmax": [20, 35]}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_model(residual=True).double().eval()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return prepare([str(write_text(tmp_path_factory.mktemp("texts"), 700))]).split("all")


@torch.no_grad()
def hidden_states(model: LanguageModel, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return nats, hidden states and targets of two lanes of a random text with few tokens."""
    vocab = min(model.config.vocab_size, 12)
    tokens = torch.randint(vocab, (2, num_tokens + 1), generator=torch.Generator().manual_seed(1))
    hidden, _ = model.hidden(tokens[:, :-1], model.initial_state(2))
    targets = tokens[:, 1:]
    return model.softmax.nats(hidden, model.embedding.weight, targets), hidden, targets


def by_the_book(
    cache: ContinuousCache, nats: Tensor, hidden: Tensor, targets: Tensor
) -> list[list[float]]:
    """Add up the paper's sums, position by position, in one lane after the other."""
    lanes = []
    for nats_T, hidden_TD, targets_T in zip(nats, hidden, targets, strict=True):
        scores = []
        for t in range(len(targets_T)):
            said, total = 0.0, 0.0
            for i in range(max(t - cache.size, 0), t):
                likeness = math.exp(cache.flatness * float(hidden_TD[t] @ hidden_TD[i]))
                said += likeness * bool(targets_T[i] == targets_T[t])
                total += likeness
            p_model = math.exp(-float(nats_T[t]))
            p = (1 - cache.weight) * p_model + cache.weight * said / total if t else p_model
            scores.append(-math.log(p))
        lanes.append(scores)
    return lanes


@pytest.mark.parametrize("settings", [{}, SPLIT_SOFTMAX], ids=["tied", "split"])
def test_it_is_the_papers_sum(settings: dict[str, object]) -> None:
    model = make_model(residual=True, **settings).double().eval()
    nats, hidden, targets = hidden_states(model, 40)
    cache = ContinuousCache(13, weight=0.3, flatness=0.2)
    mixed, _ = cache.mix(nats.double(), hidden, targets, cache.initial_state(model, 2))
    expected = torch.tensor(by_the_book(cache, nats, hidden, targets), dtype=torch.float64)
    torch.testing.assert_close(mixed, expected, rtol=1e-9, atol=1e-12)
    assert (mixed < nats).any()
    assert (mixed > nats).any()


@settings(max_examples=25)
@given(size=st.integers(1, 60), cuts=st.lists(st.integers(1, 49), max_size=6))
def test_one_segment_equals_any_cuts(model: LanguageModel, size: int, cuts: list[int]) -> None:
    nats, hidden, targets = hidden_states(model, 50)
    cache = ContinuousCache(size, weight=0.4, flatness=0.3)
    empty = cache.initial_state(model, 2)
    whole, after = cache.mix(nats, hidden, targets, empty)
    state, parts, bounds = empty, [], [0, *sorted(cuts), 50]
    for start, stop in pairwise(bounds):
        part = slice(start, stop)
        mixed, state = cache.mix(nats[:, part], hidden[:, part], targets[:, part], state)
        parts.append(mixed)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert torch.equal(state.hidden_BMD, after.hidden_BMD)
    assert torch.equal(state.targets_BM, after.targets_BM)
    assert after.targets_BM.shape[1] == min(size, 50)
    assert empty.targets_BM.shape[1] == 0


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, SPLIT_SOFTMAX], ids=["tied", "split"])
@pytest.mark.parametrize("num_before", [0, 1, 30])
def test_probabilities_add_up_to_one(num_before: int, settings: dict[str, object]) -> None:
    """Every token of the vocabulary is what comes next, each in a lane of its own."""
    model = make_model(residual=True, **settings).double().eval()
    vocab = model.config.vocab_size
    tokens = torch.randint(12, (1, num_before + 2), generator=torch.Generator().manual_seed(2))
    hidden, _ = model.hidden(tokens[:, :-1].expand(vocab, -1), model.initial_state(vocab))
    targets = tokens[:, 1:].repeat(vocab, 1)
    targets[:, -1] = torch.arange(vocab)
    nats = model.softmax.nats(hidden, model.embedding.weight, targets)
    cache = ContinuousCache(20, weight=0.5, flatness=0.4)
    mixed, _ = cache.mix(nats.double(), hidden, targets, cache.initial_state(model, vocab))
    assert (-mixed[:, -1]).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_a_score_says_how_far_the_memory_reached(model: LanguageModel, split: Split) -> None:
    assert evaluate_static(model, BYTES, split, window=3).settings == {"memory": {"window": 3}}
    other = copy.deepcopy(model)
    other.set_window(5)
    assert evaluate_static(other, BYTES, split).settings == {"memory": {"window": 5}}


def test_without_weight_it_says_nothing(model: LanguageModel, split: Split) -> None:
    static = evaluate_static(model, BYTES, split)
    silent = evaluate_static(model, BYTES, split, cache=ContinuousCache(100, weight=0))
    assert silent.nats == pytest.approx(static.nats, rel=1e-12)
    assert static.settings == {"memory": {"window": 8}}
    assert silent.settings.keys() == {"memory", "cache"}
    assert silent.settings["cache"]["size"] == 100


@pytest.mark.parametrize(("segment_length", "size"), [(7, 40), (100, 1), (100, 650), (701, 40)])
def test_segments_do_not_change_a_score(
    model: LanguageModel, split: Split, segment_length: int, size: int
) -> None:
    cache = ContinuousCache(size, weight=0.2, flatness=0.3)
    base = evaluate_static(model, BYTES, split, cache=cache)
    score = evaluate_static(model, BYTES, split, cache=cache, segment_length=segment_length)
    assert score.nats == pytest.approx(base.nats, rel=1e-6)
    assert score.num_bytes == score.num_tokens == split.num_bytes


def test_a_text_that_repeats_itself_is_told_better(model: LanguageModel, tmp_path: Path) -> None:
    """Also where the weights learn as well: both at once are better than either."""
    noise = np.random.default_rng(0).integers(97, 123, 60, dtype=np.uint8).tobytes()
    path = tmp_path / "again.txt"
    path.write_bytes(noise * 12)
    split, cache = prepare([str(path)]).split("all"), ContinuousCache(200, 0.2, 0.3)
    static = evaluate_static(model, BYTES, split).nats
    cached = evaluate_static(model, BYTES, split, cache=cache).nats
    dynamic = evaluate_dynamic(model, BYTES, split, SgdRule(0.5), segment_length=30)
    both = evaluate_dynamic(model, BYTES, split, SgdRule(0.5), segment_length=30, cache=cache)
    assert cached < 0.95 * static
    assert both.nats < min(cached, dynamic.nats)
    assert set(both.settings) == {"memory", "dynamic", "cache"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 5, "weight": 1.0}, "weight is 1.0"),
        ({"size": 5, "weight": -0.1}, "weight is -0.1"),
        ({"size": 5, "weight": math.nan}, "weight is nan"),
        ({"size": 5, "flatness": -1.0}, "flatness is -1.0"),
        ({"size": 5, "flatness": math.inf}, "flatness is inf"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContinuousCache(**settings)


def test_the_paper_protocol_has_no_cache(model: LanguageModel, split: Split) -> None:
    with pytest.raises(ConfigError, match="cache does not go with protocol 'paper'"):
        evaluate_static(model, BYTES, split, protocol="paper", cache=ContinuousCache(9))
