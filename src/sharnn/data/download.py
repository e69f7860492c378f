"""Downloads that go on where they broke off, and are believed only by their checksum."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from sharnn.errors import DataError
from sharnn.files import explain_os_error, sha256_of_file

#: Called with what is done, bytes so far, and all bytes where known.
Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 5


def download(
    url: str, path: Path, num_bytes: int, sha256: str, progress: Progress | None = None
) -> Path:
    """Fetch `url` to `path` unless it is there; go on with what an earlier attempt has left.

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
        _fetch_with_retries(url, partial, num_bytes, progress)
        found = sha256_of_file(partial)
        if found != sha256:
            partial.unlink()
            raise DataError(
                f"{url} sent something else than expected (SHA-256 {found}, expected {sha256}); it "
                "was removed: try again later, or give a local copy with --from"
            )
        os.replace(partial, path)
    except urllib.error.URLError as failure:
        raise DataError(
            f"cannot download {url} ({failure.reason}): check the network and try again, it goes on "
            "where it broke off; or fetch it elsewhere and give the file with --from"
        ) from failure
    except OSError as failure:
        raise DataError(explain_os_error(failure, path, "download to")) from failure
    return path


def _fetch_with_retries(url: str, partial: Path, num_bytes: int, progress: Progress | None) -> None:
    """Fetch until all bytes are there; an attempt that brought nothing new is the last."""
    for attempt in range(_ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        if have >= num_bytes:
            return
        try:
            _fetch(url, partial, have, num_bytes, progress)
        except (ConnectionError, TimeoutError) as failure:
            if attempt == _ATTEMPTS - 1:
                raise urllib.error.URLError(str(failure)) from failure
    have = partial.stat().st_size if partial.exists() else 0
    if have < num_bytes:
        raise urllib.error.URLError(f"the connection broke off at {have:,} of {num_bytes:,} bytes")


def _fetch(url: str, partial: Path, have: int, num_bytes: int, progress: Progress | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "sharnn"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        # A server that does not know ranges sends everything from the start, with status 200.
        have = have if response.status == 206 else 0
        with partial.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(f"downloading {url}", have, num_bytes)
                if have > num_bytes:
                    break  # not the file that was expected; its digest will say so
