"""A head that reads next learns to recall, and one that cannot is seen."""

from __future__ import annotations

import math

import pytest

from sharnn.config import ModelConfig, OptimConfig
from sharnn.data.recall_task import RecallTask
from sharnn.experiments.recall import RecallPlan, RecallScore, train_on_recall

#: Easier than the task's defaults, for the time it takes: two digits, one lane a block, one block.
TASK = RecallTask(pairs=24, key_digits=2, value_digits=2, shortest=12, longest=400, store_share=0.1)


def trained(**settings: object) -> RecallScore:
    model = {
        "embed_dim": 64, "num_layers": 1, "boom_dim": 64, "residual": True, "forget_bias": 1.0,
        "overparam_value_gate": False, "window": 192, **settings,
    }  # fmt: skip
    optim = OptimConfig(name="muon", lr=0.01, matrix_lr=0.01, betas=[0.9, 0.99], grad_clip=0.25)
    plan = RecallPlan(
        ModelConfig(**model), optim, TASK, num_lanes=16, segment_length=64, num_steps=200,
        score_every=200, window=192,
    )  # fmt: skip
    return list(train_on_recall(plan))[-1][1]


def test_a_head_that_reads_next_recalls_what_no_lstm_does() -> None:
    score = trained(reads_next=True)
    assert score.inside < 0.5
    assert score.beyond < 0.5
    assert score.outside > 3
    assert score.query_grad > 0


@pytest.mark.parametrize("settings", [{"window": 0}, {"reads_next": True, "window": 8}])
def test_without_a_memory_nothing_is_recalled(settings: dict[str, object]) -> None:
    score = trained(**settings)
    assert score.inside > 3
    assert score.beyond > 3
    assert math.isfinite(score.outside)
