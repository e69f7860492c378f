"""Words of a closed vocabulary, for texts in WikiText's tokenised form.

Such a text is made of lines, each `(b" " + word)* + b" \\n"`. A word's token stands for b" word" and
the token `<eos>` for b" \\n", so that every byte comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.errors import DataError

EOS = "<eos>"
_LINE_END = b" \n"


class WordTokenizer:
    """A closed vocabulary, by falling frequency, so that cutoffs of a split softmax are ranks.

    Args:
        words: The vocabulary with `<eos>` in it; a word's token is its place.

    Raises:
        DataError: `<eos>` is missing, or a word stands twice.
    """

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._tokens = {word.encode(): token for token, word in enumerate(self.words)}
        if len(self._tokens) != len(self.words) or EOS not in self.words:
            raise DataError(f"a vocabulary must hold '{EOS}' and no word twice")
        self.vocab_size = len(self.words)
        self.start_token = self._tokens[EOS.encode()]
        sizes = (np.uint8, np.uint16, np.uint32)
        self.dtype = next(d for d in sizes if self.vocab_size <= np.iinfo(d).max + 1)

    @classmethod
    def build(cls, lines: Iterable[bytes]) -> WordTokenizer:
        """Return the vocabulary of all words in `lines`.

        Raises:
            DataError: A line has another form.
        """
        counts: Counter[bytes] = Counter()
        for number, line in enumerate(lines, start=1):
            counts.update(_words_of(line, number))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([_as_text(word) for word, _ in ranked])

    def encode(self, data: bytes) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of whole lines.

        Raises:
            DataError: A line has another form, or a word is not in the vocabulary.
        """
        tokens: list[int] = []
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            for word in _words_of(line, number):
                token = self._tokens.get(word)
                if token is None:
                    raise DataError(
                        f"line {number}: the word '{word.decode(errors='replace')}' is not in the "
                        f"vocabulary of {self.vocab_size:,} words: use the byte tokenizer, or a model "
                        "whose vocabulary has it"
                    )
                tokens.append(token)
        return np.array(tokens, dtype=self.dtype)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of the tokens, joined."""
        return b"".join(self.token_bytes(int(token)) for token in tokens)

    def token_bytes(self, token: int) -> bytes:
        """Return b" word", or b" \\n" for `<eos>`."""
        return _LINE_END if token == self.start_token else b" " + self.words[token].encode()

    def to_json(self) -> dict[str, Any]:
        """Return the name and the vocabulary."""
        return {"name": self.name, "words": self.words}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WordTokenizer:
        """Return the tokenizer that `to_json` described."""
        return cls(values["words"])


def _as_text(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError as failure:
        raise DataError(f"the word {word!r} is not UTF-8: use the byte tokenizer") from failure


def _words_of(line: bytes, number: int) -> list[bytes]:
    """Return the words of a line and `<eos>`.

    Raises:
        DataError: Joined again, they would not be the line; names the first byte that differs.
    """
    words = line.split()
    rebuilt = b"".join(b" " + word for word in words) + _LINE_END
    if rebuilt != line or EOS.encode() in words:
        differs = (i for i, (a, b) in enumerate(zip(rebuilt, line, strict=False)) if a != b)
        place = next(differs, min(len(rebuilt), len(line)))
        raise DataError(
            f"line {number}, byte {place + 1}: {line[place : place + 12]!r} is not in the form of "
            "tokenised WikiText (words after single spaces, ' \\n' at the end), so bytes would be "
            "lost: use the byte tokenizer"
        )
    return [*words, EOS.encode()]
