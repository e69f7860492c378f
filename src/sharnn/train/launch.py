"""Beginning a run and going on with one: from settings to a trainer at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from sharnn.config import ModelConfig, Recipe, load_recipe_settings, recipe_from_settings
from sharnn.data.corpus import Corpus
from sharnn.data.lanes import lane_length
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.train.estimate import Estimate, check_memory, estimate_run
from sharnn.train.logger import (
    MetricsFile,
    RunLogger,
    TensorBoardLogger,
    TerminalLogger,
    format_seconds,
)
from sharnn.train.precision import Precision, resolve_device
from sharnn.train.run_folder import RunFolder
from sharnn.train.trainer import Outcome, Trainer, can_validate

#: Called while a corpus is prepared: what is done, bytes done, bytes to do where known.
PrepareProgress = Callable[[str, int, int | None], None]


def start_run(
    recipe: Recipe, out: Path, console: Console, progress: PrepareProgress | None = None
) -> Outcome:
    """Prepare the texts, say what the run will take, and train.

    Args:
        recipe: With `data.texts`; the vocabulary is taken from the tokenizer.
        out: A run folder that does not exist yet.
        console: Where progress is shown.
        progress: Of preparing the corpus.

    Raises:
        ConfigError: Settings do not fit the text or the machine.
        DataError: A text is missing, unreadable or too short.
        TrainingError: Memory won't do, or training went out of bounds.
    """
    precision = _precision(recipe)
    corpus = prepare(recipe.data.texts, tokenizer=recipe.data.tokenizer, progress=progress)
    recipe = _with_corpus(recipe, corpus)
    _announce(recipe, corpus, precision, console)
    run = RunFolder.create(out, recipe)
    trainer = Trainer(recipe, corpus, run, precision)
    return _train(trainer, console)


def resume_run(
    out: Path,
    console: Console,
    budget: str | None = None,
    device: str | None = None,
    progress: PrepareProgress | None = None,
) -> Outcome:
    """Go on with a run where its last checkpoint left it.

    Args:
        out: The run folder.
        console: Where progress is shown.
        budget: A new budget; the schedule is drawn anew over it.
        device: Another device than before.
        progress: Of preparing the corpus, if it is no longer prepared.

    Raises:
        CheckpointError: There is no run, or a checkpoint is cut, altered or of another shape.
        DataError: The text is gone or is not the same.
    """
    run = RunFolder.open(out)
    recipe = recipe_from_settings(load_recipe_settings(str(run.recipe_path)))
    train = dataclasses.replace(
        recipe.train, budget=budget or recipe.train.budget, device=device or recipe.train.device
    )
    recipe = dataclasses.replace(recipe, train=train)
    precision = _precision(recipe)
    corpus = _same_corpus(recipe, run, progress)
    trainer = Trainer(recipe, corpus, run, precision)
    trainer.resume()
    step = trainer.counters.step
    console.print(f"going on with {out} at step {step:,}", highlight=False)
    return _train(trainer, console)


def _precision(recipe: Recipe) -> Precision:
    return Precision.resolve(resolve_device(recipe.train.device), recipe.train.dtype)


def _with_corpus(recipe: Recipe, corpus: Corpus) -> Recipe:
    """Fill in what the text decides: vocabulary and digest.

    Raises:
        ConfigError: A vocabulary was given that is not the tokenizer's.
    """
    default = ModelConfig().vocab_size
    vocab_size = corpus.tokenizer.vocab_size
    if recipe.model.vocab_size not in (default, vocab_size):
        raise ConfigError(
            f"model.vocab_size is {recipe.model.vocab_size}, the tokenizer has {vocab_size} tokens: "
            "leave it out, the run takes it from the tokenizer"
        )
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, vocab_size=vocab_size),
        data=dataclasses.replace(recipe.data, digest=corpus.digest),
    )


def _same_corpus(recipe: Recipe, run: RunFolder, progress: PrepareProgress | None) -> Corpus:
    """Return the corpus that a run was begun with: from the cache, else prepared again.

    Raises:
        DataError: The text is not the same any more.
    """
    assert recipe.data.digest is not None
    cached = Corpus.find(recipe.data.digest)
    if cached is not None:
        return cached
    corpus = prepare(recipe.data.texts, tokenizer=recipe.data.tokenizer, progress=progress)
    if corpus.digest != recipe.data.digest:
        raise DataError(
            f"{', '.join(recipe.data.texts)} changed since the run {run.path} began (digest "
            f"{recipe.data.digest[:12]}…, now {corpus.digest[:12]}…): restore the text, or begin a "
            "new run"
        )
    return corpus


def _announce(recipe: Recipe, corpus: Corpus, precision: Precision, console: Console) -> None:
    """Say what will be trained on what, and refuse what cannot fit.

    Raises:
        DataError: The text is shorter than its lanes.
        TrainingError: Memory won't do.
    """
    train = corpus.split("train")
    lane_length(train.num_tokens, recipe.data.num_lanes)
    estimate = estimate_run(recipe, precision, train.num_tokens)
    model = recipe.model
    console.print(
        f"{model.architecture}: {estimate.num_parameters:,} parameters "
        f"({model.num_layers} × {model.embed_dim}, window {model.window}) on {corpus.name}: "
        f"{train.num_bytes:,} bytes to train on\n"
        f"{recipe.data.num_lanes} lanes × {recipe.data.segment_length} tokens, "
        f"{recipe.optim.name}, {precision.name} on {precision.device}\n"
        f"{_describe(estimate, train.num_tokens)}",
        highlight=False,
    )
    if not can_validate(corpus):
        console.print("no validation: the text leaves fewer than two tokens for its valid split")
    check_memory(estimate, precision.device)


def _describe(estimate: Estimate, epoch_tokens: int) -> str:
    return (
        f"estimate: {estimate.memory_bytes / 2**30:.1f} GiB, "
        f"{estimate.tokens_per_second:,.0f} tokens/s, {format_seconds(estimate.seconds)} for "
        f"{estimate.tokens / 1e6:,.1f}M tokens ({estimate.tokens / epoch_tokens:.2g} epochs)"
    )


def _train(trainer: Trainer, console: Console) -> Outcome:
    folder = trainer.run_folder
    loggers: list[RunLogger] = [MetricsFile(folder.metrics_path)]
    if trainer.recipe.train.tensorboard:
        loggers.append(TensorBoardLogger(folder.path / "tensorboard"))
    with TerminalLogger(console) as terminal:
        trainer.loggers = [*loggers, terminal]
        try:
            return trainer.run()
        finally:
            for logger in loggers:
                logger.close()
