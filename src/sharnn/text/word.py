"""Words of a closed vocabulary, for texts in WikiText's tokenised form.

Every line of such a text is `(b" " + word)* + b" \\n"`. A word's token decodes to b" word" and the token
`<eos>` to b" \\n", so every byte is restored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.errors import DataError
from sharnn.text.tokenizer import as_bytes
from sharnn.text.vocabulary import Vocabulary

EOS = "<eos>"
_LINE_END = b" \n"
_EOS_WORD = EOS.encode()
#: Bytes of text quoted in an error message.
_EXCERPT_BYTES = 12


class UnencodableText(DataError):
    """A text that a vocabulary cannot represent.

    If the data was a part of a longer text, the caller can use `offset` to name the file and the line.

    Attributes:
        reason: What is wrong, without the place.
        offset: Bytes of the data before the place.
        line: Line of the place in the data, from 1.
        column: Byte of the place in that line, from 1.
    """

    def __init__(self, reason: str, data: bytes, offset: int) -> None:
        self.reason = reason
        self.offset = offset
        self.line = data.count(b"\n", 0, offset) + 1
        self.column = offset - (data.rfind(b"\n", 0, offset) + 1) + 1
        super().__init__(f"line {self.line:,}, byte {self.column:,}: {reason}")


class WordTokenizer(Vocabulary):
    """A closed vocabulary in order of decreasing frequency, so that a split softmax can cut it by rank.

    Args:
        words: The vocabulary, including `<eos>`; a word's token is its index.

    Raises:
        DataError: `<eos>` is missing, or a word is repeated, empty or contains white space.
    """

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        encoded = [word.encode() for word in self.words]
        self._tokens = {word: token for token, word in enumerate(encoded)}
        if len(self._tokens) != len(encoded) or _EOS_WORD not in self._tokens:
            raise DataError(f"a vocabulary must contain '{EOS}' and each word only once")
        if any(word.split() != [word] for word in encoded):
            raise DataError("a vocabulary's words must not be empty or contain white space")
        super().__init__([_LINE_END if word == _EOS_WORD else b" " + word for word in encoded])
        self.start_token = self._tokens[_EOS_WORD]

    @classmethod
    def build(cls, text: Iterable[bytes], also: Iterable[bytes] = ()) -> WordTokenizer:
        """Return the vocabulary of a text, in order of decreasing frequency; ties are ordered by bytes.

        Args:
            text: Blocks of whole lines; frequent words of this text get low tokens.
            also: More blocks. Their words are added with a count of 0, so that every word of a held-out
                text has a token.

        Raises:
            UnencodableText: A block does not have the form; its place is counted from the block's start.
        """
        counts: Counter[bytes] = Counter({_EOS_WORD: 0})
        for block in text:
            counts.update(_words_of(block))
        for block in also:
            counts.update(dict.fromkeys(_words_of(block), 0))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([_as_text(word) for word, _ in ranked])

    def encode(self, data: bytes | str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of lines, of which the last may be unfinished and end after any word.

        Raises:
            UnencodableText: A line does not have the form, or a word is not in the vocabulary.
        """
        data = as_bytes(data)
        words = _words_of(data)
        try:
            tokens = [self._tokens[word] for word in words]
        except KeyError as failure:
            word: bytes = failure.args[0]
            before = words[: words.index(word)]
            offset = sum(len(w) + 1 if w != _EOS_WORD else len(_LINE_END) for w in before) + 1
            reason = (
                f"the word '{word.decode(errors='replace')}' is not in the vocabulary of "
                f"{self.vocab_size:,} words: use the byte tokenizer, or a model whose vocabulary has the "
                "word"
            )
            raise UnencodableText(reason, data, offset) from None
        return np.array(tokens, dtype=self.dtype)

    @staticmethod
    def last_cut(data: bytes) -> int:
        """Return the end of the last complete line."""
        return data.rfind(b"\n") + 1

    def to_json(self) -> dict[str, Any]:
        """Return the name and the vocabulary."""
        return {"name": self.name, "words": self.words}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WordTokenizer:
        """Return the tokenizer that `to_json` has described.

        Raises:
            KeyError, TypeError, AttributeError, ValueError, DataError: The values do not describe one.
        """
        if not isinstance(values["words"], list):
            raise TypeError("its 'words' are not a list")
        return cls(values["words"])


def _as_text(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError as failure:
        raise DataError(f"the word {word!r} is not UTF-8: use the byte tokenizer") from failure


def _words_of(data: bytes) -> list[bytes]:
    """Return the words of lines, with `<eos>` for the end of each line; the last may be unfinished.

    Raises:
        UnencodableText: Joining the words would not restore `data`; the place is the first byte that
            differs.
    """
    lines = [line.split() for line in data.split(b"\n")]
    unfinished = lines.pop()
    rebuilt = b"".join(b" " + b" ".join(line) + _LINE_END if line else _LINE_END for line in lines)
    rebuilt += b"".join(b" " + word for word in unfinished)
    words = [*(word for line in lines for word in (*line, _EOS_WORD)), *unfinished]
    if rebuilt != data:
        offset = _first_difference(rebuilt, data)
        found = (
            f"{data[offset : offset + _EXCERPT_BYTES]!r}"
            if offset < len(data)
            else "the text's end"
        )
        reason = (
            f"{found} does not have the form of tokenised WikiText (each word after one space, ' \\n' at "
            "the end of every line), so bytes would be lost: use the byte tokenizer"
        )
        raise UnencodableText(reason, data, offset)
    if (offset := (data + b" ").find(b" " + _EOS_WORD + b" ")) >= 0:
        reason = f"the word '{EOS}' is reserved for the end of a line: use the byte tokenizer"
        raise UnencodableText(reason, data, offset + 1)
    return words


def _first_difference(one: bytes, other: bytes) -> int:
    """Return the first offset where two texts differ, at most the length of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
