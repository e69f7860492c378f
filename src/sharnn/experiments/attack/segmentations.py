"""The cost of a word over its segmentations, and with its earlier tokens withheld.

Both fix the text before the word in the tokenizer's segmentation (docs/tokenization.md has every
formula).

Legend: S lanes, each a path or a sample · V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharnn.evaluate import SEGMENT_LENGTH
from sharnn.experiments.attack.words import Floats, Mean, WordedText, word_nats
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import Tokenizer

#: Most segmentations of a word that are enumerated; of words with more, segmentations are sampled.
MAX_PATHS = 128
#: Segmentations sampled per word in that case.
NUM_SAMPLES = 16
#: Continuations sampled per word where its earlier tokens are withheld; an even number.
NUM_CONTINUATIONS = 64


class Lattice:
    """All segmentations of a word into tokens of a vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens: dict[bytes, list[int]] = {}
        for token in range(tokenizer.vocab_size):
            self._tokens.setdefault(tokenizer.token_bytes(token), []).append(token)
        self._longest = max(map(len, self._tokens))

    def next_tokens(self, word: bytes, start: int) -> list[tuple[int, int]]:
        """Return the tokens that fit at byte `start` of a word, each with the byte at which it ends."""
        stops = range(start + 1, min(start + self._longest, len(word)) + 1)
        return [(token, stop) for stop in stops for token in self._tokens.get(word[start:stop], ())]

    def num_paths(self, word: bytes) -> int:
        """Return the number of token sequences that spell the word."""
        ways = [0] * len(word) + [1]
        for start in reversed(range(len(word))):
            ways[start] = sum(ways[stop] for _, stop in self.next_tokens(word, start))
        return ways[0]


@dataclass(frozen=True)
class Place:
    """The model's state at the beginning of a word.

    Attributes:
        state: State of one lane before `previous` is read.
        previous: The token before the word, which is read next.
    """

    state: RecurrentState
    previous: int


def places(
    model: LanguageModel, tokenizer: Tokenizer, text: WordedText, words: Sequence[int]
) -> Iterator[Place]:
    """Read a text and yield the place of each of `words` (indices in ascending order)."""
    inputs = np.concatenate([[tokenizer.start_token], text.tokens[:-1]])
    state, done = model.initial_state(1), 0
    for word in words:
        stop = int(text.first_token[word])
        while done < stop:
            until = min(done + SEGMENT_LENGTH, stop)
            part_1T = torch.from_numpy(inputs[done:until])[None].to(model.device)
            with torch.inference_mode():
                _, state = model.hidden(part_1T, state)
            done = until
        yield Place(state, int(inputs[stop]))


@dataclass(frozen=True)
class Segmentations:
    """The cost of a word over its segmentations.

    Attributes:
        best: Nats of the best segmentation found.
        summed: `-log` of the total probability of all segmentations.
        exact: Whether all segmentations were enumerated.
    """

    best: float
    summed: float
    exact: bool


def over_segmentations(
    model: LanguageModel,
    place: Place,
    word: bytes,
    lattice: Lattice,
    generator: torch.Generator,
    max_paths: int = MAX_PATHS,
    num_samples: int = NUM_SAMPLES,
) -> Segmentations:
    """Score a word over all token sequences (paths) that spell it, with the text before it fixed.

    A recurrent model's next probability depends on the whole path, so paths share only their prefixes.
    Up to `max_paths`, all paths are enumerated breadth first. Above that, paths are sampled token by
    token from the model restricted to tokens that fit. Let Z_j be the probability that the model gives to
    fitting tokens at step j. Then E[Π Z_j] is the sum over all paths (sequential importance sampling), so
    the mean over samples does not overestimate the sum on average.

    Args:
        model: In evaluation mode.
        place: The state at the beginning of the word.
        word: Its bytes, including the space before it.
        lattice: Segmentations by the model's tokenizer.
        generator: Random generator for sampling.
        max_paths: Most paths that are enumerated.
        num_samples: Number of paths sampled otherwise.
    """
    if lattice.num_paths(word) <= max_paths:
        nats = _walk(model, place, word, lattice)
        return Segmentations(float(nats.min()), float(-(-nats).logsumexp(0)), True)
    nats, weights = _draw(model, place, word, lattice, generator, num_samples)
    summed = float(math.log(num_samples) - weights.logsumexp(0))
    return Segmentations(float(nats.min()), summed, False)


def _walk(model: LanguageModel, place: Place, word: bytes, lattice: Lattice) -> Tensor:
    """Return the nats of every path."""
    complete: list[float] = []
    state, last, paths = place.state, [place.previous], [(0, 0.0)]
    while paths:
        log_p_SV, state = _step(model, last, state)
        grown = [
            (lane, token, stop, nats - float(log_p_SV[lane, token]))
            for lane, (start, nats) in enumerate(paths)
            for token, stop in lattice.next_tokens(word, start)
        ]
        complete += [nats for _, _, stop, nats in grown if stop == len(word)]
        grown = [path for path in grown if path[2] < len(word)]
        if grown:
            state = state.select([lane for lane, _, _, _ in grown])
        last = [token for _, token, _, _ in grown]
        paths = [(stop, nats) for _, _, stop, nats in grown]
    return torch.tensor(complete, dtype=torch.float64)


def _draw(
    model: LanguageModel,
    place: Place,
    word: bytes,
    lattice: Lattice,
    generator: torch.Generator,
    num_samples: int,
) -> tuple[Tensor, Tensor]:
    """Return the nats of each sampled path and the logarithm of its Π Z_j."""
    nats = torch.zeros(num_samples, dtype=torch.float64)
    weights = torch.zeros(num_samples, dtype=torch.float64)
    state = place.state.expand(num_samples)
    lanes, starts, last = (
        list(range(num_samples)),
        [0] * num_samples,
        [place.previous] * num_samples,
    )
    while lanes:
        log_p_SV, state = _step(model, last, state)
        going: list[tuple[int, int, int, int]] = []
        for row, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
            fitting = lattice.next_tokens(word, start)
            log_p = log_p_SV[row, [token for token, _ in fitting]]
            drawn = int(torch.multinomial(log_p.softmax(0), 1, generator=generator))
            nats[lane] -= log_p[drawn]
            weights[lane] += log_p.logsumexp(0)
            token, stop = fitting[drawn]
            if stop < len(word):
                going.append((row, lane, stop, token))
        if going:
            state = state.select([row for row, _, _, _ in going])
        lanes, starts = [lane for _, lane, _, _ in going], [stop for _, _, stop, _ in going]
        last = [token for _, _, _, token in going]
    return nats, weights


def withheld_nats(
    model: LanguageModel,
    place: Place,
    tokens: Sequence[int],
    generator: torch.Generator,
    num_samples: int = NUM_CONTINUATIONS,
) -> tuple[float, float]:
    """Return a word's nats with its earlier tokens withheld, from all samples and from half of them.

    `Σ_k -log E[p(t_k | t'_1 … t'_{k-1})]`, with the earlier tokens t' sampled from the model itself:
    token k is predicted from the text before the word only. The mean over samples is inside the
    logarithm, so both results are upper bounds on average. The second, a mean over both halves of the
    samples, is the looser. Where the overestimate falls as 1 / samples, the difference of the two is
    about the remaining overestimate of all samples; where it falls more slowly, the difference is less
    than that. A word of one token has its usual cost.

    Args:
        model: In evaluation mode.
        place: The state at the beginning of the word.
        tokens: The word's tokens.
        generator: Random generator for sampling continuations.
        num_samples: Number of continuations, an even number.
    """
    log_p_SV, state = _step(model, [place.previous], place.state)
    nats = halved = -float(log_p_SV[0, tokens[0]])
    if len(tokens) == 1:
        return nats, halved
    log_p_SV, state = log_p_SV.expand(num_samples, -1), state.expand(num_samples)
    for token in tokens[1:]:
        drawn_S = torch.multinomial(log_p_SV.exp(), 1, generator=generator)[:, 0]
        log_p_SV, state = _step(model, drawn_S.tolist(), state)
        log_p_2S = log_p_SV[:, token].reshape(2, -1)
        nats -= float(log_p_2S.flatten().logsumexp(0)) - math.log(num_samples)
        halved -= float(log_p_2S.logsumexp(1).mean()) - math.log(num_samples / 2)
    return nats, halved


def _step(
    model: LanguageModel, tokens: Sequence[int], state: RecurrentState
) -> tuple[Tensor, RecurrentState]:
    """Read one token per lane; return the next token's log-probabilities `[S, V]` and the state."""
    tokens_S1 = torch.tensor(tokens, device=model.device)[:, None]
    with torch.inference_mode():
        logits_S1V, state = model(tokens_S1, state)
    return logits_S1V[:, 0].double().log_softmax(-1).cpu(), state


@dataclass(frozen=True)
class WithinWords:
    """The cost of a sample of words in four kinds of score; means of nats per word.

    Attributes:
        forced: The tokenizer's segmentation with teacher forcing: the usual score.
        best: The best segmentation.
        summed: The sum over all segmentations.
        withheld: The tokenizer's segmentation with the word's earlier tokens withheld: an upper bound.
        benefit: `withheld - forced`, word by word: an upper bound on the benefit of teacher forcing.
        overstated: The increase of `withheld` with half the samples.
        exact_share: Share of words whose segmentations were all enumerated.
    """

    forced: Mean
    best: Mean
    summed: Mean
    withheld: Mean
    benefit: Mean
    overstated: Mean
    exact_share: float


def within_words(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: WordedText,
    nats: Floats,
    num_words: int,
    seed: int = 0,
    max_paths: int = MAX_PATHS,
    num_samples: int = NUM_SAMPLES,
    num_continuations: int = NUM_CONTINUATIONS,
    check: Callable[[], None] = lambda: None,
) -> WithinWords:
    """Score words of a text in the four ways of `WithinWords`.

    Args:
        model: In evaluation mode.
        tokenizer: The model's tokenizer.
        text: The text and its words.
        nats: Nats of its tokens, from `token_nats`.
        num_words: Number of words, evenly spread over the text; all where it has fewer.
        seed: Seed for sampling.
        max_paths: As for `over_segmentations`.
        num_samples: As for `over_segmentations`.
        num_continuations: `num_samples` of `withheld_nats`.
        check: Called before each word; it may raise an exception to stop the work.
    """
    count = min(num_words, len(text.words))
    words = np.unique(np.linspace(0, len(text.words) - 1, count).round().astype(int)).tolist()
    lattice, generator = Lattice(tokenizer), torch.Generator().manual_seed(seed)
    forced = word_nats(text, nats)[words]
    ways, withheld = [], []
    walk = places(model, tokenizer, text, words)
    for word, known, place in zip(words, forced.tolist(), walk, strict=True):
        check()
        spelt = text.words[word]
        found = over_segmentations(model, place, spelt, lattice, generator, max_paths, num_samples)
        # Sampled segmentations may not include the tokenizer's.
        ways.append((min(found.best, known), min(found.summed, known), found.exact))
        tokens = text.tokens_of(word)
        withheld.append(withheld_nats(model, place, tokens, generator, num_continuations))
    best, summed, exact = np.array(ways).T
    hidden, halved = np.array(withheld).T
    return WithinWords(
        Mean.of("forced", forced), Mean.of("best", best), Mean.of("summed", summed),
        Mean.of("withheld", hidden), Mean.of("benefit", hidden - forced),
        Mean.of("overstated", halved - hidden), float(exact.mean()),
    )  # fmt: skip
