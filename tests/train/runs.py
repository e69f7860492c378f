"""Tiny runs for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharnn.checkpoint import RunFacts, RunFolder
from sharnn.config import DataConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import prepare
from sharnn.train.logger import MetricsFile
from sharnn.train.precision import Precision, resolve_device
from sharnn.train.trainer import Trainer
from texts import write_text


def tiny_recipe(
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> Recipe:
    """Return a recipe that uses everything a resume must carry: dropout, random lengths, memory."""
    sizes = {"embed_dim": 16, "num_layers": 2, "window": 24, "hidden_dropout": 0.1,
             "attention_dropout": 0.1}  # fmt: skip
    lanes = {"num_lanes": 4, "segment_length": 12, "random_segments": True}
    run = {"budget": "30steps", "dtype": "fp32", "device": "cpu", "validate_every": "9steps",
           "checkpoint_every": "4steps", "validation_tokens": 500}  # fmt: skip
    return Recipe(
        ModelConfig(**{**sizes, **(model or {})}),
        DataConfig(**{**lanes, **(data or {})}),
        OptimConfig(**{"lr": 0.01, **(optim or {})}),
        TrainConfig(**{**run, **(train or {})}),
    )


def tiny_corpus(folder: Path, num_bytes: int = 6_000) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    return prepare([str(write_text(folder, num_bytes))])


def make_trainer(folder: Path, recipe: Recipe, corpus: Corpus, resume: bool = False) -> Trainer:
    facts = RunFacts(corpus.name, corpus.digest)
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, recipe, facts)
    precision = Precision.resolve(resolve_device(recipe.train.device), recipe.train.dtype)
    trainer = Trainer(recipe, corpus, run, precision)
    if resume:
        trainer.resume()
    trainer.journal.loggers = [MetricsFile(run.metrics_path)]
    return trainer


def losses(folder: Path) -> list[tuple[int, float | None]]:
    """Return (step, nats) of every training record."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["nats"]) for r in records if r["kind"] == "train"]
