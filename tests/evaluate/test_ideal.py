"""The ideal sliding window: each token from a fresh state and exactly its context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import make_model
from sharnn.data.corpus import Split
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import evaluate_ideal, evaluate_static
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text

BYTES, NUM_BYTES = ByteTokenizer(), 60
ARCHITECTURES = {
    "sha-rnn": {"residual": True, "longest_ngram": 3, "ngram_rows": 64, "recall_orders": [2]},
    "lstm": {"architecture": "lstm", "window": None},
    "transformer": {"architecture": "transformer", "num_heads": 2, "window": 12},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(**ARCHITECTURES[request.param]).double()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return prepare([str(write_text(tmp_path_factory.mktemp("texts"), NUM_BYTES))]).split("all")


@torch.no_grad()
def by_hand(model: LanguageModel, text: bytes, context: int, stride: int) -> float:
    """Predict each token from a fresh state; with a stride, from as little as its window holds."""
    tokens, nats = [10, *text], 0.0
    for index in range(len(text)):
        before = index + 1  # tokens that stand before it, the start token among them
        if before <= context:
            first = 0
        else:  # the window that scores it ends at the next multiple of the stride, or with the text
            late = (before - context - 1) // stride + 1
            first = min(late * stride, len(text) - context)
        seen = torch.tensor([tokens[first:before]])
        logits, _ = model(seen, model.initial_state(1))
        nats -= logits[0, -1].log_softmax(-1)[text[index]].item()
    return nats


@pytest.mark.parametrize("context", [1, 2, 12, 59, 60, 80])
def test_every_token_has_exactly_its_context(
    model: LanguageModel, split: Split, context: int
) -> None:
    score = evaluate_ideal(model, BYTES, split, context=context)
    assert score.nats == pytest.approx(by_hand(model, bytes(split.tokens), context, 1), rel=1e-6)
    assert score.protocol == "ideal"
    assert score.num_bytes == score.num_tokens == NUM_BYTES
    assert score.num_words == len(bytes(split.tokens).split())
    assert score.unscored_bytes == 0
    assert score.settings["ideal"] == {"context": context, "stride": 1}
    reach = score.settings.get("memory", {})
    assert reach.get("window") == (model.window if model.has_memory else None)
    assert reach.get("recall_slots") == (65_536 if model.recall is not None else None)


@pytest.mark.parametrize(
    ("context", "stride"), [(7, 3), (10, 10), (25, 13), (57, 3), (59, 59), (70, 9)]
)
def test_a_stride_scores_its_tokens_with_one_window(
    model: LanguageModel, split: Split, context: int, stride: int
) -> None:
    score = evaluate_ideal(model, BYTES, split, context=context, stride=stride)
    expected = by_hand(model, bytes(split.tokens), context, stride)
    assert score.nats == pytest.approx(expected, rel=1e-6)


def test_with_all_the_text_as_context_it_is_strict(model: LanguageModel, split: Split) -> None:
    strict = evaluate_static(model, BYTES, split)
    for context in (NUM_BYTES, 1000):
        assert evaluate_ideal(model, BYTES, split, context=context).nats == pytest.approx(
            strict.nats, rel=1e-6
        )
    assert evaluate_ideal(model, BYTES, split, context=5).nats != pytest.approx(
        strict.nats, rel=1e-6
    )


def test_a_transformer_without_depth_needs_no_more_than_its_window(split: Split) -> None:
    """One layer reaches its window and not beyond: carried or read afresh, it sees the same."""
    model = make_model(architecture="transformer", num_heads=2, num_layers=1).double()
    strict = evaluate_static(model, BYTES, split).nats
    assert evaluate_ideal(model, BYTES, split, context=8).nats == pytest.approx(strict, rel=1e-6)
    narrow = evaluate_ideal(model, BYTES, split, context=8, window=4).nats
    assert narrow == pytest.approx(evaluate_static(model, BYTES, split, window=4).nats, rel=1e-6)
    assert narrow != pytest.approx(strict, rel=1e-6)
    assert model.window == 8


def test_progress_ends_with_all_tokens(split: Split) -> None:
    told: list[tuple[int, int]] = []
    evaluate_ideal(
        make_model(), BYTES, split, context=20, stride=7,
        report=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == sorted(told)
    assert told[0] == (20, NUM_BYTES)
    assert told[-1] == (NUM_BYTES, NUM_BYTES)


def test_bad_input(split: Split, tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match="context is 0"):
        evaluate_ideal(model, BYTES, split, context=0)
    with pytest.raises(ConfigError, match="stride is 0"):
        evaluate_ideal(model, BYTES, split, context=5, stride=0)
    with pytest.raises(ConfigError, match="stride is 6: it must be from 1 to context 5"):
        evaluate_ideal(model, BYTES, split, context=5, stride=6)
    empty = prepare([str(write_text(tmp_path, 1))]).split("train")
    with pytest.raises(DataError, match="no token to score"):
        evaluate_ideal(model, BYTES, empty, context=5)
