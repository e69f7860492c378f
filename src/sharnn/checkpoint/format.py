"""What lies in a model folder and in a checkpoint, and how trees of tensors become files.

A model folder is portable and holds no code:

    config.json         format, version, dtype of the weights, the model's settings, the card's facts,
                        a digest of each other file that is computed with
    model.safetensors   the weights, see `checkpoint.weights`
    tokenizer.json      the tokenizer
    README.md           the card: recipe, data, scores

A run keeps its best model as such a folder. Its last checkpoint is one with two more files:

    trainer.safetensors optimiser moments, LSTM states and attention memories, generator states
    trainer.json        everything else that a resume needs, and digests of all files beside it

The file with the digests is the last to be read as a whole: a part that was cut, altered or taken
from elsewhere is found before anything is computed with it.
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
from sharnn.files import sha256_of_file

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
TRAINER, TRAINER_TENSORS = "trainer.json", "trainer.safetensors"

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
    """Undo `split_tree`, but for tuples, which come back as lists, and keys, which are strings."""
    if isinstance(tree, dict):
        if set(tree) == {_TENSOR_KEY}:
            return tensors[tree[_TENSOR_KEY]]
        return {key: join_tree(value, tensors) for key, value in tree.items()}
    return [join_tree(value, tensors) for value in tree] if isinstance(tree, list) else tree


def tensor_bytes(tree: Any) -> int:
    """Return the bytes of all tensors in a tree."""
    return sum(tensor.nbytes for tensor in split_tree(tree)[1].values())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors from any device as safetensors; those that share memory are written each.

    Raises:
        CheckpointError: The file cannot be written, on a full disk say.
    """
    on_host: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        place = tensor.untyped_storage().data_ptr()
        # The library refuses memory that is shared, as that of states which are all zeros.
        on_host[name] = tensor.clone() if place in written else tensor
        written.add(place)
    try:
        save_file(on_host, path)
        # The library lets none but the owner read; whoever may read the folder may read this too.
        path.chmod(path.parent.stat().st_mode & 0o666)
    except SafetensorError as failure:  # the library wraps what the system said
        raise CheckpointError(
            f"cannot write {path.parent}: {failure}: is the disk full, or the folder read-only?"
        ) from failure


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the tensors in a file.

    Raises:
        CheckpointError: The file is missing, cut or no safetensors.
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
    """Return the SHA-256 of files in `folder` by name."""
    return {name: sha256_of_file(folder / name) for name in names}


def check_digests(folder: Path, recorded: Mapping[str, str], manifest: str) -> None:
    """Compare files with what `manifest` says of them.

    Raises:
        CheckpointError: Names the file that is missing or is not the one that was written.
    """
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the folder is incomplete")
        found = sha256_of_file(path)
        if found != expected:
            raise CheckpointError(
                f"{path} is not the file that {manifest} was written with (SHA-256 {found[:12]}…, "
                f"expected {expected[:12]}…): it is truncated, altered or from another folder"
            )
