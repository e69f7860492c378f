"""Beginning a run and going on with one: from settings to a trainer at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from sharnn.checkpoint import LoadedModel, RunFacts, RunFolder, load_model, read_model_folder
from sharnn.config import ModelConfig, Recipe, names_tokenizer_file, to_dict
from sharnn.data.corpus import Corpus
from sharnn.data.lanes import lane_length
from sharnn.data.prepare import prepare
from sharnn.data.sources import STDIN
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.recipe import FREE_MODEL_SETTINGS, load_recipe_settings, recipe_from_settings
from sharnn.text import Tokenizer, load_tokenizer
from sharnn.train.autosize import fit
from sharnn.train.estimate import Estimate, check_memory, estimate_run
from sharnn.train.logger import (
    MetricsFile,
    RunLogger,
    TensorBoardLogger,
    TerminalLogger,
    format_seconds,
)
from sharnn.train.precision import Precision, resolve_device
from sharnn.train.probe import StepTimes
from sharnn.train.trainer import Outcome, Trainer, can_validate, train_tokens

#: Called while a corpus is prepared: what is done, bytes done, bytes to do where known.
PrepareProgress = Callable[[str, int, int | None], None]


def start_run(
    recipe: Recipe, out: Path, console: Console, progress: PrepareProgress | None = None
) -> Outcome:
    """Prepare the texts, say what the run will take, and train.

    With `train.init_from` the run begins with that model's weights and reads texts with its tokenizer.

    Args:
        recipe: With `data.texts`; the vocabulary is taken from the tokenizer. With `train.init_from`
            its `model` is that model's, but for `FREE_MODEL_SETTINGS`.
        out: A run folder that does not exist yet.
        console: Where progress is shown.
        progress: Of preparing the corpus.

    Raises:
        ConfigError: Settings do not fit the text, the machine or the model to begin with.
        CheckpointError: There is no such model, or it is damaged.
        DataError: A text is missing, unreadable or too short.
        TrainingError: Memory won't do, or training went out of bounds.
    """
    trainer = _new_trainer(recipe, out, console, progress)
    with trainer.run_folder.locked():
        return _train(trainer, console)


def resume_run(
    out: Path,
    console: Console,
    budget: str | None = None,
    device: str | None = None,
    progress: PrepareProgress | None = None,
) -> Outcome:
    """Go on with a run where its last checkpoint left it.

    A run that fine-tunes needs the model that it began with no more, once there is a checkpoint.

    Args:
        out: The run folder.
        console: Where progress is shown.
        budget: A new budget; the schedule is drawn anew over it, and the patience of `early_stop`
            begins again.
        device: Another device than before.
        progress: Of preparing the corpus, if it is no longer prepared.

    Raises:
        CheckpointError: There is no run, another process is at work on it, or a checkpoint is cut,
            altered or of another shape.
        DataError: The text is gone or is not the same.
    """
    run = RunFolder.open(out)
    with run.locked():
        run.mend()
        return _train(_trainer_of(run, console, budget, device, progress), console)


def _trainer_of(
    run: RunFolder,
    console: Console,
    budget: str | None,
    device: str | None,
    progress: PrepareProgress | None,
) -> Trainer:
    """Return a trainer that stands where a run's last checkpoint does."""
    recipe = recipe_from_settings(load_recipe_settings(str(run.recipe_path)))
    train = dataclasses.replace(
        recipe.train, budget=budget or recipe.train.budget, device=device or recipe.train.device
    )
    recipe = dataclasses.replace(recipe, train=train)
    precision, facts = _precision(recipe), run.facts()
    initial = None
    if run.last_checkpoint() is None:
        initial = _initial_model(recipe)
        _check_initial(initial, facts)
    corpus = _same_corpus(recipe, run, facts, progress)
    trainer = _make_trainer(recipe, corpus, run, precision, facts, initial)
    trainer.resume()
    if budget is not None:
        trainer.counters.validations_without_best = 0
    step = trainer.counters.step
    console.print(f"going on with {run.path} at step {step:,}", highlight=False)
    return trainer


def _new_trainer(
    recipe: Recipe, out: Path, console: Console, progress: PrepareProgress | None
) -> Trainer:
    run = RunFolder(out)
    run.refuse_taken()
    precision, initial = _precision(recipe), _initial_model(recipe)
    tokenizer = recipe.data.tokenizer if initial is None else initial.tokenizer
    corpus = prepare(recipe.data.texts, tokenizer=tokenizer, progress=progress)
    times = StepTimes(precision, recipe.train.budget)
    chosen = recipe.train.fit
    recipe = fit(_with_vocabulary(recipe, corpus), times, len(train_tokens(corpus, recipe.data)))
    _announce(recipe, corpus, times, console)
    facts = RunFacts(
        corpus.name,
        corpus.digest,
        None if initial is None else initial.digest,
        {name: _setting(recipe, name) for name in chosen},
    )
    trainer = _make_trainer(recipe, corpus, run, precision, facts, initial)
    # Only now: what cannot be made leaves no folder behind.
    RunFolder.create(out, recipe, facts, corpus.tokenizer if _has_tokenizer_file(recipe) else None)
    return trainer


def _initial_model(recipe: Recipe) -> LoadedModel | None:
    """Return the model that a run begins with, None where it begins from nothing.

    Raises:
        CheckpointError: It is missing or damaged.
        ConfigError: The recipe has settings of another model or tokenizer.
    """
    origin = recipe.train.init_from
    if origin is None:
        return None
    initial = load_model(origin)
    if recipe.model.window == 0 and initial.model.has_memory:
        raise ConfigError(f"model.window is 0, but {origin} attends: give at least 1")
    wanted = to_dict(recipe.model)
    for name, own in to_dict(initial.model.config).items():
        if name not in FREE_MODEL_SETTINGS and wanted[name] != own:
            raise ConfigError(
                f"model.{name} is {wanted[name]!r}, but {origin} was made with {own!r} and its weights "
                f"fit nothing else: give {own!r} (only {', '.join(FREE_MODEL_SETTINGS)} may differ)"
            )
    if recipe.data.tokenizer not in (None, initial.tokenizer.name):
        raise ConfigError(
            f"data.tokenizer is '{recipe.data.tokenizer}', but {origin} reads "
            f"'{initial.tokenizer.name}' tokens: leave it out, texts are read with the model's own"
        )
    return initial


def _setting(recipe: Recipe, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(recipe, section), key)


def _check_initial(initial: LoadedModel | None, facts: RunFacts) -> None:
    """Refuse to resume with other initial weights than a run began with.

    Raises:
        CheckpointError: The model has changed since.
    """
    if initial is not None and initial.digest != facts.initial_digest:
        raise CheckpointError(
            f"{initial.folder} is not the model that this run began with (its weights have SHA-256 "
            f"{initial.digest[:12]}…, the run's had {str(facts.initial_digest)[:12]}…): restore it, or "
            "begin a new run"
        )


def _make_trainer(
    recipe: Recipe,
    corpus: Corpus,
    run: RunFolder,
    precision: Precision,
    facts: RunFacts,
    initial: LoadedModel | None,
) -> Trainer:
    """Return a trainer with the weights of `initial`.

    `initial` was loaded before, because making a model draws random numbers: the trainer's model must be
    the first to do so after seeding, or dropout would differ from a run that was never interrupted.
    """
    trainer = Trainer(recipe, corpus, run, precision, initial_digest=facts.initial_digest)
    if initial is not None:
        trainer.model.load_state_dict(initial.model.state_dict())
    return trainer


def _precision(recipe: Recipe) -> Precision:
    return Precision.resolve(resolve_device(recipe.train.device), recipe.train.dtype)


def _with_vocabulary(recipe: Recipe, corpus: Corpus) -> Recipe:
    """Return the recipe with the vocabulary of the corpus's tokenizer.

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
        recipe, model=dataclasses.replace(recipe.model, vocab_size=vocab_size)
    )


def _same_corpus(
    recipe: Recipe, run: RunFolder, facts: RunFacts, progress: PrepareProgress | None
) -> Corpus:
    """Return the corpus that a run began with: from the cache, else prepared again.

    Raises:
        DataError: The text has changed since.
    """
    cached = Corpus.find(facts.corpus_digest)
    if cached is not None:
        return cached
    if STDIN in recipe.data.texts:
        raise DataError(
            f"the run {run.path} read standard input, and the prepared text is no longer in the cache "
            "(SHARNN_CACHE): put the cache back, or begin a new run"
        )
    tokenizer = _tokenizer(recipe, run)
    corpus = prepare(recipe.data.texts, tokenizer=tokenizer, progress=progress)
    if corpus.digest != facts.corpus_digest:
        copy = (
            f", or the run's copy of {recipe.data.tokenizer},"
            if _has_tokenizer_file(recipe)
            else ""
        )
        raise DataError(
            f"{', '.join(recipe.data.texts)}{copy} changed since the run {run.path} began (digest "
            f"{facts.corpus_digest[:12]}…, now {corpus.digest[:12]}…): restore the text, or begin a "
            "new run"
        )
    return corpus


def _has_tokenizer_file(recipe: Recipe) -> bool:
    return recipe.data.tokenizer is not None and names_tokenizer_file(recipe.data.tokenizer)


def _tokenizer(recipe: Recipe, run: RunFolder) -> Tokenizer | str | None:
    """Return what reads the texts again, which no text could tell.

    Of a fine-tuned model it is its own, of a tokenizer file the copy that the run keeps: the file may be
    gone or another one by now.
    """
    if recipe.train.init_from is None and not _has_tokenizer_file(recipe):
        return recipe.data.tokenizer
    model = run.last_checkpoint() or recipe.train.init_from
    return (
        load_tokenizer(run.tokenizer_path) if model is None else read_model_folder(model).tokenizer
    )


def _announce(recipe: Recipe, corpus: Corpus, times: StepTimes, console: Console) -> None:
    """Say what will be trained on what, and refuse what cannot fit.

    Raises:
        DataError: The text is shorter than its lanes.
        TrainingError: Memory won't do.
    """
    train, num_tokens = corpus.split("train"), len(train_tokens(corpus, recipe.data))
    lane_length(num_tokens, recipe.data.num_lanes)
    check_memory(recipe, times)
    times.measure(recipe)
    estimate, precision = estimate_run(recipe, times, num_tokens), times.precision
    part = f"the first {num_tokens:,} tokens of " if num_tokens < train.num_tokens else ""
    model, origin = recipe.model, recipe.train.init_from
    console.print(
        f"{model.architecture}: {estimate.num_parameters:,} parameters "
        f"({model.num_layers} × {model.embed_dim}, window {model.window})"
        f"{f' of {origin}' if origin is not None else ''} on {corpus.name}: "
        f"{part}{train.num_bytes:,} bytes to train on\n"
        f"{recipe.data.num_lanes} lanes × {recipe.data.segment_length} tokens, "
        f"{recipe.optim.name}, {precision.name} on {precision.device}\n"
        f"{_describe(estimate, num_tokens)}",
        highlight=False,
    )
    if not can_validate(corpus):
        console.print("no validation: the text leaves fewer than two tokens for its valid split")


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
        loggers.append(TensorBoardLogger(folder.tensorboard_path))
    with TerminalLogger(console) as terminal:
        trainer.loggers = [*loggers, terminal]
        try:
            return trainer.run()
        finally:
            for logger in loggers:
                logger.close()
