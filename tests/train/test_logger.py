"""What the terminal shows of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sharnn.train.logger import TerminalLogger, describe_plan, format_seconds
from train.runs import make_trainer, tiny_corpus, tiny_recipe


def shown(*records: dict[str, Any], terminal: bool = False) -> str:
    output = io.StringIO()
    with TerminalLogger(Console(file=output, width=160, force_terminal=terminal)) as logger:
        for record in records:
            logger.log(record)
    return output.getvalue()


def test_a_run_shows_each_validation_and_its_end(tmp_path: Path) -> None:
    output = io.StringIO()
    recipe = tiny_recipe(train={"budget": "4steps", "validate_every": "2steps"})
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path))
    trainer.journal.loggers.append(TerminalLogger(Console(file=output, width=160)))
    best = trainer.run().counters.best_bits_per_byte
    lines = output.getvalue().splitlines()
    scores = [line for line in lines if "  valid " in line]
    assert [line.split()[1] for line in scores] == ["2", "4"]
    assert any(f"valid {best:.4f} bits/byte  best so far" in line for line in scores)
    assert "s validating and " in lines[-1]


def test_scores_and_losses_that_are_not_finite_are_shown_as_such() -> None:
    place = {
        "step": 7,
        "seconds": 61.0,
        "best_bits_per_byte": None,
        "bits_per_byte": None,
        "smooth": None,
    }
    assert shown({"kind": "valid", **place}).split() == [
        "step",
        "7",
        "1m01s",
        "valid",
        "not",
        "finite",
    ]
    step = {
        "kind": "train", **place, "tokens_per_second": 1_234.0, "memory_bytes": 2**30,
        "skipped_steps": 3, "seconds_left": None, "budget_used": 0.25,
    }  # fmt: skip
    for terminal in (False, True):
        text = shown(step, terminal=terminal)
        assert "step 7 · 1,234 tokens/s · 1.0 GiB · 3 skipped" in text
        assert "? left" in text
        assert "25%" in text


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            (2_048, 5, 1, []),
            "validate 2,048 tokens 5 times and save once, about 3.5% of the budget",
        ),
        ((None, 1, 2, []), "validate once and save twice, about 3.5% of the budget"),
        (
            (None, 0, 1, ["train.validate_every", "train.checkpoint_every"]),
            "save once, about 3.5% of the budget "
            "(train.validate_every, train.checkpoint_every as given)",
        ),
    ],
)
def test_a_plan_is_one_sentence(plan: tuple[Any, ...], sentence: str) -> None:
    names = ("validation_tokens", "validations", "checkpoints", "fixed")
    record = dict(zip(names, plan, strict=True)) | {"share": 0.035}
    assert describe_plan(record) == f"plan: {sentence}"


def test_durations() -> None:
    seconds = (None, -0.5, 42.9, 185, 7_800)
    assert [format_seconds(s) for s in seconds] == ["?", "0s", "42s", "3m05s", "2h10m"]


def test_a_narrow_terminal_keeps_the_time_left_and_what_the_run_does() -> None:
    output = io.StringIO()
    step = {
        "kind": "train", "step": 1_234, "best_bits_per_byte": 2.5, "bits_per_byte": 2.0, "smooth": 2.25,
        "tokens_per_second": 12_345.0, "memory_bytes": 2**31, "skipped_steps": 0, "seconds_left": 75,
        "budget_used": 0.4,
    }  # fmt: skip
    console = Console(file=output, width=70, force_terminal=True)
    with TerminalLogger(console) as logger:
        logger.log(step)
    with TerminalLogger(console) as logger:
        logger.note("step 1,234 · validating")
        logger.note("stopping", lasting=True)
    text = output.getvalue()
    assert " 40%" in text
    assert "1m15s left · step 1,234" in text
    assert "step 1,234 · validating" in text
    assert "\nstopping\n" in text.replace("\r", "\n").replace("\x1b[2K", "")
