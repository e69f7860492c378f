"""Writing model folders and checkpoints atomically."""

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
    folder: str | Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: Mapping[str, Any] | None = None,
    dtype: str = "fp32",
) -> None:
    """Write a model folder, replacing an existing one.

    Args:
        folder: Where to write it; it appears complete or not at all.
        model: The model; it is not changed.
        tokenizer: The model's tokenizer.
        card: Facts for the README, name to value, in this order; none if not given.
        dtype: Dtype of its matrices on disk: `fp32`, `bf16` (half the size) or `int8` (a quarter).
            Loading converts them to float32.

    Raises:
        ConfigError: The dtype is unknown.
        CheckpointError: The folder cannot be written, or the dtype is int8 and weights are not finite.
    """
    check_dtype(dtype)
    with atomic_folder(Path(folder), CheckpointError) as partial:
        _write_model_files(partial, model, tokenizer, card or {}, dtype)


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    trainer: Mapping[str, Any],
    same: Path | None = None,
) -> None:
    """Write a model folder together with the exact state of the trainer.

    Args:
        folder: Where to write it; it appears complete or not at all.
        model: As for `save_model`.
        tokenizer: As for `save_model`.
        card: As for `save_model`.
        trainer: The trainer's state: a tree of dicts, lists, scalars and tensors.
        same: A model folder to which this same model has just been saved: its files are hard-linked
            where the file system allows it, and copied otherwise.

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
    """Hard-link a file, which is never changed after it is written; copy it where that fails."""
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
