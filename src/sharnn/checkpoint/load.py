"""Reading model folders and checkpoints, and finding them in run folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharnn.checkpoint import format as fmt
from sharnn.config import ModelConfig, check_keys
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.files import read_json
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer, load_tokenizer

BEST, LAST = "best", "last"


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory.

    Attributes:
        model: In evaluation mode.
        tokenizer: The one it was trained with.
        folder: Where it lies.
        card: The facts that were written with it.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    folder: Path
    card: dict[str, Any]


def resolve_model_folder(path: str | Path) -> Path:
    """Return the model folder that `path` means: itself, or of a run folder the best, else the last.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no model at {path}: give a model folder or a run folder")
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file: give the folder of a model or of a run")
    for folder in (path, path / BEST, path / LAST):
        if (folder / fmt.CONFIG).is_file():
            return folder
    if (path / "recipe.yaml").is_file():
        raise CheckpointError(
            f"the run {path} has no checkpoint yet: go on with 'sharnn train --resume {path}'"
        )
    raise CheckpointError(f"{path} is not a model folder: it has no {fmt.CONFIG}")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model folder, or the best model of a run folder.

    Args:
        path: The folder.
        device: Where the weights go.

    Raises:
        CheckpointError: Nothing there, or a part is missing, cut, altered or of a newer format.
    """
    folder = resolve_model_folder(path)
    config = _read_manifest(folder / fmt.CONFIG)
    fmt.check_digests(folder, config["digests"], fmt.CONFIG)
    model_config = _model_config(folder / fmt.CONFIG, config["model"])
    try:
        tokenizer = load_tokenizer(folder / fmt.TOKENIZER)
    except DataError as failure:
        raise CheckpointError(str(failure)) from failure
    if tokenizer.vocab_size != model_config.vocab_size:
        raise CheckpointError(
            f"{folder / fmt.TOKENIZER} has {tokenizer.vocab_size} tokens, the model was made for "
            f"{model_config.vocab_size}: they are not from the same folder"
        )
    model = LanguageModel(model_config).to(device)
    load_weights(model, folder)
    return LoadedModel(model.eval(), tokenizer, folder, config.get("card", {}))


def load_weights(model: LanguageModel, folder: Path) -> None:
    """Put the weights of a model folder into `model`.

    Raises:
        CheckpointError: They are of another shape, or cannot be read.
    """
    path = folder / fmt.WEIGHTS
    weights = fmt.load_tensors(path, model.device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as failure:
        first = str(failure).splitlines()[1:2]
        raise CheckpointError(
            f"{path} does not fit the model's settings: {''.join(first).strip()}"
        ) from failure


def load_trainer_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the trainer's state in a checkpoint, tensors on `device`, keys as strings.

    Raises:
        CheckpointError: It has none, or a part is missing, cut, altered or from elsewhere.
    """
    path = folder / fmt.TRAINER
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {fmt.TRAINER}: it is a model, not a checkpoint of a run"
        )
    content = _read_manifest(path)
    fmt.check_digests(folder, content["digests"], fmt.TRAINER)
    try:
        return fmt.join_tree(
            content["state"], fmt.load_tensors(folder / fmt.TRAINER_TENSORS, device)
        )
    except KeyError as failure:
        raise CheckpointError(f"{path} names a tensor that is missing: {failure}") from failure


def _read_manifest(path: Path) -> dict[str, Any]:
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict) or not isinstance(content.get("digests"), dict):
        raise CheckpointError(f"{path} was not written by sharnn: it has no digests")
    if content.get("format") != fmt.FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {content.get('format')}, this version of sharnn reads format "
            f"{fmt.FORMAT_VERSION}: use the version that wrote it ({content.get('sharnn', 'unknown')})"
        )
    return content


def _model_config(path: Path, settings: Any) -> ModelConfig:
    try:
        check_keys(settings, ModelConfig.__dataclass_fields__, str(path))
        return ModelConfig(**settings)
    except (ConfigError, TypeError) as failure:
        raise CheckpointError(f"{path} holds settings that make no model: {failure}") from failure
