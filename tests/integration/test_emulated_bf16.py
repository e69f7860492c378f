"""Where the hardware has no products in bf16, nothing multiplies in it: that is emulated, slowly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import write_model
from sharnn import machine

pytestmark = pytest.mark.skipif(
    "avx2" not in machine.levels(), reason="only levels of x86 processors emulate bf16"
)


def test_neither_training_nor_prompts_nor_scoring_multiply_in_bf16(tmp_path: Path) -> None:
    models = [tmp_path / dtype for dtype in ("fp32", "bf16")]
    for model in models:
        write_model(model, dtype=model.name)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("products.py"), tmp_path / "runs", *models],
        env={**os.environ, machine.VARIABLE: "avx2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # `import this` prints too
    assert found.pop("a product in bf16") == ["bfloat16"]
    assert {f"training {name}" for name in ("demo", "finetune", "transformer")} < found.keys()
    assert {f"scoring, {model.name}" for model in models} < found.keys()
    for part, dtypes in found.items():
        assert "float32" in dtypes, part
        assert "bfloat16" not in dtypes, part
