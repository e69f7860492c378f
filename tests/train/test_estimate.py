"""Operations of a step, and the memory of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from sharnn.config import Recipe
from sharnn.model import count_parameters
from sharnn.train import estimate
from sharnn.train.estimate import available_memory_bytes
from train.runs import tiny_recipe

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


def test_muon_counts_among_what_a_step_multiplies() -> None:
    adamw, muon = (
        tiny_recipe({"embed_dim": 128}, optim={"name": name}) for name in ("adamw", "muon")
    )
    # 12 maps D × D a block, a query and a value gate of two: 5 iterations, 3 products.
    extra = estimate.step_flops(muon) - estimate.step_flops(adamw)
    assert extra == pytest.approx(27 * 5 * 3 * 2 * 128**3, rel=0.05)
    assert estimate.step_flops(adamw, 6) == estimate.step_flops(adamw) / 2


def by_hand(recipe: Recipe) -> float:
    """Count attention's products over the pairs of a position and a row in its reach."""
    model, length = recipe.model, recipe.data.segment_length
    window, flops = model.window, 0
    for position in range(length):
        own = min(position + 1, window)
        memory = max(window - length, 0) if model.reach == "segment" else window - own
        flops += model.embed_dim * (8 * memory + 12 * own)
    return len(model.attending_blocks) * flops / length


@pytest.mark.parametrize("reach", ["sliding", "segment"])
@pytest.mark.parametrize("window", [1, 7, 16, 50])
def test_operations_of_a_token(window: int, reach: str) -> None:
    sizes = {"embed_dim": 32, "window": window, "reach": reach, "residual": False}
    recipe = tiny_recipe(sizes, data={"segment_length": 16})
    attention = estimate.attention_flops_per_token(recipe)
    assert attention == pytest.approx(by_hand(recipe))
    gate = 2 * 32 * 32 + 2 * 32  # of the value gate, which a step computes once
    weights = count_parameters(recipe.model)
    assert 0 <= estimate.flops_per_token(recipe) - attention - 6 * (weights - gate) <= 6 * 64
