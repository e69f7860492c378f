"""Writing model folders and checkpoints, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sharnn
from sharnn.checkpoint import format as fmt
from sharnn.config import to_dict
from sharnn.errors import CheckpointError
from sharnn.files import atomic_folder, write_json
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer, save_tokenizer


def save_model(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer, card: Mapping[str, Any]
) -> None:
    """Write a model folder, replacing one that is there.

    Args:
        folder: Where; it appears whole or not at all.
        model: Its weights are written in the dtype they have.
        tokenizer: Goes with the model.
        card: Facts for the README, name to value, in this order.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    with atomic_folder(folder, CheckpointError) as partial:
        _write_model_files(partial, model, tokenizer, card)


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> None:
    """Write a model folder with the state of the trainer beside it.

    Args:
        folder: Where; it appears whole or not at all.
        model: As for `save_model`.
        tokenizer: As for `save_model`.
        card: As for `save_model`.
        trainer: A tree of dicts, lists, scalars and tensors.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    with atomic_folder(folder, CheckpointError) as partial:
        _write_model_files(partial, model, tokenizer, card)
        values, tensors = fmt.split_tree(trainer)
        fmt.save_tensors(partial / fmt.TRAINER_TENSORS, tensors)
        digests = fmt.digests_of(partial, [fmt.CONFIG, fmt.WEIGHTS, fmt.TRAINER_TENSORS])
        content = {"format": fmt.FORMAT_VERSION, "digests": digests, "state": values}
        write_json(partial / fmt.TRAINER, content, CheckpointError)


def _write_model_files(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer, card: Mapping[str, Any]
) -> None:
    fmt.save_tensors(folder / fmt.WEIGHTS, model.state_dict())
    save_tokenizer(tokenizer, folder / fmt.TOKENIZER)
    (folder / fmt.CARD).write_text(_card_text(model, card), encoding="utf-8")
    config = {
        "format": fmt.FORMAT_VERSION,
        "sharnn": sharnn.__version__,
        "model": to_dict(model.config),
        "card": dict(card),
        "digests": fmt.digests_of(folder, [fmt.WEIGHTS, fmt.TOKENIZER]),
    }
    write_json(folder / fmt.CONFIG, config, CheckpointError)


def _card_text(model: LanguageModel, card: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in card.items())
    return (
        f"# {model.config.architecture} language model, {model.num_parameters():,} parameters\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        "Sample it with `sharnn generate FOLDER`, score it with `sharnn evaluate FOLDER TEXT`.\n"
    )
