"""Reading model folders and checkpoints, and finding them in run folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharnn.checkpoint import format as fmt
from sharnn.checkpoint.run_folder import RunFolder
from sharnn.checkpoint.weights import WEIGHT_DTYPES, unpack_weights
from sharnn.config import ModelConfig, check_keys
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer, load_tokenizer

#: Name of the model that is shipped with the package.
BASE = "base"
#: Its folder in the package; an installation may lack it.
SHIPPED = Path(__file__).parents[1] / "weights" / BASE


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder, without the values of the weights.

    Attributes:
        folder: Its path.
        config: The model's settings.
        tokenizer: The tokenizer the model was trained with.
        card: The facts that were written with the model.
        dtype: Dtype of the matrices on disk.
        digest: SHA-256 of the weights file.
    """

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    card: dict[str, Any]
    dtype: str
    digest: str

    @property
    def writes_utf8(self) -> bool:
        """Whether the model was trained on valid UTF-8, as far as it is known."""
        return self.card.get(fmt.VALID_UTF8, True) is not False


@dataclass(frozen=True)
class LoadedModel(ModelFolder):
    """A model folder in memory.

    Attributes:
        model: In evaluation mode and float32, whatever its dtype on disk.
    """

    model: LanguageModel


def is_model(path: str | Path) -> bool:
    """Return whether `path` names a model: `base`, a model folder, or any run folder, even a new one."""
    return str(path) == BASE or _find(Path(path)) is not None or RunFolder(Path(path)).exists()


def resolve_model_folder(path: str | Path) -> Path:
    """Return the model folder that `path` refers to.

    Args:
        path: A model folder, or a run folder for its best or else its last model. `base` is the model
            shipped with sharnn, unless the current folder has a model or run folder of that name.

    Raises:
        CheckpointError: There is no such model.
    """
    is_base, path = str(path) == BASE, Path(path)
    found = _find(path)
    if found is not None:
        return found
    if RunFolder(path).exists():
        raise CheckpointError(
            f"the run {path} has no checkpoint yet: resume its training until it saves one"
        )
    if is_base:
        return shipped_model()
    if not path.exists():
        raise CheckpointError(
            f"there is no model at {path}: give a model folder, a run folder or '{BASE}'"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file: give a model folder or a run folder")
    raise CheckpointError(
        f"{path} is not a model folder, for it has no {fmt.CONFIG}: give a model folder or a run folder"
    )


def shipped_model() -> Path:
    """Return the folder of the model that is shipped with sharnn.

    Raises:
        CheckpointError: This installation has no shipped model.
    """
    if not (SHIPPED / fmt.CONFIG).is_file():
        raise CheckpointError(
            f"this installation of sharnn comes without the model '{BASE}' ({SHIPPED} is missing): "
            "give a model folder or a run folder, or install sharnn again"
        )
    return SHIPPED


def read_model_folder(path: str | Path) -> ModelFolder:
    """Check a model folder and return all of it except the weights.

    Args:
        path: As for `resolve_model_folder`.

    Raises:
        CheckpointError: There is no model, or a part is missing, truncated, altered or of a newer format.
    """
    folder = resolve_model_folder(path)
    manifest = folder / fmt.CONFIG
    content = fmt.read_manifest(manifest)
    unknown = {fmt.WEIGHTS, fmt.TOKENIZER} - set(content["digests"])
    if unknown:
        raise CheckpointError(f"{manifest} was altered: it has no digest of {min(unknown)}")
    fmt.check_digests(folder, content["digests"], fmt.CONFIG)
    config = _model_config(manifest, content.get("model"))
    try:
        tokenizer = load_tokenizer(folder / fmt.TOKENIZER)
    except DataError as failure:
        raise CheckpointError(str(failure)) from failure
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder / fmt.TOKENIZER} has {tokenizer.vocab_size} tokens, but the model expects "
            f"{config.vocab_size}: they are not from the same folder"
        )
    dtype, digest = _weight_dtype(manifest, content), content["digests"][fmt.WEIGHTS]
    return ModelFolder(folder, config, tokenizer, content.get("card", {}), dtype, digest)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model folder, or the best model of a run folder.

    Args:
        path: The folder, or `base` for the model shipped with sharnn.
        device: Device of the weights.

    Raises:
        CheckpointError: There is no model, or a part is missing, truncated, altered or of a newer format.
    """
    read = read_model_folder(path)
    model = LanguageModel(read.config).to(device)
    load_weights(model, read.folder)
    return LoadedModel(**vars(read), model=model.eval())


def load_weights(model: LanguageModel, folder: Path) -> None:
    """Load the weights of a model folder into `model`, whatever their dtype on disk.

    Raises:
        CheckpointError: They have other shapes than the model's, or cannot be read.
    """
    path, manifest = folder / fmt.WEIGHTS, folder / fmt.CONFIG
    dtype = _weight_dtype(manifest, fmt.read_manifest(manifest))
    weights = unpack_weights(fmt.load_tensors(path, model.device), dtype, path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as failure:
        first = str(failure).splitlines()[1:2]
        raise CheckpointError(
            f"{path} does not fit the model's settings: {''.join(first).strip()}"
        ) from failure


def load_trainer_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the trainer's state in a checkpoint, with tensors on `device` and keys as strings.

    Raises:
        CheckpointError: It has none, or a part is missing, truncated, altered or from another folder.
    """
    path = folder / fmt.TRAINER
    if not fmt.is_checkpoint(folder):
        raise CheckpointError(
            f"{folder} has no {fmt.TRAINER}: it is a model, not a checkpoint of a run"
        )
    content = fmt.read_manifest(path)
    fmt.check_digests(folder, content["digests"], fmt.TRAINER)
    try:
        return fmt.join_tree(
            content["state"], fmt.load_tensors(folder / fmt.TRAINER_TENSORS, device)
        )
    except KeyError as failure:
        raise CheckpointError(f"{path} names a tensor that is missing: {failure}") from failure


def _find(path: Path) -> Path | None:
    """Return the model folder that `path` is or, as a run or one of its links, means."""
    run, around = RunFolder(path), RunFolder(path.parent)
    for folder in (path, run.best, run.last):
        if (folder / fmt.CONFIG).is_file():
            return folder
    if path == around.best:
        return around.best_model()
    return around.last_checkpoint() if path == around.last else run.best_model()


def _weight_dtype(path: Path, content: dict[str, Any]) -> str:
    """Return the dtype of a folder's weights: fp32 where the manifest, of an older version, has none."""
    dtype = content.get("weights", "fp32")
    if dtype not in WEIGHT_DTYPES:
        raise CheckpointError(
            f"{path} declares weights in {dtype!r}, but this version of sharnn reads "
            f"{', '.join(WEIGHT_DTYPES)}: use the version that wrote it "
            f"({content.get('sharnn', 'unknown')})"
        )
    return dtype


def _model_config(path: Path, settings: Any) -> ModelConfig:
    try:
        check_keys(settings, ModelConfig.__dataclass_fields__, str(path))
        return ModelConfig(**settings)
    except (ConfigError, TypeError) as failure:
        raise CheckpointError(f"{path} contains invalid model settings: {failure}") from failure
