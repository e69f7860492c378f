"""A folder imports only from tiers above it, and siblings not at all (docs/architecture.md)."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

TIERS = [
    {"errors", "files", "amounts", "config", "recipe", "machine", "kernels"},
    {"text", "ops"},
    {"data", "model", "optim"},
    {"checkpoint"},
    {"evaluate", "generation"},
    {"train", "report"},
    {"experiments", "api"},
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
        parts.update(called_parts(node))
    return parts


def called_parts(node: ast.AST) -> set[str]:
    """Return what a subprocess imports: `python -m sharnn …` the command line, a program what it says."""
    if isinstance(node, ast.List | ast.Tuple):
        words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
        return {"cli"} if ("-m", "sharnn") in itertools.pairwise(words) else set()
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return set(re.findall(r"from sharnn\.(\w+)[\w.]* import", node.value))
    return set()


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


def test_the_tokenization_attack_can_be_removed_with_its_verb() -> None:
    own = ROOT / "experiments" / "attack"
    users = [
        module.relative_to(ROOT)
        for module in MODULES
        if own not in module.parents and "sharnn.experiments.attack" in module.read_text("utf-8")
    ]
    assert users == [Path("cli") / "tokenization_attack.py"]


def test_every_part_has_a_tier() -> None:
    parts = {part_of(module) for module in MODULES} - {"__init__", "__main__"}
    assert parts == set().union(*TIERS)


def test_a_subprocess_is_seen() -> None:
    calls = ast.parse('run([sys.executable, "-m", "sharnn", "train"])')
    assert set().union(*map(called_parts, ast.walk(calls))) == {"cli"}
    program = ast.parse('"from sharnn.train.worker import main; main()"')
    assert set().union(*map(called_parts, ast.walk(program))) == {"train"}
