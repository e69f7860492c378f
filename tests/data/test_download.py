"""Downloads over a real connection that breaks, lies and forgets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    garbage = 0
    requests: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        cls, start = type(self), 0
        wanted = self.headers.get("Range")
        cls.requests.append(wanted)
        if cls.garbage:
            cls.garbage -= 1
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if wanted and cls.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(cls.served):
            self.send_error(416)
            return
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
    Handler.garbage = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
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


def test_more_than_there_can_be_is_fetched_anew(url: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.download").write_bytes(CONTENT + b"more")
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_what_was_received_is_kept_for_the_next_attempt(url: str, tmp_path: Path) -> None:
    Handler.cut_at = len(CONTENT) // 20
    with pytest.raises(DataError, match="the download resumes"):
        fetch(url, tmp_path / "corpus.zip")
    assert not (tmp_path / "corpus.zip").exists()
    assert (tmp_path / "corpus.zip.download").stat().st_size == 5 * Handler.cut_at
    Handler.cut_at = None
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(url: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.download").write_bytes(CONTENT[:1000])
    Handler.ranges = False
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_a_connection_that_speaks_no_http_is_tried_again(url: str, tmp_path: Path) -> None:
    Handler.garbage = 2
    assert fetch(url, tmp_path / "corpus.zip").read_bytes() == CONTENT
    Handler.garbage = 99
    with pytest.raises(DataError, match=r"BadStatusLine.*local_source"):
        fetch(url, tmp_path / "other.zip")


def test_a_missing_file_is_told(tmp_path: Path, url: str) -> None:
    Handler.served = b""
    with pytest.raises(DataError, match=r"HTTP status 416"):
        fetch(url, tmp_path / "corpus.zip")


def test_two_at_once_fetch_once(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: fetch(url, tmp_path / "corpus.zip"), range(3)))
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.zip"]
    assert len(Handler.requests) == 1


def remains(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"corpus.zip.lock"}


def test_wrong_content_is_refused_and_removed(url: str, tmp_path: Path) -> None:
    Handler.served = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"SHA-256 .*, expected"):
        fetch(url, tmp_path / "corpus.zip")
    assert remains(tmp_path) == set()


def test_a_file_of_another_size_is_refused_before_it_is_read(url: str, tmp_path: Path) -> None:
    Handler.served = b"<html>please log in</html>"
    with pytest.raises(DataError, match=r"offers 26 bytes, 768,000 were expected.*local_source"):
        fetch(url, tmp_path / "corpus.zip")
    assert remains(tmp_path) == set()


def test_a_file_that_shrank_on_the_server_is_told(url: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.zip.download").write_bytes(CONTENT[:1000])
    Handler.served = CONTENT[:500]
    with pytest.raises(DataError, match=r"offers 500 bytes"):
        fetch(url, tmp_path / "corpus.zip")
    assert remains(tmp_path) == set()


def test_no_server_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"check the network.*local_source"):
        fetch("http://127.0.0.1:9/corpus.zip", tmp_path / "corpus.zip")
