"""The first pass over the texts: what is read, in which encoding, what is left out, and its digests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharnn.data.corpus import SPLITS
from sharnn.data.counting import Utf8Checker
from sharnn.data.download import Progress
from sharnn.data.encoding import AUTO, BYTES, HEAD_BYTES, Form, decoded, form_of
from sharnn.data.sources import Found
from sharnn.data.splits import draw_held_out
from sharnn.data.unpack import Reader
from sharnn.errors import DataError

#: The key of a text that is divided into the splits by position.
WHOLE = "all"
#: Names shown in the line that says what was read, and names recorded.
_SHOWN_NAMES, _KEPT_NAMES = 3, 20
#: A text with a larger share of bytes that are not UTF-8 is not in Latin letters.
_MOST_ACCENTS = 0.35


@dataclass(frozen=True)
class Piece:
    """A text of the corpus, as the first pass found it.

    Attributes:
        reader: The text, decoded.
        relative: Its path in the folder, glob or archive that was named.
        sha256: Digest of the text.
        num_bytes: Its size, without `ending`.
        ends_line: Whether it ends with a line's end.
        ending: What is added to it: a line's end, or nothing.
    """

    reader: Reader
    relative: str
    sha256: str
    num_bytes: int
    ends_line: bool
    ending: bytes = b""

    def chunks(self) -> Iterator[bytes]:
        """Yield the text again.

        Raises:
            DataError: It changed since the first pass. The cache is by content, so the text would get the
                digest of another one.
        """
        digest = hashlib.sha256()
        for chunk in self.reader.chunks():
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"{self.reader.name} changed while it was read: try again when nothing writes to it"
            )
        if self.ending:
            yield self.ending


@dataclass(frozen=True)
class Content:
    """What a corpus is made of.

    Attributes:
        pieces: Its texts: those of each split, or those of `all`, which is cut by position.
        sha256: Digest of each entry.
        num_bytes: Number of bytes of each.
    """

    pieces: dict[str, list[Piece]]
    sha256: dict[str, str]
    num_bytes: dict[str, int]


@dataclass
class Names:
    """A count of files, and the names of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count a file."""
        self.count += 1
        if len(self.first) < _KEPT_NAMES:
            self.first.append(printable(name))

    def __str__(self) -> str:
        return _shown(self.first, self.count)


@dataclass
class TextsRead:
    """What was read, for people and for the manifest.

    Attributes:
        name: Name of the corpus.
        num_files: Number of files read.
        num_bytes: Bytes of text.
        encodings: Number of files in each encoding.
        invalid_utf8_bytes: Bytes that are not UTF-8.
        not_utf8: Files with such bytes.
        looks_like: The encoding that they seem to be in; empty if unknown.
        as_bytes: Files that are not text and were read because the user named them.
        not_text: Files that are not text and were left out.
        equal: Files left out because another one has the same content.
        num_unwanted: Files left out by patterns.
        line_ends_added: Files that got a line's end before the next one.
        held_out: Files of valid and test, if whole files are held out.
    """

    name: str
    num_files: int = 0
    num_bytes: int = 0
    encodings: dict[str, int] = field(default_factory=dict)
    invalid_utf8_bytes: int = 0
    not_utf8: Names = field(default_factory=Names)
    looks_like: str = ""
    as_bytes: Names = field(default_factory=Names)
    not_text: Names = field(default_factory=Names)
    equal: Names = field(default_factory=Names)
    num_unwanted: int = 0
    line_ends_added: int = 0
    held_out: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON, with the line for people."""
        return {"line": str(self), **dataclasses.asdict(self)}

    @property
    def is_plain(self) -> bool:
        """Whether it is one file of UTF-8, and nothing was left out."""
        one = self.num_files == 1 and list(self.encodings) == ["UTF-8"]
        return one and not any(self._remarks())

    def __str__(self) -> str:
        encodings = (
            label if count == self.num_files else f"{_files(count)} in {label}"
            for label, count in self.encodings.items()
        )
        about = [_files(self.num_files), f"{self.num_bytes:,} bytes", *encodings]
        line = [f"read {printable(self.name)}: {', '.join(about)}", *self._remarks()]
        return "; ".join(line)

    def _remarks(self) -> Iterator[str]:
        if self.as_bytes.count:
            yield f"not text, read byte for byte: {self.as_bytes}"
        if self.not_utf8.count:
            where = f" in {self.not_utf8}" if self.num_files > 1 else ""
            probably = f", probably {self.looks_like}" if self.looks_like else ""
            encoding = self.looks_like or "their encoding, such as koi8-r or shift_jis,"
            yield (
                f"{self.invalid_utf8_bytes:,} bytes are not UTF-8{where}{probably}: set data.encoding to "
                f"{encoding} to read them as text"
            )
        if self.not_text.count:
            yield f"left out {_files(self.not_text.count)}, not text: {self.not_text}"
        if self.equal.count:
            yield f"left out {_files(self.equal.count)}, equal to others: {self.equal}"
        if self.num_unwanted:
            yield f"left out {_files(self.num_unwanted)} by data.include and data.exclude"
        if self.line_ends_added:
            yield f"added a line end after {_files(self.line_ends_added)} without one"
        for split, names in self.held_out.items():
            yield f"{split} is {_files(len(names))} by hash of the path: {_shown(names, len(names))}"


def printable(name: str) -> str:
    """Return a file's name with what cannot be written as UTF-8 replaced."""
    return name.encode("utf-8", "replace").decode()


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _shown(names: Sequence[str], count: int) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown} and {count - _SHOWN_NAMES:,} more" if count > _SHOWN_NAMES else shown


class FirstPass:
    """Reads texts once.

    Args:
        encoding: `auto`, `bytes`, or the encoding of all texts.
        progress: Called with the number of bytes done.
    """

    def __init__(self, encoding: str = AUTO, progress: Progress | None = None) -> None:
        self._encoding = encoding
        self._progress = progress
        self._num_done = 0

    def read_splits(self, readers: Mapping[str, Sequence[Reader]]) -> Content:
        """Return the content of a known corpus, whose bytes are all taken as they are."""
        content = Content({}, {}, {})
        for key, texts in readers.items():
            pieces: list[Piece] = []
            whole = None
            for reader in texts:
                piece, whole = self._read(reader, reader.name, whole)
                pieces.append(piece)
            content.pieces[key] = pieces
            content.sha256[key] = (whole or hashlib.sha256()).hexdigest()
            content.num_bytes[key] = sum(piece.num_bytes for piece in pieces)
        return content

    def read_texts(self, name: str, found: Iterable[Found]) -> tuple[Content, TextsRead]:
        """Return the content of the texts that were found, and what was read and left out.

        Raises:
            DataError: A text cannot be read, unpacked or decoded; or none is left.
        """
        read, pieces = TextsRead(name), list[Piece]()
        whole = None
        first_of: dict[str, str] = {}
        if self._progress is not None:
            self._progress("reading", 0, None)  # to find the files may take a while
        for file in found:
            form = form_of(file.reader.head(HEAD_BYTES), self._encoding)
            if form.not_text and not _taken(file, form, self._encoding):
                read.not_text.add(file.shown)
                continue
            reader = decoded(file.reader, form.codec, strict=self._encoding != AUTO)
            gap = self._ending(pieces[-1]) if pieces else b""
            checker = Utf8Checker()
            piece, with_it = self._read(reader, file.relative, whole, gap, checker)
            if not piece.num_bytes:
                continue
            if piece.sha256 in first_of:
                read.equal.add(f"{file.shown} = {first_of[piece.sha256]}")
                continue
            first_of[piece.sha256] = file.shown
            pieces.append(piece)
            whole = with_it
            self._note(read, file, form, checker, piece)
        if not pieces and read.not_text.count:
            raise DataError(
                f"{name} has no text: left out {_files(read.not_text.count)}, not text: "
                f"{read.not_text}; set data.encoding to bytes to read them byte for byte"
            )
        sha256 = (whole or hashlib.sha256()).hexdigest()
        return self._divide(pieces, sha256, read), read

    def _read(
        self,
        reader: Reader,
        relative: str,
        whole: Any,
        gap: bytes = b"",
        checker: Utf8Checker | None = None,
    ) -> tuple[Piece, Any]:
        """Return a text's facts, and the digest of all texts with this one; `whole` stays as it is.

        The first text is hashed once, for its digest is also that of all texts so far.
        """
        own, last, num_bytes = hashlib.sha256(), b"", 0
        joined = None if whole is None else whole.copy()
        if joined is not None:
            joined.update(gap)
        for chunk in reader.chunks():
            own.update(chunk)
            if joined is not None:
                joined.update(chunk)
            if checker is not None:
                checker.add(chunk)
            num_bytes += len(chunk)
            last = chunk[-1:]
            if self._progress is not None:
                self._progress("reading", self._num_done + num_bytes, None)
        if checker is not None:
            checker.add(b"", final=True)
        self._num_done += num_bytes
        piece = Piece(reader, relative, own.hexdigest(), num_bytes, last == b"\n")
        return piece, own if joined is None else joined

    def _ending(self, piece: Piece) -> bytes:
        """Return what a text gets before the next one, so that words are not joined."""
        return b"" if piece.ends_line or self._encoding == BYTES else b"\n"

    def _note(
        self, read: TextsRead, file: Found, form: Form, checker: Utf8Checker, piece: Piece
    ) -> None:
        read.num_files += 1
        read.num_bytes += piece.num_bytes
        read.invalid_utf8_bytes += checker.num_invalid
        if form.not_text and form.codec is None:
            read.as_bytes.add(f"{file.shown} ({form.not_text})")
        elif self._encoding != AUTO:
            read.encodings[self._encoding] = read.num_files
        elif checker.num_invalid:
            read.not_utf8.add(file.shown)
            if checker.num_invalid <= piece.num_bytes * _MOST_ACCENTS:
                looks_like = "cp1252" if checker.looks_like_cp1252 else "latin-1"
                read.looks_like = max(
                    looks_like, read.looks_like, key=("", "latin-1", "cp1252").index
                )
        else:
            read.encodings[form.label] = read.encodings.get(form.label, 0) + 1

    def _divide(self, pieces: list[Piece], sha256: str, read: TextsRead) -> Content:
        """Return the pieces by split, or as one text; those before another one end with a line."""
        drawn = draw_held_out([(piece.relative, piece.num_bytes) for piece in pieces])
        by_split: dict[str, list[Piece]] = {WHOLE: pieces}
        if drawn is not None:
            by_split = {split: [] for split in SPLITS}
            for split, piece in zip(drawn, pieces, strict=True):
                by_split[split].append(piece)
            read.held_out = {
                split: [printable(piece.relative) for piece in by_split[split]]
                for split in SPLITS[1:]
            }
        left = len(pieces)
        content = Content({}, {}, {})
        for key, members in by_split.items():
            ended = []
            for piece in members:
                left -= 1
                ending = self._ending(piece) if left else b""
                read.line_ends_added += len(ending)
                ended.append(dataclasses.replace(piece, ending=ending))
            content.pieces[key] = ended
            content.num_bytes[key] = sum(p.num_bytes + len(p.ending) for p in ended)
            content.sha256[key] = sha256 if drawn is None else _digest_of(ended)
        read.num_bytes = sum(content.num_bytes.values())
        return content


def _taken(file: Found, form: Form, encoding: str) -> bool:
    """Return whether a file that is not text is read all the same, because it was named.

    Raises:
        DataError: It is an archive or compressed file of a format that cannot be unpacked.
    """
    if file.named and form.sealed and encoding == AUTO:
        raise DataError(
            f"{file.reader.name} is a {form.not_text}, which sharnn cannot unpack: unpack it and give "
            "the folder or file, or set data.encoding to bytes to read it byte for byte"
        )
    return file.named


def _digest_of(pieces: Sequence[Piece]) -> str:
    """Return the digest of texts that are not read as one."""
    facts = "".join(f"{piece.sha256} {len(piece.ending)}\n" for piece in pieces)
    return hashlib.sha256(facts.encode()).hexdigest()
