"""Which files are held out is drawn by a hash of their paths."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sharnn.data.splits import FEWEST_FILES, draw_held_out


@given(st.lists(st.integers(1, 1000), min_size=FEWEST_FILES, max_size=300))
def test_each_held_out_split_has_about_five_percent(sizes: list[int]) -> None:
    files = [(f"folder/{index}.txt", size) for index, size in enumerate(sizes)]
    splits = draw_held_out(files)
    shares = {
        split: sum(
            size for (_, size), other in zip(files, splits or [], strict=False) if other == split
        )
        / sum(sizes)
        for split in ("valid", "test")
    }
    if splits is None:  # only where no small files are left
        assert max(sizes) > 0.025 * sum(sizes)
    else:
        assert all(0.025 <= share <= 0.075 for share in shares.values())


def test_the_draw_depends_on_paths_alone_and_new_files_change_little() -> None:
    files = [(f"{index}.txt", 100) for index in range(400)]
    splits = draw_held_out(files)
    assert splits is not None
    assert splits.count("valid") == splits.count("test") == 20
    drawn = dict(zip(files, splits, strict=True))
    shuffled = random.Random(1).sample(files, len(files))
    assert dict(zip(shuffled, draw_held_out(shuffled) or [], strict=True)) == drawn
    more = [*files, *((f"new{index}.txt", 100) for index in range(20))]
    again = dict(zip(more, draw_held_out(more) or [], strict=True))
    assert sum(again[file] != split for file, split in drawn.items()) <= 8
    held_out = [index for index, split in enumerate(splits) if split == "test"]
    assert min(held_out) < 100  # not the last ones


def test_few_files_and_one_that_has_nearly_all_bytes_are_cut_by_position() -> None:
    assert draw_held_out([(f"{index}", 100) for index in range(FEWEST_FILES - 1)]) is None
    assert draw_held_out([("all", 10**6), *((f"{index}", 1) for index in range(60))]) is None
    assert draw_held_out([]) is None
