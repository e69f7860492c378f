"""Words, their places and classes, and their nats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from experiments.attack.toy_language import (
    DRAWN,
    MODEL,
    NATS,
    TEXT,
    TOKENIZER,
    ToyTokenizer,
    forced,
    mean,
)
from sharnn.errors import DataError
from sharnn.experiments.attack.words import by_class, by_place, classify, lay_out, word_nats
from sharnn.text import ByteTokenizer


def test_each_words_nats_are_those_of_the_word_and_its_way() -> None:
    assert TEXT.words == DRAWN
    np.testing.assert_allclose(word_nats(TEXT, NATS), [forced(word) for word in DRAWN])


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


def test_words_carry_the_space_before_them_and_white_space_belongs_to_none() -> None:
    text = lay_out(ByteTokenizer(), ByteTokenizer().encode(b"a bc  d\n"))
    assert text.words == [b"a", b" bc", b" d"]
    assert text.word_of_token.tolist() == [0, 1, 1, 1, -1, 2, 2, -1]
    assert text.place_in_word.tolist() == [0, 0, 1, 2, -1, 0, 1, -1]
    assert text.tokens_of(1) == [32, 98, 99]


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
