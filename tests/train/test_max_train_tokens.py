"""Training on the beginning of a text: no token behind it is seen, and a resume stays there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sharnn.errors import ConfigError
from sharnn.train import resume_run, start_run
from train.runs import losses, make_trainer, tiny_corpus, tiny_recipe

LIMIT = 401  # 4 lanes of 100 tokens, and the last one's successor


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    recipe = tiny_recipe(
        model={"longest_ngram": 2, "ngram_min_count": 1, "ngram_rows": 64},
        data={"max_train_tokens": LIMIT, "random_segments": False},
    )
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    assert trainer.lanes.lane_length == 100
    segments = [trainer.lanes.next_segment() for _ in range(9)]
    assert segments[-1].epoch == 1
    read = np.concatenate([segment.inputs for segment in segments], axis=1)
    assert np.array_equal(read.reshape(-1), corpus.split("train").tokens[: LIMIT - 1])
    other = make_trainer(
        tmp_path / "other",
        tiny_recipe(data={"max_train_tokens": 10**9}),
        corpus,
    )
    assert other.lanes.lane_length == (corpus.split("train").num_tokens - 1) // 4


def test_ngrams_are_counted_in_the_beginning(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    ngrams = {"longest_ngram": 2, "ngram_min_count": 2, "ngram_rows": 4_096}
    rows = []
    for limit in (LIMIT, 0):
        recipe = tiny_recipe(model=ngrams, data={"max_train_tokens": limit})
        model = make_trainer(tmp_path / str(limit), recipe, corpus).model
        assert model.ngrams is not None
        rows.append(int((model.ngrams.keys_NR != model.ngrams.keys_NR.max()).sum()))
    assert 0 < rows[0] < rows[1]


def test_a_resume_stays_in_the_beginning(tmp_path: Path) -> None:
    """Also where its lanes have begun again; the limit is the run's, not the command line's."""
    corpus = tiny_corpus(tmp_path)
    settings = {"max_train_tokens": LIMIT, "texts": [str(tmp_path / "text.txt")]}
    whole, half = (
        tiny_recipe(data=settings, optim={"decay": "constant"}, train={"budget": budget})
        for budget in ("30steps", "13steps")
    )
    make_trainer(tmp_path / "whole", whole, corpus).run()
    said = io.StringIO()
    console = Console(file=said, width=200)
    start_run(half, tmp_path / "parts", console)
    assert f": the first {LIMIT} tokens of " in said.getvalue()
    outcome = resume_run(tmp_path / "parts", console, budget="30steps")
    assert outcome.counters.epoch > 2
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_less_than_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_train_tokens is -1"):
        tiny_recipe(data={"max_train_tokens": -1})
