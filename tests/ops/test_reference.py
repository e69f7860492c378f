"""Definitions that no fast path is compared with."""

from __future__ import annotations

from sharnn.ops.reference import reach_mask


def test_reach_mask_is_what_it_says() -> None:
    for lane, written in enumerate((3, 1)):
        mask = reach_mask(num_tokens=3, num_memory=3, window=4, lengths=(3, 1))[lane]
        for position in range(3):
            for row in range(6):
                seen = 3 - written <= row <= 3 + position and row > 3 + position - 4
                assert bool(mask[position, row]) == seen
