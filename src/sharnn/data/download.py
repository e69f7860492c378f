"""Downloads that resume after an interruption and are verified by checksum."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from sharnn.errors import DataError
from sharnn.files import explain_os_error, sha256_of_file

try:
    import fcntl
except ImportError:  # not on Windows; there the checksum detects two downloads at once
    fcntl = None  # type: ignore[assignment]

#: Called with the name of the task, the bytes done, and the total number of bytes if known.
Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 5


class _BrokenOff(Exception):
    """The connection ended before the file was complete; the bytes received are kept."""


def download(
    url: str, path: Path, num_bytes: int, sha256: str, progress: Progress | None = None
) -> Path:
    """Download `url` to `path` unless it exists; resume an earlier attempt.

    Resuming needs no ETag: the digest of the whole file is checked, and a wrong file is removed, so that
    the next attempt starts from the beginning.

    Args:
        url: Source.
        path: Destination. Until the file is complete and verified its bytes are in `path` + `.download`.
        num_bytes: Expected size.
        sha256: Expected digest.
        progress: Called after every chunk.

    Raises:
        DataError: The server cannot be reached, or sends another file. The bytes received are kept for
            the next attempt, unless they are wrong.
    """
    if path.is_file():
        return path
    partial = path.with_name(path.name + ".download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if path.is_file():  # another process downloaded it while this one waited
                return path
            _fetch_with_retries(url, partial, num_bytes, progress)
            _check_digest(url, partial, num_bytes, sha256)
            os.replace(partial, path)
    except (urllib.error.URLError, _BrokenOff) as failure:
        reason = failure.reason if isinstance(failure, urllib.error.URLError) else failure
        if isinstance(failure, urllib.error.HTTPError):
            reason = f"HTTP status {failure.code}, {failure.reason}"
        raise DataError(
            f"cannot download {url} ({reason}): check the network and try again, the download resumes; "
            "or download it elsewhere and give it as a local copy (local_source)"
        ) from failure
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "download to")) from failure
    return path


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time append to the partial file while the others wait."""
    lock = path.with_name(path.name + ".lock")
    with lock.open("wb") as file:
        if fcntl is not None:
            with contextlib.suppress(
                OSError
            ):  # a file system without locks: the checksum detects damage
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
    # Only now, when waiting processes will find the file: a lock file removed earlier locks nothing.
    lock.unlink(missing_ok=True)


def _fetch_with_retries(url: str, partial: Path, num_bytes: int, progress: Progress | None) -> None:
    """Fetch until all bytes are there, with a limited number of connections."""
    for attempt in range(_ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        if have == num_bytes:
            return
        try:
            _fetch(url, partial, have if have < num_bytes else 0, num_bytes, progress)
            return
        except _BrokenOff:
            if attempt == _ATTEMPTS - 1:
                raise


def _fetch(url: str, partial: Path, have: int, num_bytes: int, progress: Progress | None) -> None:
    """Fetch the bytes from offset `have` on, in one connection.

    Raises:
        _BrokenOff: Not all bytes arrived.
        DataError: The server's file has another size; nothing of it is kept.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "sharnn"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            # A server that does not support ranges sends the whole file, with status 200.
            have = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            _check_size(url, have, response.headers.get("Content-Length"), num_bytes)
            with partial.open("ab" if have else "wb") as file:
                while have < num_bytes and (chunk := response.read(_CHUNK_BYTES)):
                    file.write(chunk)
                    have += len(chunk)
                    if progress is not None:
                        progress(f"downloading {url}", have, num_bytes)
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as failure:
        if failure.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            partial.unlink()  # the server's file is shorter than ours: start again
            raise _BrokenOff(f"HTTP status {failure.code}, {failure.reason}") from failure
        raise
    except (ConnectionError, TimeoutError, http.client.HTTPException) as failure:
        raise _BrokenOff(f"{type(failure).__name__} {failure}".rstrip()) from failure
    if have < num_bytes:
        raise _BrokenOff(f"the connection broke off at {have:,} of {num_bytes:,} bytes")


def _check_size(url: str, have: int, length: str | None, num_bytes: int) -> None:
    """Refuse a file of the wrong size, such as a network's login page, before keeping a byte of it."""
    if length is not None and length.isdigit() and have + int(length) != num_bytes:
        raise DataError(
            f"{url} offers {have + int(length):,} bytes, {num_bytes:,} were expected: the file changed, "
            "or the network answered with a page of its own; give a local copy (local_source)"
        )


def _check_digest(url: str, partial: Path, num_bytes: int, sha256: str) -> None:
    found_bytes, found = partial.stat().st_size, sha256_of_file(partial)
    if found_bytes == num_bytes and found == sha256:
        return
    partial.unlink()
    raise DataError(
        f"{url} sent another file ({found_bytes:,} bytes with SHA-256 {found}, expected {num_bytes:,} "
        f"with {sha256}), which was removed: try again later, or give a local copy (local_source)"
    )
