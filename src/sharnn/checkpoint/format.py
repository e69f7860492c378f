"""The files of a model folder and of a checkpoint, and how trees of tensors are stored in them.

A model folder is portable and contains no code:

    config.json         format, version, dtype of the weights, the model's settings, the card's facts,
                        digests of the weights and of the tokenizer
    model.safetensors   the weights, see `checkpoint.weights`
    tokenizer.json      the tokenizer
    README.md           the card: recipe, data, scores

A checkpoint of a run has two more files:

    trainer.safetensors optimiser moments, LSTM states and attention memories, generator states
    trainer.json        everything else needed to resume, and digests of the files beside it

Digests are checked when a folder is read, so that a truncated, altered or foreign file is found
before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sharnn.errors import CheckpointError
from sharnn.files import read_json, sha256_of_file

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
TRAINER, TRAINER_TENSORS = "trainer.json", "trainer.safetensors"

#: The card's fact of this name is False for a model whose text was not valid UTF-8.
VALID_UTF8 = "text is valid UTF-8"

_TENSOR_KEY = "$tensor"


def split_tree(tree: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Return a tree of dicts, lists, scalars and tensors as JSON values and named tensors."""
    if isinstance(tree, Tensor):
        return {_TENSOR_KEY: path}, {path: tree}
    items: Any
    if isinstance(tree, Mapping):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return tree, {}
    values, tensors = {}, {}
    for key, value in items:
        values[key], found = split_tree(value, f"{path}.{key}" if path else key)
        tensors.update(found)
    return (values if isinstance(tree, Mapping) else list(values.values())), tensors


def join_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `split_tree`, except that tuples become lists and keys become strings."""
    if isinstance(tree, dict):
        if set(tree) == {_TENSOR_KEY}:
            return tensors[tree[_TENSOR_KEY]]
        return {key: join_tree(value, tensors) for key, value in tree.items()}
    return [join_tree(value, tensors) for value in tree] if isinstance(tree, list) else tree


def tensor_bytes(tree: Any) -> int:
    """Return the total size of all tensors in a tree, in bytes."""
    return sum(tensor.nbytes for tensor in split_tree(tree)[1].values())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors from any device as safetensors; tensors that share memory are written separately.

    Raises:
        CheckpointError: The file cannot be written, for example because the disk is full.
    """
    on_host: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        place = tensor.untyped_storage().data_ptr()
        # The library refuses shared memory, which all-zero states have.
        on_host[name] = tensor.clone() if place in written else tensor
        written.add(place)
    try:
        save_file(on_host, path)
        # The library makes the file readable by its owner only; give it the folder's permissions.
        path.chmod(path.parent.stat().st_mode & 0o666)
    except SafetensorError as failure:  # the library wraps the system's error
        raise CheckpointError(
            f"cannot write {path.parent}: {failure}: is the disk full, or the folder read-only?"
        ) from failure


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the tensors in a file.

    Raises:
        CheckpointError: The file is missing, truncated or not in safetensors format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the folder is incomplete")
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as failure:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({failure}): it is truncated or was altered"
        ) from failure


def digests_of(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of each named file in `folder`, by name."""
    return {name: sha256_of_file(folder / name) for name in names}


def check_digests(folder: Path, recorded: Mapping[str, str], manifest: str) -> None:
    """Compare files with the digests recorded in `manifest`.

    Raises:
        CheckpointError: A file is missing or has another digest; the message names it.
    """
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the folder is incomplete")
        found = sha256_of_file(path)
        if found != expected:
            raise CheckpointError(
                f"{path} does not match {manifest} (SHA-256 {found[:12]}…, expected "
                f"{expected[:12]}…): it is truncated, altered or from another folder"
            )


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the content of `config.json` or `trainer.json`.

    Raises:
        CheckpointError: It is missing, damaged or of another format.
    """
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict) or not isinstance(content.get("digests"), dict):
        raise CheckpointError(
            f"{path} has no digests: it was not written by sharnn, or was altered"
        )
    if content.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {content.get('format')}, but this version of sharnn reads format "
            f"{FORMAT_VERSION}: use the version that wrote it ({content.get('sharnn', 'unknown')})"
        )
    return content


def is_checkpoint(folder: Path) -> bool:
    """Return whether a model folder also contains a trainer's state."""
    return (folder / TRAINER).is_file()


def read_counters(folder: Path) -> dict[str, Any]:
    """Return the training counters saved in a checkpoint, as JSON values.

    Raises:
        CheckpointError: It is not a checkpoint of a run, or was truncated or altered.
    """
    try:
        return dict(read_manifest(folder / TRAINER)["state"]["counters"])
    except (KeyError, TypeError) as failure:
        raise CheckpointError(
            f"{folder / TRAINER} has no training counters: it was altered, use another checkpoint"
        ) from failure
