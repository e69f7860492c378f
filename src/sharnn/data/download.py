"""Downloads that go on where they broke off, and are believed only by their checksum."""

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
except ImportError:  # not on Windows; there two downloads at once are told by the checksum
    fcntl = None  # type: ignore[assignment]

#: Called with what is done, bytes so far, and all bytes where known.
Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 5


class _BrokenOff(Exception):
    """The connection ended before the file did; what was received stands."""


def download(
    url: str, path: Path, num_bytes: int, sha256: str, progress: Progress | None = None
) -> Path:
    """Fetch `url` to `path` unless it is there; go on with what an earlier attempt has left.

    The bytes that an attempt left need no ETag to be trusted: the file as a whole must have the
    expected digest, else it is removed and the next attempt begins anew.

    Args:
        url: Where from.
        path: Where to; until it is whole and right the bytes lie in `path` + `.download`.
        num_bytes: Expected size.
        sha256: Expected digest.
        progress: Told after every chunk.

    Raises:
        DataError: The server cannot be reached, or sends something else. What was received is kept
            for the next attempt, unless it is wrong.
    """
    if path.is_file():
        return path
    partial = path.with_name(path.name + ".download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if path.is_file():  # another process has fetched it while this one waited
                return path
            _fetch_with_retries(url, partial, num_bytes, progress)
            _check_digest(url, partial, num_bytes, sha256)
            os.replace(partial, path)
    except (urllib.error.URLError, _BrokenOff) as failure:
        reason = failure.reason if isinstance(failure, urllib.error.URLError) else failure
        if isinstance(failure, urllib.error.HTTPError):
            reason = f"HTTP status {failure.code}, {failure.reason}"
        raise DataError(
            f"cannot download {url} ({reason}): check the network and try again, it goes on where it "
            "broke off; or fetch it elsewhere and give the file with --from"
        ) from failure
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "download to")) from failure
    return path


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time append to the partial file; the others wait."""
    lock = path.with_name(path.name + ".lock")
    with lock.open("wb") as file:
        if fcntl is not None:
            with contextlib.suppress(
                OSError
            ):  # a file system without locks: the checksum will tell
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
    # Only now, when the file is there for all who wait: a lock that is removed before locks nothing.
    lock.unlink(missing_ok=True)


def _fetch_with_retries(url: str, partial: Path, num_bytes: int, progress: Progress | None) -> None:
    """Fetch until all bytes are there, a few connections long."""
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
    """Fetch in one connection what is missing from `have` on.

    Raises:
        _BrokenOff: Not all bytes came.
        DataError: The server has a file of another size; nothing of it is kept.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "sharnn"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            # A server that does not know ranges sends everything from the start, with status 200.
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
            partial.unlink()  # the server's file ends before ours: begin anew
            raise _BrokenOff(f"HTTP status {failure.code}, {failure.reason}") from failure
        raise
    except (ConnectionError, TimeoutError, http.client.HTTPException) as failure:
        raise _BrokenOff(f"{type(failure).__name__} {failure}".rstrip()) from failure
    if have < num_bytes:
        raise _BrokenOff(f"the connection broke off at {have:,} of {num_bytes:,} bytes")


def _check_size(url: str, have: int, length: str | None, num_bytes: int) -> None:
    """Refuse a wrong file, such as a network's login page, before a byte of it is kept."""
    if length is not None and length.isdigit() and have + int(length) != num_bytes:
        raise DataError(
            f"{url} offers {have + int(length):,} bytes, {num_bytes:,} were expected: the file changed, "
            "or the network put a page of its own in between; give a local copy with --from"
        )


def _check_digest(url: str, partial: Path, num_bytes: int, sha256: str) -> None:
    found_bytes, found = partial.stat().st_size, sha256_of_file(partial)
    if found_bytes == num_bytes and found == sha256:
        return
    partial.unlink()
    raise DataError(
        f"{url} sent something else than expected ({found_bytes:,} bytes with SHA-256 {found}, expected "
        f"{num_bytes:,} with {sha256}); it was removed: try again later, or give a local copy with --from"
    )
