"""Made pairs: what is asked for stood before, as far back as was wanted, and costs what is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharnn.data.recall_task import RecallTask, find_asked, make_recall_text
from sharnn.errors import ConfigError

TASKS = [
    RecallTask(),
    RecallTask(pairs=5, key_digits=1, value_digits=2, shortest=8, longest=60, store_share=0.3),
]


@pytest.mark.parametrize("task", TASKS)
def test_every_asked_value_stood_where_it_is_said_to(task: RecallTask) -> None:
    text = make_recall_text(task, 30_000, seed=1).text
    asked = find_asked(text)
    assert asked.positions_QN.shape[1] == task.value_digits
    assert len(asked.distances_Q) == text.count(b"?")
    for position, distance in zip(asked.positions_QN[:, 0], asked.distances_Q, strict=True):
        key = slice(position - task.key_digits - 1, position + task.value_digits)
        before = slice(key.start - distance, key.stop - distance)
        assert text[key] == text[before]
        assert text.find(text[key], before.start + 1) == key.start  # and not since


def test_it_is_told_how_much_is_made() -> None:
    told: list[tuple[int, int]] = []
    made = make_recall_text(RecallTask(), 30_000, report=lambda *progress: told.append(progress))
    assert [total for _, total in told] == [30_000] * 3
    assert 0 < told[0][0] < told[1][0] < told[2][0] < len(made.text)
    assert made.num_asked == find_asked(made.text).positions_QN.size


def test_distances_are_spread_evenly_over_their_logarithm() -> None:
    distances = find_asked(make_recall_text(RecallTask(), 300_000).text).distances_Q
    counts = np.histogram(np.log2(distances), bins=range(5, 12))[0]
    assert counts.min() > 0.7 * counts.max()


@settings(max_examples=10)
@given(st.integers(200, 2000), st.integers(0, 5))
def test_a_seed_makes_one_text_and_a_shorter_one_begins_it(num_bytes: int, seed: int) -> None:
    text = make_recall_text(RecallTask(), num_bytes, seed).text
    assert num_bytes - 12 < len(text) <= num_bytes
    assert make_recall_text(RecallTask(), 2000, seed).text.startswith(text)
    assert not make_recall_text(RecallTask(), 2000, seed + 1).text.startswith(text)


def test_the_bound_counts_what_cannot_be_known() -> None:
    """One pair alone: all is known but whether the next line asks, and a new pair's digits."""
    task = RecallTask(pairs=1, key_digits=1, value_digits=1, store_share=0.25)
    made = make_recall_text(task, 50_000)
    asked = made.text.count(b"?")
    stored = made.text.count(b"=") - asked
    assert made.recalled_bits == 4 * asked
    expected = 8 * stored + 2 * (stored - 1) - math.log2(0.75) * asked
    assert made.bits == pytest.approx(expected)
    assert made.bound < made.without_recall


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"shortest": 90, "longest": 9}, "longest is 9 and shortest 90"),
        ({"store_share": 0.0}, "store_share is 0"),
        ({"pairs": 16, "key_digits": 1}, "pairs is 16, but key_digits 1 gives only 16 keys"),
    ],
)
def test_what_cannot_be_made_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecallTask(**wrong)


def test_less_than_a_line_and_seeds_below_0_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_bytes is 5, but a line has 10 bytes"):
        make_recall_text(RecallTask(), 5)
    # Refused at once, not after a line of that length was made.
    with pytest.raises(ConfigError, match="but a line has 1000000000000006 bytes"):
        make_recall_text(RecallTask(value_digits=10**15), 10**6)
    with pytest.raises(ConfigError, match="seed is -1"):
        make_recall_text(RecallTask(), 500, seed=-1)
