"""Lengths of training as text, and the shares of them that are done."""

from __future__ import annotations

import pytest

from sharnn.amounts import Amount, Progress
from sharnn.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("90s", 90, "seconds"), ("10m", 600, "seconds"), ("1.5h", 5400, "seconds"),
        ("5000steps", 5000, "steps"), ("1step", 1, "steps"), ("3epochs", 3, "epochs"),
        ("50Mtokens", 50e6, "tokens"), ("2ktokens", 2000, "tokens"), ("5%", 0.05, "budget"),
    ],
)  # fmt: skip
def test_amounts(text: str, value: float, unit: str) -> None:
    amount = Amount.parse(text, "option")
    assert (amount.value, amount.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize("text", ["", "10", "m", "10 parsecs", "5Ms", "-3s", "101%", "3kepochs%"])
def test_bad_amounts(text: str) -> None:
    with pytest.raises(ConfigError, match="option is"):
        Amount.parse(text, "option")


def test_shares() -> None:
    half = Progress(seconds=5, steps=10, epochs=1, tokens=100, budget=0.5)
    for text in ("10s", "20steps", "2epochs", "200tokens", "100%"):
        assert Amount.parse(text, "option").share_of(half) == 0.5
    assert Amount.parse("0steps", "option").share_of(half) > 1
