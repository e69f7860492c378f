"""A folder imports only from tiers above it, and siblings not at all (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TIERS = [
    {"errors", "files", "amounts", "config", "recipe", "machine", "kernels"},
    {"text", "ops"},
    {"data", "model", "optim"},
    {"checkpoint"},
    {"evaluate", "generation"},
    {"train", "report"},
    {"experiments"},
    {"cli"},
]
ROOT = Path(__file__).parents[1] / "src" / "sharnn"
MODULES = sorted(ROOT.rglob("*.py"))


def part_of(module: Path) -> str:
    relative = module.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_parts(module: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sharnn."):
            parts.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            parts.update(a.name.split(".")[1] for a in node.names if a.name.startswith("sharnn."))
    return parts


def tier_of(part: str) -> int:
    return next(index for index, tier in enumerate(TIERS) if part in tier)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_point_upwards(module: Path) -> None:
    part = part_of(module)
    if part in ("__init__", "__main__"):
        return
    for imported in imported_parts(module) - {part}:
        allowed = tier_of(imported) < tier_of(part) or part == imported
        same_top = tier_of(part) == 0 and tier_of(imported) == 0
        assert allowed or same_top, f"{part} may not import {imported}"


def test_every_part_has_a_tier() -> None:
    parts = {part_of(module) for module in MODULES} - {"__init__", "__main__"}
    assert parts == set().union(*TIERS)
