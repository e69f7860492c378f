"""A small experiment, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharnn.experiments.attack.plan import AttackSettings

#: The text, the folder and the runs of an experiment.
Done = tuple[Path, Path, list[dict[str, Any]]]

WORDED = "".join(
    f" the {noun} sat on the {place} and saw a {noun} \n"
    for noun in ("cat", "dog", "emu", "hen", "gnu")
    for place in ("mat", "hat", "rug", "bed")
    for _ in range(12)
)
SMALL = AttackSettings(
    architectures=["sha-rnn", "lstm"], tokenizations=["byte", "bpe-280", "word"],
    matchings=["bytes"], seeds=1, num_parameters=30_000, num_layers=1, train_bytes=6_000,
    segment_bytes=64, window_bytes=128, num_lanes=4, score_bytes=600, words=6, dropouts=[0.5],
)  # fmt: skip
