"""Byte-level subwords: BPE, WordPiece and Unigram of the library `tokenizers`, without losing a byte.

The library's pipelines work on text and may normalise, replace or drop parts of it. Only the library's
model is used here. It gets the bytes of one unit at a time, each as a character of a fixed alphabet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sharnn.errors import DataError
from sharnn.files import read_json
from sharnn.text.alphabet import to_bytes, to_characters
from sharnn.text.subword_training import CONTINUING, import_library, train_model
from sharnn.text.unit_tokenizer import UnitTokenizer

_KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
#: As in GPT-2, a space belongs to what follows it; letters, digits and other signs form separate units.
#: Bytes beyond ASCII count as letters. The length limit bounds the time for encoding one unit.
_UNITS = (
    rb" ?[A-Za-z\x80-\xff]{1,64}"
    rb"| ?[0-9]{1,64}"
    rb"| ?[^ \t\n\r\x0b\x0cA-Za-z0-9\x80-\xff]{1,64}"
    rb"|[ \t\n\r\x0b\x0c]"
)
_ALL_BYTES = bytes(range(256))


class SubwordTokenizer(UnitTokenizer):
    """A vocabulary of pieces of units that encodes and restores any bytes.

    Args:
        model: The library's JSON of a model: `type`, `vocab` and, for BPE, `merges`.

    Raises:
        ConfigError: The library is not installed.
        DataError: The model would lose a byte; the message names the first.
        KeyError, TypeError, AttributeError, ValueError: The JSON is not a model, or not a usable one.

    Attributes:
        kind: `bpe`, `wordpiece` or `unigram`.
        pieces: Tokens by their bytes; for WordPiece those that can begin a unit.
        continuing: Tokens that can continue a unit; the same as `pieces` except for WordPiece.
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
            text: Blocks whose boundaries do not split a unit.
            kind: `bpe`, `wordpiece` or `unigram`.
            vocab_size: Exact number of tokens; 0 … 255 are the bytes.

        Raises:
            ConfigError: The size is too small, the kind is unknown, or the library is not installed.
            DataError: The text gives fewer tokens; the message says how many.
        """
        import_library()  # raises before a long text is read
        return cls(train_model(kind, cls.count_units(text), vocab_size))

    @classmethod
    def from_library_file(cls, path: Path) -> SubwordTokenizer:
        """Import the `tokenizer.json` of one of the library's byte-level tokenizers, such as GPT-2's.

        The model and its token numbers are kept. Text is split into units by the rule of this class, so
        some places may be tokenized differently than by the file's own rule. Special tokens outside the
        model's vocabulary are left out.

        Raises:
            ConfigError: The library is not installed.
            DataError: The file is missing or damaged, or the tokenizer loses bytes; the message names the
                first.
        """
        values = read_json(path, DataError)
        try:
            tokenizer = import_library().Tokenizer.from_str(json.dumps(values))
            model = json.loads(tokenizer.to_str())["model"]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # a Rust panic in the library is not an Exception
            raise DataError(
                f"{path} is not a tokenizer of the library 'tokenizers': {failure}"
            ) from failure
        try:
            _check_library(tokenizer)
            return cls(model)
        except (KeyError, TypeError, AttributeError, ValueError, DataError) as failure:
            raise DataError(f"{path} cannot be used: {failure}") from failure

    def encode_unit(self, unit: bytes) -> list[int]:
        """Return the tokens of one unit, computed by the library."""
        return [token.id for token in self._model.tokenize(to_characters(unit))]

    def to_json(self) -> dict[str, Any]:
        """Return the name, the rule for units and the library's model."""
        return {"name": self.name, "units": _UNITS.decode("latin-1"), "model": self._json}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SubwordTokenizer:
        """Return the tokenizer that `to_json` has described.

        Raises:
            ConfigError: The library is not installed.
            KeyError, TypeError, AttributeError, ValueError, DataError: The values do not describe one.
        """
        if values["units"] != _UNITS.decode("latin-1"):
            raise ValueError("it splits text by another rule than this version of sharnn")
        return cls(values["model"])


def _check_options(model: dict[str, Any], kind: str) -> None:
    """Refuse settings of a model that make tokens random, or make them mean other bytes than their names.

    Raises:
        ValueError: Names the setting.
    """
    own = CONTINUING if kind == "wordpiece" else None
    expected = {"dropout": None, "end_of_word_suffix": None, "continuing_subword_prefix": own}
    for option, value in expected.items():
        if (model.get(option) or None) != value:
            raise ValueError(f"its model has {option} {model.get(option)!r}, it must be {value!r}")


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
            raise ValueError(f"its tokens are not numbered 0 … V - 1: {token} is number {expected}")
        yield characters


def _bytes_of(characters: str) -> bytes:
    """Return the bytes that a token's characters represent.

    Raises:
        ValueError: There are no characters, or they are not of the alphabet.
    """
    try:
        spelt = to_bytes(characters)
    except KeyError:
        spelt = b""
    if not spelt:
        raise ValueError(
            f"its token {characters!r} represents no bytes: it is not in GPT-2's byte alphabet"
        )
    return spelt


def _library_tokenizer(model: dict[str, Any]) -> Any:
    """Return the library's tokenizer of a model, without normaliser or other steps around it.

    Raises:
        ValueError: The library cannot read the model.
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
    """Check that the library's whole tokenizer, with all its steps, restores a few texts exactly.

    Raises:
        DataError: Names the first byte that is lost or altered.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in _probes():
        try:
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            back = tokenizer.decode(tokens, skip_special_tokens=False)
        except Exception as failure:  # the library raises nothing more special
            raise DataError(f"it cannot encode every text: {failure}") from failure
        _check_same(text.encode(), back.encode())


def _probes() -> Iterator[str]:
    """Yield texts with what tokenizers often change: case, accents, white space, rare characters."""
    yield "The Quick brown fox, e\u0301t\u00e9  DON'T <unk> [UNK] \n\n\ttabs \r\n and trailing  "
    yield "".join(map(chr, _ALL_BYTES))
    yield "".join(
        chr(code) for code in range(0x800, 0x110000, 0x555) if not 0xD800 <= code < 0xE000
    )


def _check_same(data: bytes, back: bytes) -> None:
    """Compare a probe text with its decoding.

    Raises:
        DataError: Names the first byte that is lost or altered.
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
        "without normalisation, such as GPT-2's, restore every byte"
    )
