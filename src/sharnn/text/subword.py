"""Subwords of bytes: BPE, WordPiece and Unigram of the library `tokenizers`, none of which loses a byte.

The library reads text, which it normalises, replaces and drops as it is told. Here it is given the bytes
of one unit at a time, each as a character of a fixed alphabet, and nothing but its model is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from sharnn.errors import DataError
from sharnn.files import read_json
from sharnn.text.alphabet import to_bytes, to_characters
from sharnn.text.dropout import best_path, match_longest, merge
from sharnn.text.subword_training import CONTINUING, import_library, train_model
from sharnn.text.unit_tokenizer import UnitTokenizer

_KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
#: As in GPT-2, one space goes with what follows it, and letters, digits and other signs are told apart.
#: Bytes beyond ASCII count as letters. A longer run is cut, so that no unit takes long.
_UNITS = (
    rb" ?[A-Za-z\x80-\xff]{1,64}"
    rb"| ?[0-9]{1,64}"
    rb"| ?[^ \t\n\r\x0b\x0cA-Za-z0-9\x80-\xff]{1,64}"
    rb"|[ \t\n\r\x0b\x0c]"
)
_ALL_BYTES = bytes(range(256))


class SubwordTokenizer(UnitTokenizer):
    """A vocabulary of pieces of units; any bytes at all have tokens, and come back.

    Args:
        model: The library's JSON of a model: `type`, `vocab`, of BPE also `merges`.

    Raises:
        ConfigError: The library is not installed.
        DataError: The model would lose a byte; tells the first.
        KeyError, TypeError, AttributeError, ValueError: It is no model, or one that cannot be used.

    Attributes:
        kind: `bpe`, `wordpiece` or `unigram`.
        pieces: Tokens by their bytes; of WordPiece those that can begin a unit.
        continuing: Tokens of what can follow within a unit: the same, but for WordPiece.
    """

    name = "subword"
    unit_pattern = re.compile(_UNITS)

    def __init__(self, model: dict[str, Any]) -> None:
        self.kind = _KINDS[model["type"]]
        _check_options(model, self.kind)
        token_bytes: list[bytes] = []
        pieces: dict[bytes, int] = {}
        continuing: dict[bytes, int] = {} if self.kind == "wordpiece" else pieces
        for token, characters in enumerate(_in_order(model["vocab"])):
            goes_on = self.kind == "wordpiece" and characters.startswith(CONTINUING)
            token_bytes.append(_bytes_of(characters[len(CONTINUING) * goes_on :]))
            (continuing if goes_on else pieces)[token_bytes[-1]] = token
        known = pieces.keys() & continuing.keys()
        _check_same(_ALL_BYTES, bytes(byte for byte in _ALL_BYTES if bytes([byte]) in known))
        super().__init__(token_bytes, pieces)
        self.continuing = continuing
        self._json = model
        self._model = _library_tokenizer(model).model

    @classmethod
    def train(cls, text: Iterable[bytes], kind: str, vocab_size: int) -> SubwordTokenizer:
        """Return a tokenizer trained on a text.

        Args:
            text: Blocks that cut no unit.
            kind: `bpe`, `wordpiece` or `unigram`.
            vocab_size: Tokens, neither more nor fewer; 0 … 255 are the bytes.

        Raises:
            ConfigError: The size is too small, there is no such kind, or the library is not installed.
            DataError: The text gives fewer tokens; tells how many.
        """
        import_library()  # before a long text is read
        return cls(train_model(kind, cls.count_units(text), vocab_size))

    @classmethod
    def from_library_file(cls, path: Path) -> SubwordTokenizer:
        """Import the `tokenizer.json` of a byte-level tokenizer of the library, such as GPT-2's.

        Its model is kept, with the numbers of its tokens. Text is cut into units by the rule of this
        class, so a few places may be cut otherwise than by the file's own, and special tokens that
        stand outside of the model's vocabulary are left out.

        Raises:
            ConfigError: The library is not installed.
            DataError: The file is missing or damaged, or the tokenizer loses bytes; tells the first.
        """
        values = read_json(path, DataError)
        try:
            tokenizer = import_library().Tokenizer.from_str(json.dumps(values))
            model = json.loads(tokenizer.to_str())["model"]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # a panic in the library is no Exception
            raise DataError(f"{path} is no tokenizer of the library: {failure}") from failure
        try:
            _check_library(tokenizer)
            return cls(model)
        except (KeyError, TypeError, AttributeError, ValueError, DataError) as failure:
            raise DataError(f"{path} cannot be used: {failure}") from failure

    def encode_unit(self, unit: bytes) -> list[int]:
        """Return the tokens of one unit, by the library."""
        return [token.id for token in self._model.tokenize(to_characters(unit))]

    def perturb_unit(self, unit: bytes, dropped: Callable[[], bool]) -> list[int]:
        """Return tokens of one unit by BPE-dropout, MaxMatch-Dropout or a thinned best path."""
        if self.kind == "bpe":
            single = [self.pieces[unit[i : i + 1]] for i in range(len(unit))]
            return merge(single, self._merges, dropped)
        if self.kind == "wordpiece":
            return match_longest(unit, self.pieces, self.continuing, dropped)
        return best_path(unit, self.pieces, self._scores, dropped)

    @cached_property
    def _merges(self) -> dict[tuple[int, int], tuple[int, int]]:
        """BPE's merges: by the pair that is merged, the rank and the token that it makes."""
        vocab = self._json["vocab"]
        return {
            (vocab[one], vocab[other]): (rank, vocab[one + other])
            for rank, (one, other) in enumerate(self._json["merges"])
        }

    @cached_property
    def _scores(self) -> list[float]:
        return [score for _, score in self._json["vocab"]]

    def to_json(self) -> dict[str, Any]:
        """Return the name, the rule of units and the library's model."""
        return {"name": self.name, "units": _UNITS.decode("latin-1"), "model": self._json}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SubwordTokenizer:
        """Return the tokenizer that `to_json` described.

        Raises:
            ConfigError: The library is not installed.
            KeyError, TypeError, AttributeError, ValueError, DataError: It describes none.
        """
        if values["units"] != _UNITS.decode("latin-1"):
            raise ValueError("it cuts texts into units by another rule than this version of sharnn")
        return cls(values["model"])


def _check_options(model: dict[str, Any], kind: str) -> None:
    """Refuse what would make tokens random, or make them stand for other bytes than they are named by.

    Raises:
        ValueError: Names the option.
    """
    own = CONTINUING if kind == "wordpiece" else None
    expected = {"dropout": None, "end_of_word_suffix": None, "continuing_subword_prefix": own}
    for option, value in expected.items():
        if (model.get(option) or None) != value:
            raise ValueError(f"its model has the {option} {model.get(option)!r}, not {value!r}")


def _in_order(vocab: Any) -> Iterator[str]:
    """Yield the tokens' characters in the order of their numbers.

    Raises:
        ValueError: The numbers are not 0 … V - 1.
    """
    if isinstance(vocab, list):  # Unigram's: pieces with scores
        yield from (piece for piece, _ in vocab)
        return
    ranked = sorted(vocab.items(), key=lambda item: item[1])
    for expected, (characters, token) in enumerate(ranked):
        if token != expected:
            raise ValueError(f"its tokens are not numbered one by one: {token} is no. {expected}")
        yield characters


def _bytes_of(characters: str) -> bytes:
    """Return the bytes that a token's characters stand for.

    Raises:
        ValueError: They stand for none.
    """
    try:
        spelt = to_bytes(characters)
    except KeyError:
        spelt = b""
    if not spelt:
        raise ValueError(
            f"its token {characters!r} stands for no bytes: it is not written in GPT-2's alphabet"
        )
    return spelt


def _library_tokenizer(model: dict[str, Any]) -> Any:
    """Return the library's tokenizer of a model, with nothing before or after it.

    Raises:
        ValueError: The library does not know what to do with it.
    """
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    values: dict[str, Any] = {"version": "1.0", "added_tokens": [], "model": model}
    values.update(dict.fromkeys(parts))
    library = import_library()
    try:
        return library.Tokenizer.from_str(json.dumps(values))
    except Exception as failure:  # the library raises nothing more special
        raise ValueError(str(failure)) from failure


# ------------------------------------------------------------------------- tokenizers that lose bytes


def _check_library(tokenizer: Any) -> None:
    """Read texts with all that the library's tokenizer does to them, and compare what comes back.

    Raises:
        DataError: Tells the first byte that does not.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in _probes():
        try:
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            back = tokenizer.decode(tokens, skip_special_tokens=False)
        except Exception as failure:  # the library raises nothing more special
            raise DataError(f"it cannot read every text: {failure}") from failure
        _check_same(text.encode(), back.encode())


def _probes() -> Iterator[str]:
    """Yield texts with what tokenizers like to change: case, accents, white space, rare characters."""
    yield "The Quick brown fox, e\u0301t\u00e9  DON'T <unk> [UNK] \n\n\ttabs \r\n and trailing  "
    yield "".join(map(chr, _ALL_BYTES))
    yield "".join(
        chr(code) for code in range(0x800, 0x110000, 0x555) if not 0xD800 <= code < 0xE000
    )


def _check_same(data: bytes, back: bytes) -> None:
    """Compare a probe with what came back.

    Raises:
        DataError: Tells the first byte that is lost.
    """
    if back == data:
        return
    pairs = enumerate(zip(data, back, strict=False))
    offset = next((i for i, (one, other) in pairs if one != other), min(len(data), len(back)))
    if offset == len(data):
        raise DataError(f"bytes are added to a text: {back[offset:]!r} after {data!r}")
    around = data[max(0, offset - 8) : offset + 8]
    raise DataError(
        f"bytes are lost or altered: the first is 0x{data[offset]:02x} ({bytes([data[offset]])!r}) at "
        f"offset {offset} of a probe of {len(data)} bytes, in {around!r}. Only byte-level tokenizers "
        "without normalisation, such as GPT-2's, give every byte back"
    )
