"""`sharnn export` writes models that load anywhere, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.calls import fails
from models import write_model
from sharnn.checkpoint import load_model
from sharnn.cli.main import main


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", embed_dim=64, boom_dim=256)
    return tmp_path / "model"


def test_an_exported_model_is_the_model(model: Path, tmp_path: Path) -> None:
    assert main(["export", str(model), "--out", str(tmp_path / "out")]) == 0
    assert load_model(tmp_path / "out").digest == load_model(model).digest
    assert load_model(tmp_path / "out").card == load_model(model).card


def test_a_smaller_dtype_takes_less_space(model: Path, tmp_path: Path) -> None:
    for dtype in ("bf16", "int8"):
        assert main(["export", str(model), "--dtype", dtype, "--out", str(tmp_path / dtype)]) == 0
        assert load_model(tmp_path / dtype).dtype == dtype
    assert folder_bytes(tmp_path / "int8") < folder_bytes(tmp_path / "bf16") < folder_bytes(model)
    again = ["export", str(tmp_path / "int8"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert load_model(tmp_path / "again").digest == load_model(tmp_path / "int8").digest


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "--out is missing"),
        (["--out", "model"], 2, "model exists"),
        (["--out", "new", "--to", "pickle"], 2, "--to"),
        (["--out", "new", "--dtype", "fp8"], 2, "--dtype"),
        (["--out", "model/config.json/new"], 1, "a file is in the way"),
    ],
)
def test_what_cannot_be_exported_is_told(
    argv: list[str], code: int, message: str, model: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(model.parent)
    before = folder_bytes(model)
    fails(["export", "model", *argv], code, message, capsys)
    assert folder_bytes(model) == before
    assert not (model.parent / "new").exists()
