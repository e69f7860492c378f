"""Files that appear whole or not at all.

Everything sharnn writes goes first to a hidden sibling (`.NAME.PID.partial`), is flushed to the disk
and then renamed, so that a reader, or a run that was killed, sees the old content or the new one and
never half of it.
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
    """Return the folder of caches: `$SHARNN_CACHE`, else the platform's."""
    return Path(os.environ.get("SHARNN_CACHE") or platformdirs.user_cache_dir("sharnn"))


def explain_os_error(error: OSError, path: Path, doing: str) -> str:
    """Return one sentence that says what failed on `path` and what the user can do about it."""
    advice = {
        errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
        errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
        errno.EROFS: "the file system is read-only: choose a folder that can be written",
        errno.EACCES: "permission denied: check the owner and mode of the file and its folder",
        errno.EPERM: "operation not permitted: check the owner and mode of the file",
        errno.ENOENT: "no such file or folder: check the spelling",
        errno.EEXIST: "a file is in the way: move it, or give another path",
        errno.EISDIR: "it is a folder, a file was expected",
        errno.ENOTDIR: "a part of the path is a file, a folder was expected",
    }
    reason = advice.get(error.errno or 0, error.strerror or str(error))
    return f"cannot {doing} {path}: {reason}"


def _partial_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL_SUFFIX}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, error: type[SharnnError] = SharnnError) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only when the block ends well.

    Args:
        path: The final name; its folder is made when missing.
        error: The class raised when the disk is full, read-only or otherwise refuses.

    Raises:
        SharnnError: (as `error`) the file could not be written; what was there before is untouched.
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
    """Yield an empty folder that takes the name `path` only when the block ends well.

    A folder already at `path` is replaced. Files written in the block are flushed before the rename.

    Raises:
        SharnnError: (as `error`) the folder could not be written; what was there before is untouched.
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
    """Rename `new` to `path`; a folder that is there, or gets there first, steps aside and then goes."""
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
    """Remove what writers that were killed have left in `folder`."""
    for leftover in folder.glob(f".*{_PARTIAL_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any, error: type[SharnnError] = SharnnError) -> None:
    """Write `value` as indented JSON, whole or not at all."""
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
            f"{path} is not valid JSON ({failure}): it is truncated or was altered"
        ) from failure


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def held_lock(path: Path, taken: str, error: type[SharnnError] = SharnnError) -> Iterator[None]:
    """Hold the lock of a file, which a process that dies lets go of, while the block runs.

    Where a system or file system has no such locks nothing is held.

    Args:
        path: The file; it is made when missing, and stays.
        taken: What is said when another process holds it.
        error: The class raised.

    Raises:
        SharnnError: (as `error`) another process holds it, or it cannot be written.
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
    """Point the symbolic link `link` at its sibling path `target_name`, replacing what it was."""
    partial = _partial_sibling(link)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target_name)
    os.replace(partial, link)
