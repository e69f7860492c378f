"""Tokenizers: reversible maps from bytes to tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharnn.errors import ConfigError, DataError
from sharnn.files import read_json, write_json
from sharnn.text.byte import ByteTokenizer
from sharnn.text.spelled import SpelledWordTokenizer
from sharnn.text.subword import SubwordTokenizer
from sharnn.text.tokenizer import Tokenizer, as_bytes
from sharnn.text.word import UnencodableText, WordTokenizer

_KINDS: dict[str, Any] = {
    kind.name: kind
    for kind in (ByteTokenizer, WordTokenizer, SubwordTokenizer, SpelledWordTokenizer)
}


def tokenizer_from_json(values: Any, where: str = "tokenizer") -> Tokenizer:
    """Return the tokenizer that `Tokenizer.to_json` has described.

    Args:
        values: The description, as JSON values.
        where: Name of its source, for error messages.

    Raises:
        DataError: The kind is unknown, or its values are damaged.
        ConfigError: It is a subword tokenizer, and the library `tokenizers` is not installed.
    """
    kind = _KINDS.get(str(values.get("name"))) if isinstance(values, dict) else None
    if kind is None:
        hint = ""
        if isinstance(values, dict) and isinstance(values.get("model"), dict):
            hint = " ('sharnn tokenizer import' reads files of the library 'tokenizers')"
        raise DataError(f"{where} has no known kind{hint}: the kinds are {', '.join(_KINDS)}")
    try:
        return kind.from_json(values)
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, DataError) as failure:
        raise DataError(f"{where} is damaged: {failure!r}") from failure


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`.

    Raises:
        DataError: The file cannot be written.
    """
    write_json(path, tokenizer.to_json(), DataError)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`.

    Raises:
        DataError: The file is missing, is not JSON, or does not describe a tokenizer.
    """
    return tokenizer_from_json(read_json(path, DataError), str(path))


__all__ = [
    "ByteTokenizer",
    "SpelledWordTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "UnencodableText",
    "WordTokenizer",
    "as_bytes",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_json",
]
