"""Scores: every byte once, whatever the segments, and the paper's way of counting."""

from __future__ import annotations

import math
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharnn.config import ModelConfig
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import evaluate_static, score_lanes
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=16, num_layers=2, window=20, residual=True)
    return LanguageModel(config).double()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("texts")
    path = write_text(folder, 900)
    path.write_bytes(path.read_bytes() + "\nGrüße, 日本\n".encode())
    return prepare([str(path)])


@torch.no_grad()
def test_strict_is_the_sum_over_every_byte(model: LanguageModel, corpus: object) -> None:
    split = corpus.split("all")
    score = evaluate_static(model, corpus.tokenizer, split)
    data = np.asarray(split.tokens).tobytes()
    tokens = torch.tensor([[10, *data]])
    logits, _ = model(tokens[:, :-1], model.initial_state(1))
    expected = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum().item()
    assert score.nats == pytest.approx(expected, rel=1e-6)
    assert score.num_bytes == score.num_tokens == len(data)
    assert score.num_chars == len(data.decode())
    assert score.num_words == len(data.split())
    assert score.unscored_tokens == score.unscored_bytes == 0
    assert score.bits_per_byte == pytest.approx(expected / math.log(2) / len(data))
    assert score.bits_per_char > score.bits_per_byte
    assert score.word_perplexity == pytest.approx(math.exp(expected / len(data.split())))


@given(segment_length=st.integers(1, 1200), window=st.integers(0, 40))
def test_segments_do_not_change_a_strict_score(
    model: LanguageModel, corpus: object, segment_length: int, window: int
) -> None:
    split = corpus.split("test")
    base = evaluate_static(model, corpus.tokenizer, split, window=window)
    score = evaluate_static(
        model, corpus.tokenizer, split, window=window, segment_length=segment_length
    )
    assert score.nats == pytest.approx(base.nats, rel=1e-6)


def test_a_longer_window_is_in_force_and_put_back(model: LanguageModel, corpus: object) -> None:
    split = corpus.split("all")
    scores = {
        window: evaluate_static(model, corpus.tokenizer, split, window=window).nats
        for window in (None, 20, 900)
    }
    assert scores[None] == scores[20] != scores[900]
    assert model.window == 20


@torch.no_grad()
def test_paper_counts_as_the_original_did(model: LanguageModel, corpus: object) -> None:
    """Lanes that start cold, no first token, no tail, and a division by rows."""
    split, lanes = corpus.split("all"), 4
    rows = split.num_tokens // lanes
    score = evaluate_static(
        model, corpus.tokenizer, split, protocol="paper", num_lanes=lanes, segment_length=50
    )
    per_lane = torch.from_numpy(np.asarray(split.tokens[: rows * lanes]).astype(np.int64))
    nats, _ = model.nats(
        per_lane.view(lanes, rows)[:, :-1], per_lane.view(lanes, rows)[:, 1:],
        model.initial_state(lanes),
    )  # fmt: skip
    assert score.bits_per_token == pytest.approx(
        nats.sum().item() / lanes / rows / math.log(2), rel=1e-6
    )
    assert score.num_tokens == lanes * (rows - 1)
    assert score.unscored_tokens == split.num_tokens - lanes * (rows - 1)
    assert score.num_bytes + score.unscored_bytes == split.num_bytes


def test_lanes_score_every_token_but_the_first_of_each(model: LanguageModel) -> None:
    tokens = np.arange(103, dtype=np.uint8)
    with torch.inference_mode():
        nats, count = score_lanes(model, tokens, 5, repeat(7))
        again, _ = score_lanes(model, tokens, 5, repeat(100))
    assert count == 5 * 19
    assert nats == pytest.approx(again, rel=1e-6)


def test_bad_input(model: LanguageModel, corpus: object, tmp_path: Path) -> None:
    tokenizer, split = ByteTokenizer(), corpus.split("all")
    one = prepare([str(write_text(tmp_path, 1))])
    with pytest.raises(DataError, match="no token to score"):
        evaluate_static(model, tokenizer, one.split("train"))
    with pytest.raises(DataError, match="too few to score in 8 lanes"):
        evaluate_static(model, tokenizer, one.split("all"), protocol="paper")
    with pytest.raises(ConfigError, match="segment_length"):
        evaluate_static(model, tokenizer, split, segment_length=0)
    with pytest.raises(ConfigError, match="window of -1"):
        evaluate_static(model, tokenizer, split, window=-1)
    assert evaluate_static(model, tokenizer, one.split("all")).num_bytes == 1
