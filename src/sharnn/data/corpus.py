"""A prepared corpus: a memory-mapped file of tokens, its tokenizer and a manifest.

tokens.bin      all splits, one after the other, in the smallest unsigned dtype
tokenizer.json
manifest.json   digest, counts and offset of every split
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharnn.config import did_you_mean
from sharnn.data.counting import TextCounter
from sharnn.errors import ConfigError, DataError
from sharnn.files import cache_folder, read_json, sha256_of_file
from sharnn.text import Tokenizer, as_bytes, load_tokenizer

#: 2: the digest covers the split rule; the manifest has the tokenizer's digest, the sources and licence.
FORMAT_VERSION = 2
MANIFEST, TOKENS, TOKENIZER = "manifest.json", "tokens.bin", "tokenizer.json"
SPLITS = ("train", "valid", "test")
_DECODE_TOKENS = 1 << 18
_COUNTS = ("num_tokens", "num_bytes", "num_chars", "num_words")


Tokens = npt.NDArray[np.unsignedinteger[Any]]
#: Tokens that are decoded together to be counted.
_CHUNK_TOKENS = 1 << 18


@dataclass(frozen=True)
class Split:
    """A part of a corpus.

    Attributes:
        tokens: `[num_tokens]`, a read-only memory map.
        num_tokens: Number of tokens.
        num_bytes: Number of bytes they decode to.
        num_chars: Number of UTF-8 characters that begin in the split.
        num_words: Number of runs of bytes between ASCII white space.
        sha256: Digest of the bytes; empty for `all`.
    """

    tokens: Tokens
    num_tokens: int
    num_bytes: int
    num_chars: int
    num_words: int
    sha256: str

    @classmethod
    def of_text(cls, text: str | bytes, tokenizer: Tokenizer) -> Split:
        """Return a text in memory as a split.

        Raises:
            DataError: The tokenizer cannot encode it.
        """
        data, counter = as_bytes(text), TextCounter()
        counter.add(data)
        return cls._counted(tokenizer.encode(data), counter, hashlib.sha256(data).hexdigest())

    def part(self, tokenizer: Tokenizer, start: int, stop: int) -> Split:
        """Return the tokens `[start, stop)` as a split of their own, without a digest."""
        tokens, counter = self.tokens[start:stop], TextCounter()
        for first in range(0, len(tokens), _CHUNK_TOKENS):
            counter.add(tokenizer.decode(tokens[first : first + _CHUNK_TOKENS]))
        return self._counted(tokens, counter, sha256="")

    @classmethod
    def _counted(cls, tokens: Tokens, counter: TextCounter, sha256: str) -> Split:
        sizes = (counter.num_bytes, counter.num_chars, counter.num_words)
        return cls(tokens, len(tokens), *sizes, sha256)


def corpus_folder(digest: str) -> Path:
    """Return the folder of the prepared corpus with this digest."""
    return cache_folder() / "corpora" / digest[:32]


def _again(folder: Path) -> str:
    return f"remove the folder {folder} and prepare the corpus again"


class Corpus:
    """An opened prepared corpus.

    Attributes:
        folder: Its folder.
        name: The name given by the user.
        digest: Digest of its content, tokenizer and splits.
        tokenizer: The tokenizer of its tokens.
        own_splits: Whether the corpus came with train, valid and test; else they were cut by position.
        manifest: All its metadata.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.name: str = manifest["name"]
        self.digest: str = manifest["digest"]
        self.own_splits: bool = manifest["own_splits"]
        self._dtype = np.dtype(manifest["dtype"])
        if self._dtype != tokenizer.encode(b"").dtype:
            raise ValueError(f"dtype {self._dtype} does not match the tokenizer")

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open a prepared corpus.

        Raises:
            DataError: A file is missing, truncated, altered or has another format.
        """
        manifest = read_json(folder / MANIFEST, DataError)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise DataError(
                f"{folder / MANIFEST} has format {found}, this version reads {FORMAT_VERSION}: "
                f"{_again(folder)}"
            )
        try:
            corpus = cls(folder, manifest, load_tokenizer(folder / TOKENIZER))
            corpus._check_files()
        except (AttributeError, KeyError, TypeError, ValueError) as failure:
            raise DataError(
                f"{folder / MANIFEST} is damaged ({failure!r}): {_again(folder)}"
            ) from failure
        return corpus

    @classmethod
    def find(cls, digest: str) -> Corpus | None:
        """Return the prepared corpus with this digest; None if the cache has no intact one."""
        try:
            return cls.open(corpus_folder(digest))
        except DataError:
            return None

    @property
    def reading(self) -> str:
        """One line that says what was read and left out; empty if it is not known."""
        return (self.manifest.get("read") or {}).get("line", "")

    @property
    def is_utf8(self) -> bool:
        """Whether the whole text is valid UTF-8, as far as it is known."""
        return not (self.manifest.get("read") or {}).get("invalid_utf8_bytes", 0)

    def _check_files(self) -> None:
        """Check everything that can be checked without reading the tokens.

        Raises:
            DataError: The size or content of a file differs from the manifest.
            KeyError, TypeError, AttributeError, ValueError: The manifest is damaged.
        """
        end = 0
        for name in SPLITS:
            entry = self.manifest["splits"][name]
            numbers = [entry[key] for key in ("offset", *_COUNTS, "words_begun_before")]
            if min(numbers) < 0 or entry["offset"] != end or not isinstance(entry["sha256"], str):
                raise ValueError(f"the split '{name}' does not begin where the previous one ends")
            end += entry["num_tokens"]
        path = self.folder / TOKENS
        expected = end * self._dtype.itemsize
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            raise DataError(
                f"{path} has {found} bytes, {MANIFEST} says {expected}: {_again(self.folder)}"
            )
        path = self.folder / TOKENIZER
        if sha256_of_file(path) != self.manifest["tokenizer_sha256"]:
            raise DataError(
                f"{path} is not the tokenizer that {TOKENS} was written with: {_again(self.folder)}"
            )

    def split(self, name: str) -> Split:
        """Return the split `train`, `valid` or `test`, or `all`, the three as one text.

        Raises:
            ConfigError: There is no split of that name.
        """
        entries = self.manifest["splits"]
        if name == "all":
            sums = {key: sum(entry[key] for entry in entries.values()) for key in _COUNTS}
            # A word that a split boundary cuts is counted in both splits, but only once in the whole.
            sums["num_words"] -= sum(entry["words_begun_before"] for entry in entries.values())
            return Split(self._map(0, sums["num_tokens"]), **sums, sha256="")
        if name not in entries:
            known = (*entries, "all")
            raise ConfigError(
                f"{self.name} has no split '{name}'{did_you_mean(name, known)}: {', '.join(known)}"
            )
        entry = entries[name]
        counts = {key: entry[key] for key in _COUNTS}
        tokens = self._map(entry["offset"], entry["num_tokens"])
        return Split(tokens, **counts, sha256=entry["sha256"])

    def _map(self, offset: int, num_tokens: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        if num_tokens == 0:
            return np.empty(0, self._dtype)
        return np.memmap(
            self.folder / TOKENS,
            self._dtype,
            "r",
            offset=offset * self._dtype.itemsize,
            shape=(num_tokens,),
        )

    def verify(self) -> None:
        """Read all tokens and compare the digests.

        Raises:
            DataError: The bytes of a split changed since it was prepared.
        """
        for name in self.manifest["splits"]:
            split, digest = self.split(name), hashlib.sha256()
            with contextlib.suppress(ValueError, IndexError):  # no such token: the file was altered
                for start in range(0, split.num_tokens, _DECODE_TOKENS):
                    tokens = split.tokens[start : start + _DECODE_TOKENS]
                    digest.update(self.tokenizer.decode(tokens))
            if digest.hexdigest() != split.sha256:
                raise DataError(
                    f"{self.folder / TOKENS}: the split '{name}' was altered since it was prepared: "
                    f"{_again(self.folder)}"
                )
