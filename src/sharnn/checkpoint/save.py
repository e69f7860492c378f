"""Writing model folders and checkpoints, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sharnn
from sharnn.checkpoint import format as fmt
from sharnn.checkpoint.weights import check_dtype, pack_weights
from sharnn.config import to_dict
from sharnn.errors import CheckpointError
from sharnn.files import atomic_folder, write_json
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer, save_tokenizer


def save_model(
    folder: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    dtype: str = "fp32",
) -> None:
    """Write a model folder, replacing one that is there.

    Args:
        folder: Where; it appears whole or not at all.
        model: What is written; it stays as it is.
        tokenizer: Goes with the model.
        card: Facts for the README, name to value, in this order.
        dtype: Of its matrices on disk: `fp32`, `bf16` (half the size) or `int8` (a quarter). They
            are float32 again when they are loaded.

    Raises:
        ConfigError: There is no such dtype.
        CheckpointError: The folder cannot be written, or weights that are not finite as int8.
    """
    check_dtype(dtype)
    with atomic_folder(folder, CheckpointError) as partial:
        _write_model_files(partial, model, tokenizer, card, dtype)


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    trainer: Mapping[str, Any],
    same: Path | None = None,
) -> None:
    """Write a model folder with the state of the trainer beside it, all of it to the last bit.

    Args:
        folder: Where; it appears whole or not at all.
        model: As for `save_model`.
        tokenizer: As for `save_model`.
        card: As for `save_model`.
        trainer: A tree of dicts, lists, scalars and tensors.
        same: A model folder in which this very model was saved just before: its files are shared where
            the file system can do that, and copied elsewhere.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    with atomic_folder(folder, CheckpointError) as partial:
        if same is None:
            _write_model_files(partial, model, tokenizer, card, "fp32")
        else:
            for name in (fmt.CONFIG, fmt.WEIGHTS, fmt.TOKENIZER, fmt.CARD):
                _share_file(same / name, partial / name)
        values, tensors = fmt.split_tree(trainer)
        fmt.save_tensors(partial / fmt.TRAINER_TENSORS, tensors)
        digests = fmt.digests_of(partial, [fmt.CONFIG, fmt.WEIGHTS, fmt.TRAINER_TENSORS])
        content = {"format": fmt.FORMAT_VERSION, "digests": digests, "state": values}
        write_json(partial / fmt.TRAINER, content, CheckpointError)


def _write_model_files(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer, card: Mapping[str, Any], dtype: str
) -> None:
    fmt.save_tensors(folder / fmt.WEIGHTS, pack_weights(model.state_dict(), dtype))
    save_tokenizer(tokenizer, folder / fmt.TOKENIZER)
    (folder / fmt.CARD).write_text(_card_text(model, card, dtype), encoding="utf-8")
    config = {
        "format": fmt.FORMAT_VERSION,
        "sharnn": sharnn.__version__,
        "weights": dtype,
        "model": to_dict(model.config),
        "card": dict(card),
        "digests": fmt.digests_of(folder, [fmt.WEIGHTS, fmt.TOKENIZER]),
    }
    write_json(folder / fmt.CONFIG, config, CheckpointError)


def _share_file(source: Path, target: Path) -> None:
    """Give a file, which nobody alters once it is written, a second name; copy it where that fails."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _card_text(model: LanguageModel, card: Mapping[str, Any], dtype: str) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in card.items())
    return (
        f"# {model.config.architecture} language model, {model.num_parameters():,} parameters in "
        f"{dtype}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        "Sample it with `sharnn generate FOLDER`, score it with `sharnn evaluate FOLDER TEXT`.\n"
    )
