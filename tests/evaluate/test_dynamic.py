"""Dynamic evaluation: scored before it is learnt, by the paper's rules, and on a copy."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import make_model
from sharnn.data.corpus import Split
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import (
    ContinuousCache,
    DynamicRule,
    GradientStatistics,
    RmsRule,
    SgdRule,
    evaluate_dynamic,
    evaluate_static,
    gather_statistics,
)
from sharnn.model import LanguageModel
from sharnn.ops import REFERENCE
from sharnn.text import ByteTokenizer
from texts import reference_text, write_text

BYTES = ByteTokenizer()
SEGMENT = 50
ARCHITECTURES = [
    {"residual": True, "longest_ngram": 3, "ngram_rows": 64},
    {"attention_layers": [0, 1]},
    {"architecture": "lstm", "window": None},
    {"architecture": "transformer", "num_heads": 2},
]


def split_of(folder: Path, text: bytes) -> Split:
    path = folder / "text.txt"
    path.write_bytes(text)
    return prepare([str(path)]).split("all")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_model(residual=True).eval()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return prepare([str(write_text(tmp_path_factory.mktemp("texts"), 430))]).split("all")


@pytest.fixture(scope="module")
def statistics(model: LanguageModel, split: Split) -> GradientStatistics:
    return gather_statistics(model, BYTES, split, segment_length=SEGMENT)


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_without_learning_it_is_static(settings: dict[str, object], split: Split) -> None:
    model = make_model(**settings).double()
    static = evaluate_static(model, BYTES, split)
    score = evaluate_dynamic(model, BYTES, split, SgdRule(lr=0), segment_length=SEGMENT)
    assert score.nats == pytest.approx(static.nats, rel=1e-6)
    counts = ("protocol", "num_tokens", "num_bytes", "num_chars", "num_words", "unscored_tokens")
    assert [getattr(score, c) for c in counts] == [getattr(static, c) for c in counts]


@pytest.mark.parametrize("kind", ["sgd", "rms"])
def test_a_segment_is_scored_before_it_is_learnt(
    model: LanguageModel, statistics: GradientStatistics, kind: str, tmp_path: Path
) -> None:
    """What comes later changes no earlier nats, and what came earlier changes later ones."""
    rule: DynamicRule = SgdRule(0.5) if kind == "sgd" else RmsRule(0.01)
    known = statistics if kind == "rms" else None
    text = reference_text(4 * SEGMENT)

    def nats_until_each_segment(text: bytes) -> list[float]:
        cuts = range(SEGMENT, len(text) + 1, SEGMENT)
        return [
            evaluate_dynamic(
                model, BYTES, split_of(tmp_path, text[:cut]), rule, statistics=known,
                segment_length=SEGMENT, cache=ContinuousCache(30, 0.2, 0.1),
            ).nats
            for cut in cuts
        ]  # fmt: skip

    base = nats_until_each_segment(text)
    first = evaluate_static(
        model, BYTES, split_of(tmp_path, text[:SEGMENT]), cache=ContinuousCache(30, 0.2, 0.1)
    )
    assert base[0] == pytest.approx(first.nats, rel=1e-6)  # by the weights that training left
    for changed in range(4):
        start = changed * SEGMENT
        other = (
            text[:start] + bytes(reversed(text[start : start + SEGMENT])) + text[start + SEGMENT :]
        )
        nats = nats_until_each_segment(other)
        assert nats[:changed] == base[:changed]
        assert nats[changed:] != base[changed:]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_given_is_not_altered(
    split: Split, statistics: GradientStatistics, training: bool
) -> None:
    model = make_model(residual=True).train(training).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():  # a caller who needs no gradients may well have said so
        evaluate_dynamic(model, BYTES, split, RmsRule(0.01), statistics=statistics, window=3)
        gather_statistics(model, BYTES, split, window=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training == training
    assert model.window == 8
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


def by_hand(model: LanguageModel, text: bytes, rule: DynamicRule, rms: list[torch.Tensor]) -> float:
    """Score a text of two segments as the paper writes it, with autograd and the reference operations."""
    tokens = torch.tensor([[10, *text]])
    weights, state, nats = list(model.parameters()), model.initial_state(1), 0.0
    trained = [weight.detach().clone() for weight in weights]
    average = sum(float(r.mean()) for r in rms) / len(rms)
    for start in range(0, len(text), SEGMENT):
        stop = min(start + SEGMENT, len(text))
        model.zero_grad()
        nats_1T, state = model.nats(tokens[:, start:stop], tokens[:, start + 1 : stop + 1], state)
        state = state.detach()
        nats += nats_1T.sum().item()
        nats_1T.mean().backward()
        with torch.no_grad():
            for weight, origin, r in zip(weights, trained, rms, strict=True):
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                if isinstance(rule, SgdRule):
                    weight += -rule.lr * gradient + rule.decay * (origin - weight)
                else:
                    norm = torch.minimum(r / average, torch.tensor(1 / rule.decay))
                    down = rule.lr * gradient / (r + rule.epsilon)
                    weight += -down + rule.decay * (origin - weight) * norm
    return nats


@pytest.mark.parametrize("settings", ARCHITECTURES)
@pytest.mark.parametrize("rule", [SgdRule(0.3, 0.2), RmsRule(0.02, 0.3, 1e-2)])
def test_a_step_is_the_papers(settings: dict[str, object], rule: DynamicRule, split: Split) -> None:
    """After two segments the third tells whether the weights went where the rule says."""
    model = make_model(**settings).double()
    training = SEGMENT * 2
    gathered = gather_statistics(model, BYTES, split, num_tokens=training, segment_length=SEGMENT)
    squares = [torch.zeros_like(weight) for weight in model.parameters()]
    text, twin = bytes(split.tokens[: 3 * SEGMENT - 7]), make_model(**settings).double()
    twin.ops, state, tokens = REFERENCE, twin.initial_state(1), torch.tensor([[10, *text]])
    for start in range(0, training, SEGMENT):
        part = tokens[:, start : start + SEGMENT + 1]
        nats_1T, state = twin.nats(part[:, :-1], part[:, 1:], state.detach())
        twin.zero_grad()
        nats_1T.mean().backward()
        for total, weight in zip(squares, twin.parameters(), strict=True):
            total += 0 if weight.grad is None else weight.grad**2 / 2
    twin.zero_grad()
    for total, mean_square in zip(squares, gathered.mean_squares.values(), strict=True):
        torch.testing.assert_close(mean_square, total, rtol=1e-5, atol=1e-12)
    assert gathered.num_tokens == training

    part = replace(split, tokens=split.tokens[: len(text)], num_tokens=len(text))
    score = evaluate_dynamic(
        model, BYTES, part, rule, segment_length=SEGMENT,
        statistics=gathered if isinstance(rule, RmsRule) else None,
    )  # fmt: skip
    static = evaluate_static(model, BYTES, part).nats
    expected = by_hand(twin, text, rule, [s.sqrt() for s in squares])
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert abs(expected - static) > 1e-3 * static


def test_decay_pulls_back(model: LanguageModel, split: Split) -> None:
    """With all of the way back, what a segment taught is forgotten but for its own last step."""
    nats = [
        evaluate_dynamic(model, BYTES, split, SgdRule(0.2, decay), segment_length=SEGMENT).nats
        for decay in (0.0, 0.5, 1.0)
    ]
    static = evaluate_static(model, BYTES, split).nats
    gains = [static - n for n in nats]
    assert gains[0] > gains[1] > gains[2] > 0


def test_a_text_that_repeats_itself_is_told_better(model: LanguageModel, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(97, 123, 60, dtype=np.uint8).tobytes()
    split = split_of(tmp_path, noise * 12)
    statistics = gather_statistics(model, BYTES, split, segment_length=SEGMENT)
    static = evaluate_static(model, BYTES, split)
    sgd = evaluate_dynamic(model, BYTES, split, SgdRule(0.5), segment_length=SEGMENT)
    rms = evaluate_dynamic(
        model, BYTES, split, RmsRule(0.01), statistics=statistics, segment_length=SEGMENT
    )
    assert max(sgd.nats, rms.nats) < 0.9 * static.nats
    assert sgd.settings["dynamic"] == {**SgdRule(0.5).to_dict(), "segment_length": SEGMENT}
    assert rms.settings["dynamic"]["statistics_tokens"] == 720
    assert sgd.num_bytes == rms.num_bytes == 720


def test_the_state_is_carried_and_segments_matter(model: LanguageModel, split: Split) -> None:
    """Not less is read than by fixed weights; how often they move alters the score."""
    short, long = (
        evaluate_dynamic(model, BYTES, split, SgdRule(0.3), segment_length=n).nats for n in (10, 90)
    )
    cold = evaluate_dynamic(model, BYTES, split, SgdRule(0.0), segment_length=10, window=1).nats
    assert short != pytest.approx(long, rel=1e-4)
    assert cold != pytest.approx(evaluate_static(model, BYTES, split).nats, rel=1e-6)
    assert cold == pytest.approx(evaluate_static(model, BYTES, split, window=1).nats, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SgdRule(lr=-1), "lr is -1"),
        (lambda: RmsRule(lr=math.inf), "lr is inf"),
        (lambda: SgdRule(decay=1.5), "decay is 1.5"),
        (lambda: RmsRule(decay=math.nan), "decay is nan"),
        (lambda: RmsRule(epsilon=0), "epsilon is 0"),
    ],
)
def test_bad_rules(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_bad_input(
    model: LanguageModel, split: Split, statistics: GradientStatistics, tmp_path: Path
) -> None:
    empty = prepare([str(write_text(tmp_path, 1))]).split("train")
    with pytest.raises(DataError, match="no token to score"):
        evaluate_dynamic(model, BYTES, empty, SgdRule())
    with pytest.raises(DataError, match="no token"):
        gather_statistics(model, BYTES, empty)
    with pytest.raises(ConfigError, match="num_tokens is 0"):
        gather_statistics(model, BYTES, split, num_tokens=0)
    with pytest.raises(ConfigError, match="segment_length"):
        evaluate_dynamic(model, BYTES, split, SgdRule(), segment_length=0)
    with pytest.raises(ConfigError, match="needs statistics"):
        evaluate_dynamic(model, BYTES, split, RmsRule())
    with pytest.raises(ConfigError, match="statistics do nothing"):
        evaluate_dynamic(model, BYTES, split, SgdRule(), statistics=statistics)
    with pytest.raises(ConfigError, match="another model"):
        evaluate_dynamic(make_model(embed_dim=8), BYTES, split, RmsRule(), statistics=statistics)
    with pytest.raises(ConfigError, match=r"diverged after \d+ tokens: lr 1e\+30"):
        evaluate_dynamic(model, BYTES, split, SgdRule(1e30))
