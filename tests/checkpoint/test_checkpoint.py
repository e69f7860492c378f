"""Model folders and checkpoints: what is written is read, what is damaged is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import make_model, ship, write_model
from sharnn.checkpoint import (
    is_model,
    load_model,
    load_trainer_state,
    read_model_folder,
    resolve_model_folder,
    save_checkpoint,
    save_model,
    shipped_model,
)
from sharnn.checkpoint.format import join_tree, split_tree
from sharnn.errors import CheckpointError
from sharnn.files import sha256_of_file
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer


def save(folder: Path, seed: int = 0, **settings: object) -> LanguageModel:
    model = make_model(seed, **settings)
    state = {"step": 7, "tensors": [torch.arange(3), {"deep": torch.ones(2)}], "none": None}
    save_checkpoint(folder, model, ByteTokenizer(), {"corpus": "zen"}, state)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual": True, "attention_layers": "all"},
        {"overparam_value_gate": False},
        {"architecture": "lstm", "window": None},
        {"architecture": "transformer"},
        {"split_softmax": [20, 100]},
    ],
)
def test_a_model_folder_brings_the_model_back(tmp_path: Path, settings: dict[str, object]) -> None:
    model = save(tmp_path / "model", **settings)
    loaded = load_model(tmp_path / "model")
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert loaded.card["corpus"] == "zen"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert "| corpus | zen |" in (tmp_path / "model" / "README.md").read_text()


def test_trainer_state_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "model")
    state = load_trainer_state(tmp_path / "model")
    assert state["step"] == 7
    assert state["none"] is None
    assert torch.equal(state["tensors"][0], torch.arange(3))
    assert torch.equal(state["tensors"][1]["deep"], torch.ones(2))


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    zeros = torch.zeros(3)
    state = {"hidden": zeros, "cell": zeros, "part": zeros[1:]}
    save_checkpoint(tmp_path / "model", make_model(), ByteTokenizer(), {}, state)
    loaded = load_trainer_state(tmp_path / "model")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        "hidden": [0, 0, 0], "cell": [0, 0, 0], "part": [0, 0],
    }  # fmt: skip


def test_trees_split_and_join() -> None:
    tree = {"a": [1, (2.5, "x")], "b": {"c": torch.ones(2)}, "d": None}
    values, tensors = split_tree(tree)
    assert json.loads(json.dumps(values))
    joined = join_tree(values, tensors)
    assert joined["a"] == [1, [2.5, "x"]]
    assert torch.equal(joined["b"]["c"], torch.ones(2))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, remove])
def test_a_damaged_model_is_told(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    save(folder)
    damage(folder / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(folder)


@pytest.mark.parametrize("name", ["trainer.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_damaged_trainer_state_is_told(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    save(folder)
    damage(folder / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_trainer_state(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer.safetensors"])
def test_a_file_from_another_folder_is_told(tmp_path: Path, name: str) -> None:
    save(tmp_path / "one", seed=1)
    save(tmp_path / "two", seed=2, window=9)
    (tmp_path / "two" / "trainer.safetensors").write_bytes(b"another state")
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match="another folder"):
        _load_both(tmp_path / "one")


def _load_both(folder: Path) -> None:
    load_model(folder)
    load_trainer_state(folder)


def test_weights_that_do_not_fit_the_settings_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["embed_dim"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit the model's settings"):
        load_model(folder)


def test_a_file_without_a_digest_is_told(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["digests"]["model.safetensors"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"has no digest of model\.safetensors"):
        load_model(tmp_path / "model")


def test_a_newer_format_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        load_model(folder)


def test_where_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no model at"):
        resolve_model_folder(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_model_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a model folder"):
        resolve_model_folder(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        resolve_model_folder(tmp_path)


def test_what_a_folder_says_without_its_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", dtype="int8")
    read, loaded = read_model_folder(tmp_path / "model"), load_model(tmp_path / "model")
    assert read.config == model.config
    assert (read.folder, read.card, read.dtype) == (loaded.folder, loaded.card, "int8")
    assert read.digest == loaded.digest == sha256_of_file(tmp_path / "model" / "model.safetensors")
    flip_a_byte(tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="altered"):
        read_model_folder(tmp_path / "model")


def test_base_is_the_model_that_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "shipped", dtype="int8")
    ship(tmp_path / "shipped", monkeypatch)
    for other in (None, "a file", "a folder"):  # of that name, but no model
        if other == "a file":
            Path("base").write_text("a text")
        if other == "a folder":
            Path("base").unlink()
            Path("base").mkdir()
        assert resolve_model_folder("base") == shipped_model() == tmp_path / "shipped"
    assert load_model("base").dtype == "int8"


def test_a_model_called_base_goes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "shipped")
    ship(tmp_path / "shipped", monkeypatch)
    Path("base").mkdir()
    Path("base/recipe.yaml").write_text("")
    with pytest.raises(CheckpointError, match="the run base has no checkpoint yet"):
        resolve_model_folder("base")
    write_model(Path("base/last"))
    assert resolve_model_folder("base") == Path("base/last")
    write_model(Path("base/best"))
    assert resolve_model_folder("base") == Path("base/best")
    assert shipped_model() == tmp_path / "shipped"
    with pytest.raises(CheckpointError, match="there is no model at"):
        resolve_model_folder("elsewhere/base")


def test_an_installation_without_a_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ship(None, monkeypatch)
    with pytest.raises(CheckpointError, match="comes without the model 'base'"):
        load_model("base")


def test_what_names_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("model"))
    write_model(Path("run/last"))
    Path("new").mkdir()
    Path("new/recipe.yaml").write_text("")
    Path("texts").mkdir()
    Path("text").write_text("x")
    assert all(is_model(name) for name in ("base", "model", "run", Path("run/last"), "new"))
    assert not any(is_model(name) for name in ("texts", "text", "nothing", "text/base", "-", ""))


def test_a_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = save(folder)

    class Unwritable(ByteTokenizer):
        def to_json(self) -> dict[str, object]:
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="the disk is full"):
        save_model(folder, make_model(5), Unwritable(), {})
    loaded = load_model(folder).model
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
