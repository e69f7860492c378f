"""Atomic writing of files and folders, JSON, digests and locks.

Everything that sharnn writes goes first to a hidden sibling (`.NAME.PID.partial`), is flushed to the disk
and then renamed. So a reader sees either the old or the new content, also after a writer was killed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from sharnn.errors import SharnnError

_PARTIAL_SUFFIX = ".partial"


def cache_folder() -> Path:
    """Return the cache folder: `$SHARNN_CACHE`, or the platform's default."""
    return Path(os.environ.get("SHARNN_CACHE") or platformdirs.user_cache_dir("sharnn"))


def explain_os_error(error: OSError, path: Path, doing: str) -> str:
    """Return one sentence that says what failed for `path` and what the user can do about it.

    Args:
        error: The error.
        path: The file or folder.
        doing: What failed, as an infinitive: `read`, `write`, …
    """
    advice = {
        errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
        errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
        errno.EROFS: "the file system is read-only: choose a folder on another one",
        errno.EACCES: "permission denied: check the owner and mode of the file and its folder",
        errno.EPERM: "operation not permitted: check the owner and mode of the file",
        errno.ENOENT: "no such file or folder: check the spelling",
        errno.EEXIST: "a file is in the way: move it, or give another path",
        errno.EISDIR: "it is a folder, a file was expected: give the path of a file",
        errno.ENAMETOOLONG: "the name is too long: give a shorter one",
        errno.ENOTDIR: "a part of the path is a file, a folder was expected: check the path",
    }
    reason = advice.get(error.errno or 0, error.strerror or str(error))
    return f"cannot {doing} {path}: {reason}"


def _partial_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL_SUFFIX}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, on systems that support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, error: type[SharnnError] = SharnnError) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only if the block succeeds.

    Args:
        path: The final name; its folder is created if missing.
        error: The exception class for a disk that is full, read-only or otherwise fails.

    Raises:
        SharnnError: (as `error`) the file could not be written; what was at `path` is unchanged.
    """
    partial = _partial_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as failure:
        raise error(explain_os_error(failure, path, "write")) from failure
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, error: type[SharnnError] = SharnnError) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `path` only if the block succeeds.

    A folder already at `path` is replaced. Files written in the block are flushed before the rename.

    Raises:
        SharnnError: (as `error`) the folder could not be written; what was at `path` is unchanged.
    """
    partial = _partial_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(partial)
        _replace_folder(partial, path)
        sync_folder(path.parent)
    except OSError as failure:
        raise error(explain_os_error(failure, path, "write")) from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; a folder in the way is renamed and then removed.

    The loop handles another process that creates `path` in between.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.replaced{_PARTIAL_SUFFIX}")
    while True:
        try:
            os.replace(new, path)
            return
        except OSError as failure:
            if failure.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)


def remove_partials(folder: Path) -> None:
    """Remove the partial files and folders that killed writers left in `folder`."""
    for leftover in folder.glob(f".*{_PARTIAL_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any, error: type[SharnnError] = SharnnError) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path, error) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, error: type[SharnnError] = SharnnError) -> Any:
    """Return the JSON value in `path`.

    Raises:
        SharnnError: (as `error`) the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise error(explain_os_error(failure, path, "read")) from failure
    except ValueError as failure:
        raise error(
            f"{path} is not valid JSON ({failure}): it was truncated or altered, restore it"
        ) from failure


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def held_lock(path: Path, taken: str, error: type[SharnnError] = SharnnError) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs; the lock ends with the process.

    On a system or file system without such locks the block runs without one.

    Args:
        path: The file; it is created if missing, and never removed.
        taken: The error message if another process holds the lock.
        error: The exception class.

    Raises:
        SharnnError: (as `error`) another process holds the lock, or the file cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as failure:
        raise error(explain_os_error(failure, path, "write")) from failure
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as failure:
                raise error(taken) from failure
            except OSError:  # a file system without locks
                pass
        yield


def link_atomically(link: Path, target_name: str) -> None:
    """Let the symbolic link `link` point to its sibling `target_name`; an existing link is replaced."""
    partial = _partial_sibling(link)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target_name)
    os.replace(partial, link)
