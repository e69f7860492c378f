"""Each way of scoring words comes out right on a language whose every probability is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import make_model
from sharnn.errors import DataError
from sharnn.evaluate import tokenization as module
from sharnn.evaluate.tokenization import (
    Lattice,
    by_class,
    by_place,
    classify,
    lay_out,
    over_segmentations,
    places,
    token_nats,
    withheld_nats,
    within_words,
    word_nats,
)
from sharnn.text import ByteTokenizer

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


def test_each_words_nats_are_those_of_the_word_and_its_way() -> None:
    assert TEXT.words == DRAWN
    np.testing.assert_allclose(word_nats(TEXT, NATS), [forced(word) for word in DRAWN])


def test_summed_over_ways_a_word_costs_its_probability_and_its_best_way_the_best() -> None:
    found = within_words(MODEL, TOKENIZER, TEXT, NATS, num_words=400, num_samples=200)  # type: ignore[arg-type]
    assert found.exact_share == 1
    assert found.summed.mean == pytest.approx(mean([-math.log(WORDS[word]) for word in DRAWN]))
    assert found.forced.mean == pytest.approx(mean([forced(word) for word in DRAWN]))
    best = {w: min(-math.log(MODEL.way[path]) for path in paths_of(w)) for w in WORDS}
    assert found.best.mean == pytest.approx(mean([best[word] for word in DRAWN]))
    # On a text this long the mean comes near the entropy of a word.
    entropy = -sum(p * math.log(p) for p in WORDS.values())
    assert found.summed.mean == pytest.approx(entropy, abs=4 * found.summed.error)


def test_drawn_ways_come_near_the_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    for index, place in zip(range(4), places(MODEL, TOKENIZER, TEXT, range(4)), strict=True):  # type: ignore[arg-type]
        word = TEXT.words[index]
        found = over_segmentations(
            MODEL, place, word, LATTICE, generator, max_paths=0, num_samples=800
        )
        assert not found.exact
        assert found.summed == pytest.approx(-math.log(WORDS[word]), abs=0.12)
        assert found.best == pytest.approx(min(-math.log(MODEL.way[p]) for p in paths_of(word)))


def kth_token(k: int) -> Tensor:
    """Probabilities of the k-th token after a word's beginning, from 0, by all that can come."""
    reached = {(): 1.0}
    for _ in range(k):
        onward: dict[tuple[int, ...], float] = {}
        for prefix, mass in reached.items():
            for token, probability in enumerate(MODEL.next[prefix].tolist()):
                grown = (*prefix, token)
                grown = () if grown in MODEL.way else grown
                onward[grown] = onward.get(grown, 0.0) + mass * probability
        reached = {prefix: mass for prefix, mass in onward.items() if mass}
    return sum(mass * MODEL.next[prefix] for prefix, mass in reached.items())  # type: ignore[return-value]


def test_withheld_feedback_leaves_the_probability_of_a_token_at_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    for index, place in zip(range(6), places(MODEL, TOKENIZER, TEXT, range(6)), strict=True):  # type: ignore[arg-type]
        tokens = TEXT.tokens_of(index)
        expected = -sum(math.log(kth_token(k)[token]) for k, token in enumerate(tokens))
        found, _ = withheld_nats(MODEL, place, tokens, generator, num_samples=4_000)
        assert found == pytest.approx(expected, abs=0.15)


def test_few_draws_overstate_withheld_feedback_and_say_so() -> None:
    generator = torch.Generator().manual_seed(0)
    index = max(range(len(TEXT.words)), key=lambda word: TEXT.num_tokens[word])
    (place,) = places(MODEL, TOKENIZER, TEXT, [index])  # type: ignore[arg-type]
    tokens = TEXT.tokens_of(index)
    exact = -sum(math.log(kth_token(k)[token]) for k, token in enumerate(tokens))
    draws = [withheld_nats(MODEL, place, tokens, generator, num_samples=200) for _ in range(200)]
    found, halved = np.array(draws).mean(axis=0)
    error = np.array(draws)[:, 0].std() / math.sqrt(len(draws))
    assert halved > found > exact - 3 * error
    # By half the draws it is told what all of them still overstate.
    assert found - (halved - found) == pytest.approx(exact, abs=0.03 + 3 * error)


def test_what_being_told_is_worth_is_withheld_less_forced() -> None:
    found = within_words(MODEL, TOKENIZER, TEXT, NATS, num_words=50)  # type: ignore[arg-type]
    assert found.told.mean == pytest.approx(found.withheld.mean - found.forced.mean)
    assert found.forced.count == found.told.count == 50
    assert found.told.error > 0


def test_nats_by_place_are_those_of_first_second_and_later_tokens() -> None:
    paths = [TOKENIZER.encode(word).tolist() for word in DRAWN]
    found = {mean.name: mean for mean in by_place(TEXT, NATS, most=3)}
    for place, name in enumerate(["1", "2", "3+"]):
        expected = [
            -math.log(MODEL.next[tuple(path[:k])][path[k]])
            for path in paths
            for k in range(len(path))
            if min(k, 2) == place
        ]
        assert found[name].count == len(expected)
        assert found[name].mean == pytest.approx(mean(expected))
    assert found["white space"].count == 0
    assert math.isnan(found["white space"].mean)


def test_lattice_counts_the_ways_it_walks() -> None:
    for word in WORDS:
        assert LATTICE.num_paths(word) == len(paths_of(word)) > 1


# ------------------------------------------------------------------------- on a real model


def test_walks_and_scores_of_a_real_model_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of bytes have one way, so best and sum are the score, in whatever segments it is read."""
    model, tokenizer = make_model(window=5).eval(), ByteTokenizer()
    data = b"the cat\tsat on  the mat \n a cat\n"
    text = lay_out(tokenizer, tokenizer.encode(data))
    whole = token_nats(model, tokenizer, text.tokens)
    monkeypatch.setattr(module, "_SEGMENT_LENGTH", 3)
    nats = token_nats(model, tokenizer, text.tokens)
    np.testing.assert_allclose(nats, whole, rtol=1e-5)
    assert nats.sum() == pytest.approx(
        word_nats(text, nats).sum() + nats[text.word_of_token < 0].sum()
    )
    found = within_words(model, tokenizer, text, nats, num_words=5, num_samples=2)
    for way in (found.best, found.summed):
        assert way.mean == pytest.approx(found.forced.mean, rel=1e-4)
    assert found.exact_share == 1


def test_words_carry_the_space_before_them_and_white_space_belongs_to_none() -> None:
    text = lay_out(ByteTokenizer(), ByteTokenizer().encode(b"a bc  d\n"))
    assert text.words == [b"a", b" bc", b" d"]
    assert text.word_of_token.tolist() == [0, 1, 1, 1, -1, 2, 2, -1]
    assert text.place_in_word.tolist() == [0, 0, 1, 2, -1, 0, 1, -1]
    assert text.tokens_of(1) == [32, 98, 99]


def test_a_word_longer_than_a_segment_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT_LENGTH", 16)
    model, tokenizer = make_model().eval(), ByteTokenizer()
    text = lay_out(tokenizer, tokenizer.encode(b"x" * 50))
    nats = token_nats(model, tokenizer, text.tokens)
    assert len(text.words) == 1
    found = within_words(model, tokenizer, text, nats, num_words=5, num_samples=2)
    assert found.summed.mean == pytest.approx(nats.sum(), rel=1e-4)


class PairTokenizer(ToyTokenizer):
    """A token that crosses words."""

    def token_bytes(self, token: int) -> bytes:
        return b"a b"

    def decode(self, tokens: Sequence[int]) -> bytes:
        return b"a b" * len(tokens)


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "message"),
    [
        (ByteTokenizer(), [32, 10, 9], "there is no word in these 3 bytes"),
        (ByteTokenizer(), [], "there is no word in these 0 bytes"),
        (PairTokenizer(), [0], "b'a' begins or ends in the middle of a token"),
    ],
)
def test_texts_that_have_no_scores_of_words_are_refused(
    tokenizer: Any, tokens: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        lay_out(tokenizer, np.array(tokens, dtype=np.uint8))


def test_classes_tell_known_rare_unseen_and_copied_words_apart() -> None:
    training = b"the " * 10 + b"cat "
    words = [
        b"the",
        b" cat",
        b" dog",
        b" dog",
        b" cat",
        b" the",
        b" emu",
        b" " + b"x" * 90,
        b" emu",
    ]
    text = lay_out(ByteTokenizer(), ByteTokenizer().encode(b"".join(words)))
    assert text.words == words
    classes = classify(text, training, memory_bytes=40)
    named = [classes.names[index] for index in classes.of_word]
    assert named == [
        "known", "rare, new", "unseen, new", "unseen, copied", "rare, copied", "known",
        "unseen, new", "unseen, new", "unseen, new",
    ]  # fmt: skip
    means = by_class(classes, np.arange(9.0))
    assert {m.name: m.count for m in means} == {
        "known": 2, "rare, copied": 1, "rare, new": 1, "unseen, copied": 1, "unseen, new": 4,
    }  # fmt: skip
    assert sum(m.count * m.mean for m in means if m.count) == pytest.approx(sum(range(9)))


def test_every_token_of_a_text_belongs_to_one_word_or_none() -> None:
    data = bytes(itertools.islice(itertools.cycle(b"ab c\n d\t"), 500))
    text = lay_out(ByteTokenizer(), ByteTokenizer().encode(data))
    assert text.num_tokens.sum() + (text.word_of_token < 0).sum() == len(data)


def test_white_space_between_words_counts_in_how_far_memory_reaches() -> None:
    tokenizer = ByteTokenizer()
    near, far = (
        lay_out(tokenizer, tokenizer.encode(b"zebra" + b"\n" * gap + b"zebra")) for gap in (30, 40)
    )
    for text, name in ((near, "unseen, copied"), (far, "unseen, new")):
        classes = classify(text, b"the", memory_bytes=40)
        assert classes.names[classes.of_word[1]] == name
