"""A language of four words, in which every probability is known, as tokenizer, model and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharnn.experiments.attack.segmentations import Lattice
from sharnn.experiments.attack.words import lay_out, token_nats

#: Words and their probabilities. All end in a full stop, so that none begins another.
WORDS = {b" a.": 0.4, b" ab.": 0.3, b" ba.": 0.2, b" abba.": 0.1}
PIECES = [b"\n", b" ", b"a", b"b", b".", b" a", b" ab", b"ab", b"bb", b"a.", b"ba", b" abb"]


class ToyTokenizer:
    """Pieces of words; the longest that fits comes first."""

    name, vocab_size, start_token = "toy", len(PIECES), 0

    def token_bytes(self, token: int) -> bytes:
        return PIECES[token]

    def encode(self, data: bytes) -> np.ndarray:
        tokens = []
        while data:
            piece = max((p for p in PIECES if data.startswith(p)), key=len)
            tokens.append(PIECES.index(piece))
            data = data[len(piece) :]
        return np.array(tokens, dtype=np.uint8)

    def decode(self, tokens: Sequence[int]) -> bytes:
        return b"".join(PIECES[token] for token in tokens)


TOKENIZER = ToyTokenizer()
LATTICE = Lattice(TOKENIZER)  # type: ignore[arg-type]


def paths_of(word: bytes, start: int = 0) -> list[tuple[int, ...]]:
    if start == len(word):
        return [()]
    return [
        (token, *rest)
        for token, stop in LATTICE.next_tokens(word, start)
        for rest in paths_of(word, stop)
    ]


@dataclass(frozen=True)
class ToyState:
    prefixes: tuple[tuple[int, ...], ...]

    def select(self, lanes: Sequence[int]) -> ToyState:
        return ToyState(tuple(self.prefixes[lane] for lane in lanes))

    def expand(self, copies: int) -> ToyState:
        return self.select([lane for lane in range(len(self.prefixes)) for _ in range(copies)])


class ToyModel:
    """The language itself: a word by its probability, then one of its ways, drawn by weights."""

    device = torch.device("cpu")

    @cached_property
    def way(self) -> dict[tuple[int, ...], float]:
        """Probability of a word and a way together."""
        rng, joint = np.random.default_rng(5), {}
        for word, probability in WORDS.items():
            ways = paths_of(word)
            weights = rng.uniform(0.2, 1, len(ways))
            for path, weight in zip(ways, weights / weights.sum(), strict=True):
                joint[path] = probability * weight
        return joint

    @cached_property
    def next(self) -> dict[tuple[int, ...], Tensor]:
        """Probabilities `[V]` of the token after each beginning of a way."""
        table: dict[tuple[int, ...], Tensor] = {}
        for path, mass in self.way.items():
            for k in range(len(path)):
                table.setdefault(path[:k], torch.zeros(len(PIECES), dtype=torch.float64))
                table[path[:k]][path[k]] += mass
        return {prefix: mass / mass.sum() for prefix, mass in table.items()}

    def initial_state(self, num_lanes: int) -> ToyState:
        return ToyState(((),) * num_lanes)

    def __call__(self, tokens_BT: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
        prefixes, out = list(state.prefixes), []
        for tokens_B in tokens_BT.T.tolist():
            for lane, token in enumerate(tokens_B):
                grown = () if token == 0 else (*prefixes[lane], token)
                prefixes[lane] = () if grown in self.way else grown
            out.append(torch.stack([self.next[prefix] for prefix in prefixes]).log())
        return torch.stack(out, dim=1), ToyState(tuple(prefixes))

    hidden = __call__

    def nats(self, tokens: Tensor, targets: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
        log_p_BTV, state = self(tokens, state)
        return -log_p_BTV.gather(2, targets[..., None])[..., 0], state


MODEL: Any = ToyModel()
NAMES = list(WORDS)
DRAWN = [NAMES[k] for k in np.random.default_rng(1).choice(4, size=400, p=list(WORDS.values()))]
TEXT = lay_out(TOKENIZER, TOKENIZER.encode(b"".join(DRAWN)))  # type: ignore[arg-type]
NATS = token_nats(MODEL, TOKENIZER, TEXT.tokens)  # type: ignore[arg-type]


def forced(word: bytes) -> float:
    return -math.log(MODEL.way[tuple(TOKENIZER.encode(word).tolist())])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
