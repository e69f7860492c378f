"""What has to be equal in the tokenization attack is equal in its plans."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from sharnn.config import to_dict
from sharnn.errors import ConfigError
from sharnn.experiments.attack.plan import (
    ARCHITECTURES,
    AttackSettings,
    Tokenization,
    make_plans,
    tokenizer_of,
)
from sharnn.experiments.comparison.contenders import Plan
from sharnn.experiments.comparison.run_store import key_of
from sharnn.model import count_parameters
from sharnn.train.estimate import flops_per_token

BYTE = Tokenization("byte", "byte", 256, 1.0, "d1")
BPE = Tokenization("bpe-1024", "bpe.json", 1_024, 2.5, "d2")
WORDS = Tokenization("word", "word.json", 8_000, 5.0, "d3")
SETTINGS = AttackSettings(seeds=2, num_parameters=400_000)


@functools.cache
def plans() -> list[Plan]:
    return make_plans(SETTINGS, [BYTE, BPE, WORDS], "my.txt", "cpu")


def test_every_architecture_and_tokenization_is_trained_in_both_ways_with_every_seed() -> None:
    runs = [(plan.seed, plan.name) for plan in plans()]
    assert len(runs) == len(set(runs)) == len(ARCHITECTURES) * 3 * 2 * 2
    assert [seed for seed, _ in runs] == sorted(seed for seed, _ in runs)


def test_weights_are_equal_as_nearly_as_the_width_allows() -> None:
    for plan in plans():
        model = plan.recipe.model
        config = {**to_dict(model), "vocab_size": plan.facts["vocab_size"]}
        assert count_parameters(type(model)(**config)) == pytest.approx(400_000, rel=0.15), (
            plan.name
        )


def test_bytes_of_step_segment_and_window_are_equal() -> None:
    for plan in plans():
        data, size = plan.recipe.data, plan.facts["bytes_per_token"]
        assert data.num_lanes == SETTINGS.num_lanes
        assert data.segment_length * size == pytest.approx(SETTINGS.segment_bytes, rel=0.02)
        if plan.facts["architecture"] in ("sha-rnn", "transformer"):
            assert plan.recipe.model.window * size == pytest.approx(SETTINGS.window_bytes, rel=0.01)


def test_either_bytes_or_arithmetic_are_equal() -> None:
    for plan in plans():
        tokens = int(plan.recipe.train.budget.removesuffix("tokens"))
        read = tokens * plan.facts["bytes_per_token"]
        assert read == pytest.approx(plan.facts["read_bytes"], rel=1e-4)
        if plan.facts["matching"] == "bytes":
            assert read == pytest.approx(SETTINGS.train_bytes, rel=1e-4)
    spent = [plan.facts["train_flops"] for plan in plans() if plan.facts["matching"] == "compute"]
    assert spent == pytest.approx([spent[0]] * len(spent))
    first = plans()[0].recipe
    assert spent[0] == pytest.approx(flops_per_token(first) * SETTINGS.train_bytes / 4)


def test_names_mean_kinds_and_sizes() -> None:
    assert tokenizer_of("byte") == ("byte", None)
    assert tokenizer_of("spelled-4096") == ("spelled-word", 4_096)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["transformers"]}, "did you mean 'transformer'"),
        ({"architectures": []}, "architectures is empty"),
        ({"tokenizations": ["bpe"]}, r"no 'bpe' \(tokenizations\)"),
        (
            {"tokenizations": ["byte", "byte"]},
            "tokenizations is byte byte: give one or more, each once",
        ),
        ({"matchings": ["time"]}, r"no 'time' \(matchings\): bytes, compute"),
        ({"words": 0}, "words is 0: it must be at least 1"),
        ({"dropouts": [1.0]}, "must be between 0 and 1"),
        ({"compute_bytes": 0}, "compute_bytes is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttackSettings(**settings)


def test_a_vocabulary_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave the largest vocabularies out"):
        make_plans(AttackSettings(num_parameters=20_000), [WORDS], "my.txt", "cpu")


def test_a_run_is_another_with_another_text_or_other_words_and_not_in_another_folder() -> None:
    def keys(settings: AttackSettings, t: Tokenization) -> list[dict[str, Any]]:
        return [key_of(plan.key) for plan in make_plans(settings, [t], "my.txt", "cpu", 1e12)]

    moved = dataclasses.replace(BPE, path="elsewhere/bpe.json")
    assert keys(SETTINGS, moved) == keys(SETTINGS, BPE)
    assert keys(SETTINGS, dataclasses.replace(BPE, digest="d4")) != keys(SETTINGS, BPE)
    assert keys(dataclasses.replace(SETTINGS, words=7), BPE) != keys(SETTINGS, BPE)
    more = dataclasses.replace(SETTINGS, seeds=3)
    assert keys(more, BPE)[: len(keys(SETTINGS, BPE))] == keys(SETTINGS, BPE)
