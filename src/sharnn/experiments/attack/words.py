"""The words of a scored text: their nats, by position inside a word and by class of word.

A loss per token depends on the tokenizer. Here all figures are per *original word*: a run of bytes
between white space together with the space before it, which is the same for every tokenizer
(docs/tokenization.md has every formula).

Legend: N tokens of the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sharnn.errors import DataError
from sharnn.evaluate import SEGMENT_LENGTH
from sharnn.evaluate.lane_reader import segments
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer
from sharnn.text.units import WORD

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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
        first_cut = data[starts[cut[0]] : stops[cut[0]]]
        raise DataError(
            f"the word {first_cut!r} begins or ends in the middle of a token, so it has no score of its "
            "own: use a tokenizer whose tokens do not cross word boundaries"
        )
    first, last = np.searchsorted(begins, starts), np.searchsorted(ends, stops)
    num_tokens = last - first + 1
    word = np.searchsorted(starts, begins, side="right") - 1
    word_of_token = np.where((word >= 0) & (begins < stops[word]), word, -1)
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
    for pair in segments(tokens, tokenizer.start_token, SEGMENT_LENGTH, model.device):
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
