"""What a run may plan with."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from sharnn.config import load_recipe_settings, recipe_from_settings
from sharnn.train import estimate
from sharnn.train.estimate import available_memory_bytes
from sharnn.train.precision import Precision

CPU = torch.device("cpu")
FREE = psutil.virtual_memory().total
VERSION_1 = {
    "memory/memory.limit_in_bytes": "3000000", "memory/memory.usage_in_bytes": "2500000",
    "memory/memory.stat": "cache 1\ntotal_inactive_file 400000\n",
}  # fmt: skip
VERSION_2 = {
    "memory.max": "3000000\n", "memory.current": "2500000\n",
    "memory.stat": "anon 1\ninactive_file 400000\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "least", "most"),
    [
        (VERSION_1, 900_000, 900_000),
        (VERSION_2, 900_000, 900_000),
        ({**VERSION_2, "memory.max": "max\n"}, 1_000_000, FREE),
        ({**VERSION_2, "memory.current": "9000000\n"}, 0, 0),
        ({}, 1_000_000, FREE),
    ],
)
def test_a_containers_limit_is_kept(
    files: dict[str, str], least: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(estimate, "_CGROUP", tmp_path)
    assert least <= available_memory_bytes(CPU) <= most


def test_few_lanes_wait_for_the_token_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds of an H200 at its 784 TFLOP/s (benchmarks/results/nvidia-h200*.md), within 15%."""
    monkeypatch.setattr(estimate, "_probe_flops", lambda precision: 784e12)
    measured = {"enwik8-hour": 611_020, "paper-enwik8-one": 103_380}
    for name, tokens_per_second in measured.items():
        recipe = recipe_from_settings(load_recipe_settings(name))
        ours = estimate.estimate_run(recipe, Precision(CPU, torch.bfloat16), 90_000_000)
        assert ours.tokens_per_second == pytest.approx(tokens_per_second, rel=0.15)
