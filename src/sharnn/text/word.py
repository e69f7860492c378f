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
from sharnn.text.vocabulary import Vocabulary

EOS = "<eos>"
_LINE_END = b" \n"
_EOS_WORD = EOS.encode()
#: Bytes of an error's excerpt.
_EXCERPT_BYTES = 12


class UnencodableText(DataError):
    """A text that a vocabulary cannot say.

    Who gave a part of a longer text knows which file it was and finds the place there.

    Attributes:
        reason: What is wrong, without the place.
        offset: Bytes of the data before the place.
        line: Number of its line in the data, from 1.
        column: Number of its byte in that line, from 1.
    """

    def __init__(self, reason: str, data: bytes, offset: int) -> None:
        self.reason = reason
        self.offset = offset
        self.line = data.count(b"\n", 0, offset) + 1
        self.column = offset - (data.rfind(b"\n", 0, offset) + 1) + 1
        super().__init__(f"line {self.line:,}, byte {self.column:,}: {reason}")


class WordTokenizer(Vocabulary):
    """A closed vocabulary, by falling frequency, so that cutoffs of a split softmax are ranks.

    Args:
        words: The vocabulary with `<eos>` in it; a word's token is its place.

    Raises:
        DataError: `<eos>` is missing, a word stands twice, or is none: empty, or with white space.
    """

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        encoded = [word.encode() for word in self.words]
        self._tokens = {word: token for token, word in enumerate(encoded)}
        if len(self._tokens) != len(encoded) or _EOS_WORD not in self._tokens:
            raise DataError(f"a vocabulary must hold '{EOS}' and no word twice")
        if any(word.split() != [word] for word in encoded):
            raise DataError("a vocabulary's words must not be empty or hold white space")
        super().__init__([_LINE_END if word == _EOS_WORD else b" " + word for word in encoded])
        self.start_token = self._tokens[_EOS_WORD]

    @classmethod
    def build(cls, text: Iterable[bytes], also: Iterable[bytes] = ()) -> WordTokenizer:
        """Return the vocabulary of a text, by falling frequency, then by bytes.

        Args:
            text: Blocks of whole lines; what is frequent here has a low token.
            also: More blocks, whose words must be in the vocabulary too but count for nothing, so
                that a closed vocabulary leaves no word of a held-out text without a token.

        Raises:
            UnencodableText: A block has another form; the place is counted from the block's start.
        """
        counts: Counter[bytes] = Counter({_EOS_WORD: 0})
        for block in text:
            counts.update(_words_of(block))
        for block in also:
            counts.update(dict.fromkeys(_words_of(block), 0))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([_as_text(word) for word, _ in ranked])

    def encode(self, data: bytes) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of whole lines.

        Raises:
            UnencodableText: A line has another form, or a word is not in the vocabulary.
        """
        words = _words_of(data)
        try:
            tokens = [self._tokens[word] for word in words]
        except KeyError as failure:
            word: bytes = failure.args[0]
            before = words[: words.index(word)]
            offset = sum(len(w) + 1 if w != _EOS_WORD else len(_LINE_END) for w in before) + 1
            reason = (
                f"the word '{word.decode(errors='replace')}' is not in the vocabulary of "
                f"{self.vocab_size:,} words: use the byte tokenizer, or a model whose vocabulary has it"
            )
            raise UnencodableText(reason, data, offset) from None
        return np.array(tokens, dtype=self.dtype)

    @staticmethod
    def last_cut(data: bytes) -> int:
        """Return the end of the last whole line."""
        return data.rfind(b"\n") + 1

    def to_json(self) -> dict[str, Any]:
        """Return the name and the vocabulary."""
        return {"name": self.name, "words": self.words}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WordTokenizer:
        """Return the tokenizer that `to_json` described.

        Raises:
            KeyError, TypeError, AttributeError, ValueError, DataError: It describes no vocabulary.
        """
        if not isinstance(values["words"], list):
            raise TypeError("its words are no list")
        return cls(values["words"])


def _as_text(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError as failure:
        raise DataError(f"the word {word!r} is not UTF-8: use the byte tokenizer") from failure


def _words_of(data: bytes) -> list[bytes]:
    """Return the words of whole lines, `<eos>` for the end of each.

    Raises:
        UnencodableText: Joined again, they would not be `data`; tells the first byte that differs.
    """
    lines = [line.split() for line in data.split(b"\n")]
    unfinished = lines.pop()
    rebuilt = b"".join(b" " + b" ".join(line) + _LINE_END if line else _LINE_END for line in lines)
    words = [word for line in lines for word in (*line, _EOS_WORD)]
    if rebuilt != data:
        ending = b"".join(b" " + word for word in unfinished)
        offset = _first_difference(rebuilt + ending, data)
        found = (
            f"{data[offset : offset + _EXCERPT_BYTES]!r}"
            if offset < len(data)
            else "the text's end"
        )
        reason = (
            f"{found} is not in the form of tokenised WikiText (words after single spaces, ' \\n' at the "
            "end of every line), so bytes would be lost: use the byte tokenizer"
        )
        raise UnencodableText(reason, data, offset)
    if (offset := data.find(b" " + _EOS_WORD + b" ")) >= 0:
        reason = f"the word '{EOS}' stands for the end of a line: use the byte tokenizer"
        raise UnencodableText(reason, data, offset + 1)
    return words


def _first_difference(one: bytes, other: bytes) -> int:
    """Return the first place where two texts differ: at most the shorter one's end."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
