"""Gradients, and the weights they change."""

from __future__ import annotations

from pathlib import Path

import torch

from train.runs import make_trainer, tiny_corpus, tiny_recipe


def test_groups_of_lanes_give_the_gradient_of_all(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    gradients = []
    for groups in (1, 2, 4):
        recipe = tiny_recipe(
            model={"hidden_dropout": 0.0, "attention_dropout": 0.0},
            train={"grad_accum_steps": groups},
        )
        trainer = make_trainer(tmp_path / f"run{groups}", recipe, corpus)
        for _ in range(3):
            segment = trainer.lanes.next_segment()
            tokens = (
                torch.from_numpy(t.astype("int64")) for t in (segment.inputs, segment.targets)
            )
            trainer.learner.accumulate_gradients(*tokens, trainer.states)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])
