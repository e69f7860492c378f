"""Downloads over a real connection that breaks, lies and forgets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from sharnn.data.download import download
from sharnn.errors import DataError

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    ranges = True
    cut_at: int | None = None
    served = CONTENT
    requests: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        cls, start = type(self), 0
        wanted = self.headers.get("Range")
        cls.requests.append(wanted)
        if wanted and cls.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(cls.served) - start))
        self.end_headers()
        stop = len(cls.served) if cls.cut_at is None else min(start + cls.cut_at, len(cls.served))
        self.wfile.write(cls.served[start:stop])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.ranges, Handler.cut_at, Handler.served, Handler.requests = True, None, CONTENT, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/corpus.zip"
    server.shutdown()
    server.server_close()


def fetch(url: str, path: Path, sha256: str = SHA256) -> Path:
    return download(url, path, len(CONTENT), sha256)


def test_a_download_reports_and_arrives(url: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "deep" / "corpus.zip"
    download(url, path, len(CONTENT), SHA256, lambda what, done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    fetch(url, path)
    assert len(Handler.requests) == 1  # what is there is not fetched again


def test_a_broken_connection_is_taken_up(url: str, tmp_path: Path) -> None:
    Handler.cut_at = len(CONTENT) // 3 + 1
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT
    assert Handler.requests == [None, f"bytes={Handler.cut_at}-", f"bytes={2 * Handler.cut_at}-"]


def test_what_was_received_is_kept_for_the_next_attempt(url: str, tmp_path: Path) -> None:
    Handler.cut_at = len(CONTENT) // 20
    with pytest.raises(DataError, match="goes on where it broke off"):
        fetch(url, tmp_path / "corpus.zip")
    assert not (tmp_path / "corpus.zip").exists()
    assert (tmp_path / "corpus.zip.download").stat().st_size == 5 * Handler.cut_at
    Handler.cut_at = None
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(url: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.download").write_bytes(CONTENT[:1000])
    Handler.ranges = False
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_removed(url: str, tmp_path: Path) -> None:
    Handler.served = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"SHA-256 .*, expected"):
        fetch(url, tmp_path / "corpus.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_server_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"check the network.*--from"):
        fetch("http://127.0.0.1:9/corpus.zip", tmp_path / "corpus.zip")
