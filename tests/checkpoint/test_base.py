"""The model that comes with sharnn: whole, small, honest about its origin, and at work."""

from __future__ import annotations

import json

import pytest

from sharnn.checkpoint import load_model, shipped_model
from sharnn.checkpoint.load import SHIPPED
from sharnn.cli.main import main

pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="no model is shipped yet")


def test_it_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in shipped_model().iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert sum(files.values()) < 16 * 2**20
    load_model(shipped_model())  # compares digests


def test_its_card_names_licence_and_data() -> None:
    card = load_model(shipped_model()).card
    text = (shipped_model() / "README.md").read_text(encoding="utf-8")
    for fact in ("licence", "data"):
        assert card[fact]
        assert f"| {fact} | {card[fact]} |" in text


@pytest.mark.parametrize("options", [[], ["--dtype", "int8"], ["--dtype", "bf16"]])
def test_it_continues_a_prompt(
    options: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call = ["generate", "--prompt", "The history of", "--max-bytes", "40", "--json", *options]
    assert main(call) == 0
    sample = json.loads(capfdbinary.readouterr().out)
    assert sample["prompt"] == "The history of"
    assert 0 < sample["num_bytes"] <= 40
    assert len(sample["text"].encode()) == sample["num_bytes"]
