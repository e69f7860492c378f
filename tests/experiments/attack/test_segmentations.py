"""Each way of scoring words comes out right on a language whose every probability is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.attack.toy_language import (
    DRAWN,
    LATTICE,
    MODEL,
    NATS,
    TEXT,
    TOKENIZER,
    WORDS,
    forced,
    mean,
    paths_of,
)  # fmt: skip
from models import make_model
from sharnn.experiments.attack import segmentations, words
from sharnn.experiments.attack.segmentations import (
    over_segmentations,
    places,
    withheld_nats,
    within_words,
)
from sharnn.experiments.attack.words import lay_out, token_nats, word_nats
from sharnn.text import ByteTokenizer


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
    assert found.benefit.mean == pytest.approx(found.withheld.mean - found.forced.mean)
    assert found.forced.count == found.benefit.count == 50
    assert found.benefit.error > 0


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
    for module in (words, segmentations):
        monkeypatch.setattr(module, "SEGMENT_LENGTH", 3)
    nats = token_nats(model, tokenizer, text.tokens)
    np.testing.assert_allclose(nats, whole, rtol=1e-5)
    assert nats.sum() == pytest.approx(
        word_nats(text, nats).sum() + nats[text.word_of_token < 0].sum()
    )
    found = within_words(model, tokenizer, text, nats, num_words=5, num_samples=2)
    for way in (found.best, found.summed):
        assert way.mean == pytest.approx(found.forced.mean, rel=1e-4)
    assert found.exact_share == 1


def test_a_word_longer_than_a_segment_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (words, segmentations):
        monkeypatch.setattr(module, "SEGMENT_LENGTH", 16)
    model, tokenizer = make_model().eval(), ByteTokenizer()
    text = lay_out(tokenizer, tokenizer.encode(b"x" * 50))
    nats = token_nats(model, tokenizer, text.tokens)
    assert len(text.words) == 1
    found = within_words(model, tokenizer, text, nats, num_words=5, num_samples=2)
    assert found.summed.mean == pytest.approx(nats.sum(), rel=1e-4)
