"""Breaking a score down: by word, by position inside a word, and by possible segmentations of a word.

A loss per token depends on the tokenizer. Here all figures are per *original word*: a run of bytes
between white space together with the space before it, which is the same for every tokenizer
(docs/tokenization.md has every formula).

Legend: N tokens of the text · S lanes, each a path or a sample · V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharnn.errors import DataError
from sharnn.evaluate.lane_reader import segments
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import Tokenizer
from sharnn.text.units import WORD

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Tokens read at once; it changes no score.
_SEGMENT_LENGTH = 512
#: Most segmentations of a word that are enumerated; of words with more, segmentations are sampled.
MAX_PATHS = 128
#: Segmentations sampled per word in that case.
NUM_SAMPLES = 16
#: Continuations sampled per word where its earlier tokens are withheld; an even number.
NUM_CONTINUATIONS = 64


# ---------------------------------------------------------------------------------------- words


@dataclass(frozen=True)
class WordedText:
    """A text's tokens and the words that they spell.

    Attributes:
        tokens: `[N]`.
        token_bytes: Number of bytes of each token, `[N]`.
        words: The words in order, each with the space before it.
        first_token: Index of each word's first token.
        num_tokens: Number of tokens of each word.
        word_of_token: Index of each token's word, `[N]`; -1 for white space that belongs to no word.
    """

    tokens: Integers
    token_bytes: Integers
    words: list[bytes]
    first_token: Integers
    num_tokens: Integers
    word_of_token: Integers

    @property
    def word_ends(self) -> Integers:
        """Offset in the text of the byte after each word."""
        ends = np.cumsum(self.token_bytes)
        return ends[self.first_token + self.num_tokens - 1]

    @property
    def place_in_word(self) -> Integers:
        """Number of earlier tokens in the same word, for each token; -1 outside words."""
        index = np.arange(len(self.tokens))
        place = index - self.first_token[self.word_of_token]
        return np.where(self.word_of_token < 0, -1, place)

    def tokens_of(self, word: int) -> list[int]:
        """Return the tokens of a word."""
        start = self.first_token[word]
        return self.tokens[start : start + self.num_tokens[word]].tolist()


def lay_out(tokenizer: Tokenizer, tokens: npt.NDArray[Any]) -> WordedText:
    """Find the words in a text's tokens.

    Args:
        tokenizer: The tokenizer of the tokens.
        tokens: `[N]`.

    Raises:
        DataError: There is no word, or a word begins or ends in the middle of a token.
    """
    tokens = np.asarray(tokens).astype(np.int64)
    lengths = {token: len(tokenizer.token_bytes(token)) for token in np.unique(tokens).tolist()}
    token_bytes = np.array([lengths[token] for token in tokens.tolist()], dtype=np.int64)
    data = tokenizer.decode(tokens)
    spans = [match.span() for match in WORD.finditer(data)]
    if not spans:
        raise DataError(
            f"there is no word in these {len(data)} bytes, only white space: give another text"
        )
    starts, stops = np.array(spans, dtype=np.int64).T
    ends = np.cumsum(token_bytes)
    begins = ends - token_bytes
    cut = np.flatnonzero(~(np.isin(starts, begins) & np.isin(stops, ends)))
    if len(cut):
        word = data[starts[cut[0]] : stops[cut[0]]]
        raise DataError(
            f"the word {word!r} begins or ends in the middle of a token, so it has no score of its own: "
            "use a tokenizer whose tokens do not cross word boundaries"
        )
    first, last = np.searchsorted(begins, starts), np.searchsorted(ends, stops)
    num_tokens = last - first + 1
    word_of_token = np.full(len(tokens), -1, dtype=np.int64)
    within = np.arange(num_tokens.sum()) - np.repeat(num_tokens.cumsum() - num_tokens, num_tokens)
    word_of_token[np.repeat(first, num_tokens) + within] = np.repeat(
        np.arange(len(spans)), num_tokens
    )
    words = [data[start:stop] for start, stop in spans]
    return WordedText(tokens, token_bytes, words, first, num_tokens, word_of_token)


@dataclass(frozen=True)
class WordClasses:
    """A class for every word. It depends on the texts only, so it is the same for every tokenizer.

    Attributes:
        names: Names of the classes.
        of_word: Index of each word's class.
    """

    names: tuple[str, ...]
    of_word: Integers


#: A word that occurs at least this often in the training text is known; a less frequent one is rare.
KNOWN_COUNT = 10
_CLASSES = ("known", "rare, copied", "rare, new", "unseen, copied", "unseen, new")


def classify(text: WordedText, training: bytes, memory_bytes: int) -> WordClasses:
    """Classify words as known, rare or unseen, and the last two by whether memory could copy them.

    Args:
        text: The scored text, in any tokens.
        training: The training text, whether or not a model has read all of it.
        memory_bytes: A word is `copied` if it occurs in the scored text within this many bytes before it.
    """
    counts: dict[bytes, int] = {}
    for word in training.split():
        counts[word] = counts.get(word, 0) + 1
    last_seen: dict[bytes, int] = {}
    of_word = np.empty(len(text.words), dtype=np.int64)
    for index, (spelt, end) in enumerate(zip(text.words, text.word_ends.tolist(), strict=True)):
        word = spelt.strip()
        copied = word in last_seen and end - last_seen[word] <= memory_bytes
        last_seen[word] = end
        count = counts.get(word, 0)
        rarity = 0 if count >= KNOWN_COUNT else 1 if count else 3
        of_word[index] = rarity if rarity == 0 else rarity + (not copied)
    return WordClasses(_CLASSES, of_word)


# --------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Mean:
    """A mean over words or tokens.

    Attributes:
        name: Name of the group.
        count: Number of values.
        mean: Mean of their nats.
        error: Standard error of the mean; 0 for a single value.
    """

    name: str
    count: int
    mean: float
    error: float

    @classmethod
    def of(cls, name: str, values: Floats) -> Mean:
        """Return the mean of `values`; NaN if there are none."""
        count = len(values)
        if not count:
            return cls(name, 0, math.nan, math.nan)
        error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
        return cls(name, count, float(values.mean()), error)


def token_nats(model: LanguageModel, tokenizer: Tokenizer, tokens: npt.NDArray[Any]) -> Floats:
    """Return `-log p` of every token, `[N]`, in one lane from an empty state (protocol `strict`)."""
    nats, state = [], model.initial_state(1)
    for pair in segments(tokens, tokenizer.start_token, _SEGMENT_LENGTH, model.device):
        with torch.inference_mode():
            nats_1T, state = model.nats(*pair, state)
        nats.append(nats_1T[0].double().cpu().numpy())
    return np.concatenate(nats) if nats else np.empty(0)


def word_nats(text: WordedText, nats: Floats) -> Floats:
    """Return the nats of each word: the sum over its tokens, including the space before it."""
    inside = text.word_of_token >= 0
    word = text.word_of_token[inside]
    return np.bincount(word, nats[inside], len(text.words)).astype(np.float64)


def by_place(text: WordedText, nats: Floats, most: int = 8) -> list[Mean]:
    """Return the mean nats of first tokens of words, of second tokens, …, and of white space.

    Args:
        text: The scored text.
        nats: Nats of each token.
        most: Number of groups of places; the last has all later places.
    """
    place = np.minimum(text.place_in_word, most - 1)
    names = [*(str(k + 1) for k in range(most - 1)), f"{most}+"]
    means = [Mean.of(name, nats[place == k]) for k, name in enumerate(names)]
    return [*means, Mean.of("white space", nats[place < 0])]


def by_class(classes: WordClasses, nats_of_words: Floats) -> list[Mean]:
    """Return the mean nats of the words of each class."""
    return [
        Mean.of(name, nats_of_words[classes.of_word == index])
        for index, name in enumerate(classes.names)
    ]


# -------------------------------------------------------------------------------- segmentations


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
            until = min(done + _SEGMENT_LENGTH, stop)
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


# ------------------------------------------------------------------------------ teacher forcing


@dataclass(frozen=True)
class WithinWords:
    """The cost of a sample of words in four kinds of score; means of nats per word.

    Attributes:
        forced: The tokenizer's segmentation with teacher forcing: the usual score.
        best: The best segmentation.
        summed: The sum over all segmentations.
        withheld: The tokenizer's segmentation with the word's earlier tokens withheld: an upper bound.
        told: `withheld - forced`, word by word: an upper bound on the benefit of teacher forcing.
        overstated: The increase of `withheld` with half the samples.
        exact_share: Share of words whose segmentations were all enumerated.
    """

    forced: Mean
    best: Mean
    summed: Mean
    withheld: Mean
    told: Mean
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
    """
    count = min(num_words, len(text.words))
    words = np.unique(np.linspace(0, len(text.words) - 1, count).round().astype(int)).tolist()
    lattice, generator = Lattice(tokenizer), torch.Generator().manual_seed(seed)
    forced = word_nats(text, nats)[words]
    ways, withheld = [], []
    walk = places(model, tokenizer, text, words)
    for word, known, place in zip(words, forced.tolist(), walk, strict=True):
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
        Mean.of("withheld", hidden), Mean.of("told", hidden - forced),
        Mean.of("overstated", halved - hidden), float(exact.mean()),
    )  # fmt: skip
