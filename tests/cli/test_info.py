"""`sharnn info`: what a model and a machine are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.calls import fails
from sharnn import kernels
from sharnn.cli.main import main


def test_info_tells_instruction_sets_and_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARNN_CPU", "portable")
    with kernels.at(kernels.NONE):
        assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["instruction sets"].startswith("portable; available: portable, ")
    assert facts["kernels"] == "none: switched off"


def test_info_tells_sizes_of_a_model(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["model"]["embed_dim"] == 16
    assert facts["parameters"] > facts["parameters, value gates folded"]
    assert main(["info", str(tiny_run)]) == 0
    assert "embed_dim" in capsys.readouterr().out


def test_failures_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["info", str(tmp_path / "no")], 1, "there is no model at", capsys)
