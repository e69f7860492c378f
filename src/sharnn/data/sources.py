"""From what the user names to files: files, folders, globs, pipes and standard input."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharnn.data.unpack import CHUNK_BYTES, Reader, Scratch, plain_reader, unpacked
from sharnn.errors import DataError
from sharnn.files import explain_os_error

STDIN = "-"
#: Folders that hold no texts of their owner. Hidden ones, such as .git, are left out too.
_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules", "__MACOSX"})


@dataclass(frozen=True)
class Found:
    """A file that may be a text.

    Attributes:
        reader: What is in it.
        relative: Its path in the folder, glob or archive that was named.
        named: Whether the user named this very file.
    """

    reader: Reader
    relative: str
    named: bool

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.reader.name if self.named else self.relative


@dataclass(frozen=True)
class Patterns:
    """Globs that choose files of folders and archives.

    A pattern without `/` is compared with the name of the file and of each folder above it, one with `/`
    with the path from the folder or archive that was named. `*` also matches `/`.

    Attributes:
        include: Only files that match one of these are read; empty for all.
        exclude: Files that match one of these are not.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def want(self, relative: str) -> bool:
        """Return whether the file at this path is read."""
        included = not self.include or any(_matches(relative, one) for one in self.include)
        return included and not any(_matches(relative, one) for one in self.exclude)


def _matches(relative: str, pattern: str) -> bool:
    parts = relative.split("/")
    floating = "/" not in pattern or pattern.startswith("**/")
    pattern = pattern.removeprefix("**/").rstrip("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[start:end]), pattern)
        for end in range(1, len(parts) + 1)
        for start in range(end if floating else 1)
    )


class Finder:
    """Finds the texts in what the user names.

    Args:
        scratch: Where what can be read only once is copied.
        patterns: Which files of folders and archives to read.

    Attributes:
        num_unwanted: Files that the patterns left out.
    """

    def __init__(self, scratch: Scratch, patterns: Patterns | None = None) -> None:
        self._scratch = scratch
        self._patterns = patterns or Patterns()
        self.num_unwanted = 0

    def find(self, text: str) -> Iterator[Found]:
        """Yield the files that a text names, in a fixed order, archives unpacked.

        Args:
            text: `-`; a pipe; a file; a folder, read recursively in order of relative paths, without
                hidden files and folders; or a glob, read in order of paths, in which `**` matches any
                depth. `~` is the home folder.

        Raises:
            DataError: There is no file, or one cannot be read.
        """
        for file in self._files(text):
            for inside, reader in unpacked(
                file.reader,
                self._scratch,
                partial(self._wants, "" if file.named else file.relative),
            ):
                if not inside:
                    yield Found(reader, file.relative, file.named)
                else:
                    relative = inside if file.named else f"{file.relative}/{inside}"
                    yield Found(reader, relative, named=False)

    def _wants(self, folder: str, inside: str) -> bool:
        if any(_ignored(part) for part in inside.split("/")):
            return False
        wanted = self._patterns.want(f"{folder}/{inside}" if folder else inside)
        self.num_unwanted += not wanted
        return wanted

    def _files(self, text: str) -> list[Found]:
        if text == STDIN:
            name = "standard input"
            chunks = iter(lambda: sys.stdin.buffer.read(CHUNK_BYTES), b"")
            return [_named(_renamed(self._scratch.copy(name, chunks), name))]
        path = Path(os.path.expanduser(text))
        try:
            if is_pipe(text):
                with path.open("rb") as pipe:
                    chunks = iter(lambda: pipe.read(CHUNK_BYTES), b"")
                    return [_named(_renamed(self._scratch.copy(text, chunks), text))]
            if path.is_file():
                return [_named(_checked(path))]
            if path.is_dir():
                return self._files_of_folder(text, path)
            if path.exists():
                raise DataError(
                    f"{text} is neither a file nor a folder: pipe it in and name it '-'"
                )
        except OSError as failure:
            raise DataError(explain_os_error(failure, path, "read")) from failure
        if glob.has_magic(text):
            return self._files_of_glob(text, path)
        raise DataError(f"there is no text at {text}: no such file or folder, check the spelling")

    def _files_of_folder(self, text: str, folder: Path) -> list[Found]:
        files = dict(
            sorted((file.relative_to(folder).as_posix(), file) for file in _visible_files(folder))
        )
        if not files:
            raise DataError(
                f"the folder {text} has no files (hidden ones do not count): give another one"
            )
        return self._wanted_files(text, files)

    def _files_of_glob(self, text: str, pattern: Path) -> list[Found]:
        # A set, because `**/**` matches a file several times.
        matches = sorted({Path(m) for m in glob.glob(str(pattern), recursive=True)})
        parts = pattern.parts
        base = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        files = {
            match.relative_to(base).as_posix(): match
            for match in matches
            if match.is_file() and not _IGNORED_FOLDERS.intersection(match.relative_to(base).parts)
        }
        if not files:
            raise DataError(f"the pattern {text} matches no file: quote it, and check the folder")
        return self._wanted_files(text, files)

    def _wanted_files(self, text: str, files: dict[str, Path]) -> list[Found]:
        """Return the files that the patterns choose.

        Args:
            text: What the user named.
            files: By path relative to it, in the order in which they are read.

        Raises:
            DataError: There is none.
        """
        wanted = [relative for relative in files if self._patterns.want(relative)]
        self.num_unwanted += len(files) - len(wanted)
        if not wanted:
            raise DataError(
                f"data.include and data.exclude leave none of the {len(files):,} files in {text}"
            )
        return [Found(_checked(files[relative]), relative, named=False) for relative in wanted]


def is_pipe(text: str) -> bool:
    """Return whether `text` names a pipe, such as the shell's `<(command)`."""
    try:
        return stat.S_ISFIFO(os.stat(text).st_mode)
    except (OSError, ValueError):
        return False


def _named(reader: Reader) -> Found:
    return Found(reader, Path(reader.name).name, named=True)


def _renamed(path: Path, name: str) -> Reader:
    """Return a reader of a copy that messages call by the name of what was copied."""
    return Reader(name, lambda: path.open("rb"), path)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED_FOLDERS


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files that are neither hidden nor in ignored folders, in no particular order.

    Raises:
        OSError: A folder cannot be read; skipping it would silently lose its text.
    """

    def refuse(failure: OSError) -> None:
        raise failure

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _ignored(name)]
        yield from (
            Path(base, name)
            for name in files
            if not name.startswith(".") and Path(base, name).is_file()
        )


def _checked(path: Path) -> Reader:
    """Return a reader of a file after opening it once: missing permissions then fail at the start."""
    try:
        path.open("rb").close()
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "read")) from failure
    return plain_reader(path)
