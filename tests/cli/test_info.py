from __future__ import annotations

import json

import pytest

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
