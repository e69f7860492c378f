"""Starting and resuming runs: from settings to a running trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from sharnn.amounts import Amount
from sharnn.checkpoint import LoadedModel, RunFacts, RunFolder, load_model, read_model_folder
from sharnn.config import ModelConfig, Recipe, names_tokenizer_file, to_dict
from sharnn.data.corpus import Corpus
from sharnn.data.lanes import lane_length
from sharnn.data.prepare import prepare
from sharnn.data.sources import STDIN
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.model import LanguageModel
from sharnn.recipe import FREE_MODEL_SETTINGS, load_recipe_settings, recipe_from_settings
from sharnn.text import Tokenizer, load_tokenizer
from sharnn.train.autosize import fit
from sharnn.train.forecast import check_memory, forecast_run
from sharnn.train.logger import (
    MetricsFile,
    RunLogger,
    TensorBoardLogger,
    TerminalLogger,
    format_seconds,
)
from sharnn.train.precision import Precision, resolve_device
from sharnn.train.probe import StepTimes
from sharnn.train.trainer import Outcome, Trainer, train_tokens
from sharnn.train.validation import ValidationText

#: Called while a corpus is prepared: a description, bytes done, bytes in all if known.
PrepareProgress = Callable[[str, int, int | None], None]


def start_run(
    recipe: Recipe, out: Path, console: Console, progress: PrepareProgress | None = None
) -> Outcome:
    """Prepare the texts, print an estimate, and train.

    With `train.init_from` the run starts from that model's weights and uses its tokenizer.

    Args:
        recipe: With `data.texts`; the vocabulary is taken from the tokenizer. With `train.init_from`
            its `model` is that model's, except `FREE_MODEL_SETTINGS`.
        out: A run folder that does not exist yet.
        console: Where progress is shown.
        progress: Of preparing the corpus.

    Raises:
        ConfigError: Settings do not fit the text, the machine or the initial model.
        CheckpointError: The initial model is missing or damaged.
        DataError: A text is missing, unreadable or too short.
        TrainingError: There is too little memory, or the loss was not finite too often.
    """
    run = RunFolder(out)
    run.refuse_taken()
    precision, initial = _precision(recipe), _initial_model(recipe)
    tokenizer = recipe.data.tokenizer if initial is None else initial.tokenizer
    corpus = _prepare(recipe, tokenizer, console, progress)
    times, chosen = StepTimes(precision, recipe.train.budget), recipe.train.fit
    recipe = fit(_with_vocabulary(recipe, corpus), times, len(train_tokens(corpus, recipe.data)))
    _announce(recipe, corpus, times, console)
    model, digest = (None, None) if initial is None else (initial.model, initial.digest)
    trainer = Trainer(recipe, corpus, run, precision, model)
    values = {name: attrgetter(name)(recipe) for name in chosen}
    facts = RunFacts(corpus.name, corpus.digest, digest, values)
    # Only now, so that a run that cannot start leaves no folder.
    RunFolder.create(out, recipe, facts, corpus.tokenizer if _has_tokenizer_file(recipe) else None)
    with run.locked():
        return _train(trainer, console)


def resume_run(
    out: Path,
    console: Console,
    budget: str | None = None,
    device: str | None = None,
    progress: PrepareProgress | None = None,
    texts: Sequence[str] = (),
) -> Outcome:
    """Continue a run from its last checkpoint.

    Once there is a checkpoint, resuming a fine-tuning run no longer needs the initial model.

    Args:
        out: The run folder.
        console: Where progress is shown.
        budget: A new budget, counted from the beginning of the run, which the run keeps: the
            learning-rate schedule is stretched over it, and `early_stop` counts from 0.
        device: Another device than before.
        progress: Of preparing the corpus, if it is no longer in the cache.
        texts: Where the run's text is now, if it has moved.

    Raises:
        CheckpointError: There is no run, another process is training it, or a checkpoint is incomplete,
            altered or of another shape.
        DataError: The text is missing or has changed.
    """
    run = RunFolder.open(out)
    with run.locked():
        run.mend()
        recipe = recipe_from_settings(load_recipe_settings(str(run.recipe_path)))
        train = dataclasses.replace(recipe.train, budget=budget or recipe.train.budget)
        data = dataclasses.replace(recipe.data, texts=list(texts) or recipe.data.texts)
        kept = dataclasses.replace(recipe, train=train, data=data)
        train = dataclasses.replace(train, device=device or train.device)  # for this time
        recipe = dataclasses.replace(kept, train=train)
        precision = _precision(recipe)
        model = _same_initial_model(recipe, run) if run.last_checkpoint() is None else None
        corpus = _same_corpus(recipe, run, console, progress, moved=bool(texts))
        trainer = Trainer(recipe, corpus, run, precision, model)
        trainer.resume()
        if budget is not None:
            trainer.counters.validations_without_best = 0
        if budget is not None or texts:
            run.change_recipe(kept)  # so that the next resume has them too
        console.print(_describe_resumed(trainer), highlight=False)
        return _train(trainer, console)


def _describe_resumed(trainer: Trainer) -> str:
    """Return where a run is resumed, and how much of its budget is left."""
    budget, counters = trainer.recipe.train.budget, trainer.counters
    share = counters.progress(Amount.parse(budget, "train.budget")).budget
    text = f"resuming {trainer.run_folder.path} at step {counters.step:,}, {share:.0%} of {budget} used"
    if share >= 1:
        text += "; a budget counts from the beginning of the run: give a larger one to train on"
    return text


def _train(trainer: Trainer, console: Console) -> Outcome:
    folder = trainer.run_folder
    loggers: list[RunLogger] = [MetricsFile(folder.metrics_path)]
    if trainer.recipe.train.tensorboard:
        loggers.append(TensorBoardLogger(folder.tensorboard_path))
    with TerminalLogger(console) as terminal:
        trainer.journal.loggers = [*loggers, terminal]
        try:
            return trainer.run()
        finally:
            for logger in loggers:
                logger.close()


def _precision(recipe: Recipe) -> Precision:
    return Precision.resolve(resolve_device(recipe.train.device), recipe.train.dtype)


# --------------------------------------------------------------------------------- the initial model


def _initial_model(recipe: Recipe) -> LoadedModel | None:
    """Return the model that a run starts from, None without `train.init_from`.

    Raises:
        CheckpointError: It is missing or damaged.
        ConfigError: The recipe has settings of another model or tokenizer.
    """
    origin = recipe.train.init_from
    if origin is None:
        return None
    initial = load_model(origin)
    if recipe.model.window == 0 and initial.model.has_memory:
        raise ConfigError(f"model.window is 0, but {origin} has attention: give at least 1")
    given = to_dict(recipe.model)
    for name, own in to_dict(initial.model.config).items():
        if name not in FREE_MODEL_SETTINGS and given[name] != own:
            raise ConfigError(
                f"model.{name} is {given[name]!r}, but {origin} was made with {own!r}, which its weights "
                f"require: give {own!r} (only {', '.join(FREE_MODEL_SETTINGS)} may differ)"
            )
    if recipe.data.tokenizer not in (None, initial.tokenizer.name):
        raise ConfigError(
            f"data.tokenizer is '{recipe.data.tokenizer}', but {origin} reads "
            f"'{initial.tokenizer.name}' tokens: leave it out, the model's own tokenizer is used"
        )
    return initial


def _same_initial_model(recipe: Recipe, run: RunFolder) -> LanguageModel | None:
    """Return the initial model again for a run that has no checkpoint yet.

    Raises:
        CheckpointError: The model is missing, damaged, or has changed since the run began.
        ConfigError: As for `_initial_model`.
    """
    initial, digest = _initial_model(recipe), run.facts().initial_digest
    if initial is None:
        return None
    if initial.digest != digest:
        raise CheckpointError(
            f"{initial.folder} is not the model that this run began with (its weights have SHA-256 "
            f"{initial.digest[:12]}…, the run's had {str(digest)[:12]}…): restore it, or begin a new run"
        )
    return initial.model


# --------------------------------------------------------------------------------------- the corpus


def _with_vocabulary(recipe: Recipe, corpus: Corpus) -> Recipe:
    """Return the recipe with the vocabulary of the corpus's tokenizer.

    Raises:
        ConfigError: The recipe has another vocabulary.
    """
    default = ModelConfig().vocab_size
    vocab_size = corpus.tokenizer.vocab_size
    if recipe.model.vocab_size not in (default, vocab_size):
        raise ConfigError(
            f"model.vocab_size is {recipe.model.vocab_size}, the tokenizer has {vocab_size} tokens: "
            "leave it out, the run takes it from the tokenizer"
        )
    model = dataclasses.replace(recipe.model, vocab_size=vocab_size)
    return dataclasses.replace(recipe, model=model)


def _prepare(
    recipe: Recipe,
    tokenizer: Tokenizer | str | None,
    console: Console,
    progress: PrepareProgress | None,
) -> Corpus:
    """Return the corpus of a recipe's texts, and print what was read."""
    data = recipe.data
    return prepare(
        data.texts,
        tokenizer=tokenizer,
        encoding=data.encoding,
        include=data.include,
        exclude=data.exclude,
        progress=progress,
        notice=lambda line: console.print(line, highlight=False, markup=False),
    )


def _same_corpus(
    recipe: Recipe,
    run: RunFolder,
    console: Console,
    progress: PrepareProgress | None,
    moved: bool,
) -> Corpus:
    """Return the corpus that a run began with, from the cache or prepared again.

    Args:
        recipe: With the texts to read.
        run: The run.
        console: Where what was read is printed.
        progress: Of preparing.
        moved: The texts are new places, which are read whether or not the cache has the corpus.

    Raises:
        DataError: The text has changed since, or cannot be read again.
    """
    digest = run.facts().corpus_digest
    cached = None if moved else Corpus.find(digest)
    if cached is not None:
        return cached
    if STDIN in recipe.data.texts and not moved:
        raise DataError(
            f"the run {run.path} read standard input, and the prepared text is no longer in the cache "
            "(SHARNN_CACHE): give the same text again, restore the cache, or begin a new run"
        )
    tokenizer = _saved_tokenizer(recipe, run)
    try:
        corpus = _prepare(recipe, tokenizer, console, progress)
    except DataError as failure:
        hint = "" if moved else " (if the run's text has moved, give its new place too)"
        raise DataError(f"{failure}{hint}") from failure
    if corpus.digest != digest:
        sources = ", ".join(recipe.data.texts)
        if _has_tokenizer_file(recipe):
            sources += f", or the run's copy of {recipe.data.tokenizer},"
        if moved:
            raise DataError(
                f"{sources} is not the text that the run {run.path} began with (digest {digest[:12]}…, "
                f"this one has {corpus.digest[:12]}…): give the same text, or begin a new run"
            )
        raise DataError(
            f"{sources} changed since the run {run.path} began (digest {digest[:12]}…, now "
            f"{corpus.digest[:12]}…), or an earlier version of sharnn read them in another way: restore "
            "the text or the cache, or begin a new run"
        )
    return corpus


def _has_tokenizer_file(recipe: Recipe) -> bool:
    return recipe.data.tokenizer is not None and names_tokenizer_file(recipe.data.tokenizer)


def _saved_tokenizer(recipe: Recipe, run: RunFolder) -> Tokenizer | str | None:
    """Return the tokenizer to prepare the texts with again.

    If it came from a model or from a file, it is read from the run, because the original may have
    changed; before the first checkpoint, that of a model is read from the model.
    """
    if recipe.train.init_from is None and not _has_tokenizer_file(recipe):
        return recipe.data.tokenizer
    model = run.last_checkpoint() or recipe.train.init_from
    if model is None:
        return load_tokenizer(run.tokenizer_path)
    return read_model_folder(model).tokenizer


# --------------------------------------------------------------------------------- the announcement


def _announce(recipe: Recipe, corpus: Corpus, times: StepTimes, console: Console) -> None:
    """Print what will be trained and an estimate of its cost, and refuse what cannot be trained.

    Raises:
        DataError: The text is too short for its lanes.
        TrainingError: There is too little memory.
    """
    train, num_tokens = corpus.split("train"), len(train_tokens(corpus, recipe.data))
    lane_length(num_tokens, recipe.data.num_lanes)
    check_memory(recipe, times)
    times.measure(recipe)
    cost, precision = forecast_run(recipe, times, num_tokens), times.precision
    part = f"the first {num_tokens:,} tokens of " if num_tokens < train.num_tokens else ""
    model, origin = recipe.model, recipe.train.init_from
    console.print(
        f"{model.architecture}: {cost.num_parameters:,} parameters "
        f"({model.num_layers} × {model.embed_dim}, window {model.window})"
        f"{f' of {origin}' if origin is not None else ''} on {corpus.name}: "
        f"{part}{train.num_bytes:,} bytes to train on\n"
        f"{recipe.data.num_lanes} lanes × {recipe.data.segment_length} tokens, "
        f"{recipe.optim.name}, {precision.name} on {precision.device}\n"
        f"estimate: {cost.memory_bytes / 2**30:.1f} GiB, "
        f"{cost.tokens_per_second:,.0f} tokens/s, {format_seconds(cost.seconds)} for "
        f"{cost.tokens / 1e6:,.1f}M tokens ({cost.tokens / num_tokens:.2g} epochs)",
        highlight=False,
    )
    budget, step = Amount.parse(recipe.train.budget, "train.budget"), times.seconds(recipe)
    if budget.unit == "seconds" and step > budget.value / 10:
        console.print(
            f"a step takes about {step:.1f}s, so this budget buys few steps: use a smaller recipe or a "
            "longer budget",
            highlight=False,
        )
    if not ValidationText(corpus, recipe.train.validation_tokens).can_be_scored:
        console.print("no validation: the text leaves fewer than two tokens for its valid split")
