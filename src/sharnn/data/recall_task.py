"""A synthetic text that tests a model's memory: every third symbol can be recalled, no other predicted.

A line stores a new pair of hexadecimal numbers, `k₁k₂k₃k₄=v₁v₂v₃v₄;`, or queries a live one,
`?k₁k₂k₃k₄=v₁v₂v₃v₄;`. The digits of a queried value cost 0 bits with perfect recall and 4 bits each
without. The distance to the previous occurrence of the value is drawn log-uniformly, so short and long
distances count alike.

This is multi-query associative recall (Zoology, arXiv 2312.04927), with distances in bytes that may be
longer than any segment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharnn.errors import ConfigError

_DIGITS = "0123456789abcdef"
_BITS_PER_DIGIT = 4
_LINES_PER_REPORT = 1000
_LINE = re.compile(rb"(\?)?([0-9a-f]+)=([0-9a-f]+);")


@dataclass(frozen=True)
class RecallTask:
    """Settings of a recall text.

    Attributes:
        pairs: Number of live pairs; a new pair replaces the one whose last occurrence is the oldest.
        key_digits: Digits of a key.
        value_digits: Digits of a value.
        shortest: Smallest distance in bytes from a value to its previous occurrence.
        longest: Largest distance.
        store_share: Share of the lines that store a new pair once `pairs` are live.
    """

    pairs: int = 64
    key_digits: int = 4
    value_digits: int = 4
    shortest: int = 16
    longest: int = 4000
    store_share: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: A value is out of range, or there are fewer keys than pairs.
        """
        for name in ("pairs", "key_digits", "value_digits", "shortest"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.longest < self.shortest:
            raise ConfigError(
                f"longest is {self.longest} and shortest {self.shortest}: swap the two"
            )
        if not 0 < self.store_share <= 1:
            raise ConfigError(
                f"store_share is {self.store_share}: it must be above 0 and at most 1"
            )
        if self.pairs.bit_length() > _BITS_PER_DIGIT * self.key_digits:
            raise ConfigError(
                f"pairs is {self.pairs}, but key_digits {self.key_digits} gives only "
                f"{16**self.key_digits} keys: give fewer pairs or more digits"
            )

    @property
    def shortest_line(self) -> int:
        """Bytes of a line that stores a pair."""
        return self.key_digits + self.value_digits + len("=;")


@dataclass(frozen=True)
class MadeText:
    """A recall text and its information content.

    Attributes:
        text: ASCII, without line breaks.
        bits: Cost of the text for a model that knows how it is made and recalls all of it.
        recalled_bits: Additional cost for a model that recalls nothing: the digits of queried values.
    """

    text: bytes
    bits: float
    recalled_bits: float

    @property
    def num_asked(self) -> int:
        """Number of digits of queried values."""
        return round(self.recalled_bits / _BITS_PER_DIGIT)

    @property
    def bound(self) -> float:
        """Bits per byte with perfect recall."""
        return self.bits / len(self.text)

    @property
    def without_recall(self) -> float:
        """Bits per byte without recall."""
        return (self.bits + self.recalled_bits) / len(self.text)


def make_recall_text(
    task: RecallTask,
    num_bytes: int,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> MadeText:
    """Make a text of as many whole lines as fit into `num_bytes`.

    The same seed gives the same text, and a shorter text is a prefix of a longer one.

    Args:
        task: Settings of the text.
        num_bytes: Its maximum size.
        seed: Seed of all draws.
        report: Called with the number of bytes made so far, and `num_bytes`.

    Raises:
        ConfigError: `num_bytes` is less than a line, or `seed` is below 0.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}: it must be 0 or more")
    if num_bytes < task.shortest_line:
        raise ConfigError(
            f"num_bytes is {num_bytes}, but a line has {task.shortest_line} bytes: give more bytes or "
            "fewer digits"
        )
    text, bits, recalled = bytearray(), 0.0, 0.0
    lines = _lines(task, np.random.default_rng(seed))
    for number, (line, line_bits, recalled_bits) in enumerate(lines):
        if len(text) + len(line) > num_bytes:
            break
        text += line.encode()
        bits, recalled = bits + line_bits, recalled + recalled_bits
        if report is not None and number % _LINES_PER_REPORT == 0:
            report(len(text), num_bytes)
    return MadeText(bytes(text), bits, recalled)


def _lines(task: RecallTask, rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Yield lines without end, each with its bits given perfect recall and the bits that recall saves."""
    values: dict[str, str] = {}  # of live keys, in order of their last occurrence
    last: dict[str, int] = {}  # where the last occurrence of a key's value begins
    at = 0
    while True:
        filling = len(values) < task.pairs
        if filling or rng.random() < task.store_share:
            bits = 0.0 if filling else -math.log2(task.store_share)
            if not filling:
                values.pop(oldest := next(iter(values)))
                last.pop(oldest)
            key = _fresh_key(task.key_digits, values, rng)
            bits += math.log2(16**task.key_digits - len(values))
            value, asked, recalled = _digits(task.value_digits, rng), "", 0.0
            bits += _BITS_PER_DIGIT * task.value_digits
        else:
            asked, recalled = "?", float(_BITS_PER_DIGIT * task.value_digits)
            value_at = at + 1 + task.key_digits + 1
            shares = _shares(task, value_at - np.fromiter(last.values(), np.int64, len(last)))
            chosen = int(rng.choice(len(shares), p=shares))
            key = list(values)[chosen]
            bits = -math.log2(1 - task.store_share) - math.log2(shares[chosen])
            value = values.pop(key)
            last.pop(key)
        line = f"{asked}{key}={value};"
        values[key], last[key] = value, at + line.index("=") + 1
        at += len(line)
        yield line, bits, recalled


def _shares(task: RecallTask, distances: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the probability of each distance to be the nearest to a log-uniform draw.

    Distances are in decreasing order; nearest means in the logarithm.
    """
    logs = np.log(distances)
    low, high = math.log(task.shortest), math.log(task.longest)
    between = np.clip((logs[1:] + logs[:-1]) / 2, low, high)
    shares = np.concatenate([[high], between]) - np.concatenate([between, [low]])
    if high == low:  # a single distance: take the pair nearest to it
        shares = (np.arange(len(logs)) == np.abs(logs - low).argmin()).astype(np.float64)
    return shares / shares.sum()


def _digits(count: int, rng: np.random.Generator) -> str:
    return "".join(_DIGITS[d] for d in rng.integers(16, size=count))


def _fresh_key(count: int, live: dict[str, str], rng: np.random.Generator) -> str:
    while (key := _digits(count, rng)) in live:
        pass
    return key


@dataclass(frozen=True)
class Asked:
    """The queries of a recall text: Q queries of N digits each.

    Attributes:
        positions_QN: Positions of the digits of queried values, in bytes.
        distances_Q: Distance of each value to its previous occurrence, in bytes.
    """

    positions_QN: npt.NDArray[np.int64]
    distances_Q: npt.NDArray[np.int64]


def find_asked(text: bytes) -> Asked:
    """Find all queries whose value occurs earlier in the text; only the text is needed."""
    last: dict[bytes, int] = {}
    positions, distances = [], []
    for line in _LINE.finditer(text):
        at = line.start(3)
        if line[1] and line[2] in last:
            positions.append(range(at, line.end(3)))
            distances.append(at - last[line[2]])
        last[line[2]] = at
    width = len(positions[0]) if positions else 0
    return Asked(np.array(positions, np.int64).reshape(-1, width), np.array(distances, np.int64))
