"""What the shipped model knows is worth time: fine-tuning it gets somewhere sooner than from nothing."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import pytest

from sharnn.checkpoint.load import SHIPPED
from sharnn.cli.main import main

pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="no model is shipped yet")

#: Bits per byte that are to be reached.
_WANTED = 2.6
_MOST_STEPS = 60


def validations(run: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "valid"]


def train(text: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    settings = [
        "--data.num_lanes", "16", "--data.segment_length", "64", "--train.validate_every", "2steps",
        "--train.validation_tokens", "2000", "--device", "cpu",
    ]  # fmt: skip
    assert main(["train", str(text), "--out", str(out), *options, *settings]) == 0
    return validations(out)


def test_fine_tuning_needs_fewer_seconds_than_training_from_nothing(tmp_path: Path) -> None:
    """On English that every Python carries: its reference of the language."""
    text = tmp_path / "reference.txt"
    text.write_text("\n".join(pydoc_data.topics.topics.values())[:120_000])
    tuned = train(text, tmp_path / "tuned", "--from", "base", "--budget", "4steps")
    reached = next(v["seconds"] for v in tuned if v["bits_per_byte"] <= _WANTED)
    scratch = train(text, tmp_path / "scratch", "--budget", f"{_MOST_STEPS}steps")
    times = [v["seconds"] for v in scratch if v["bits_per_byte"] <= _WANTED]
    assert min(times, default=scratch[-1]["seconds"]) > reached
    assert tuned[-1]["bits_per_byte"] < tuned[0]["bits_per_byte"]
