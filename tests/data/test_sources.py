"""What the user names becomes one stream of bytes, the same every time, or an error that tells."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sharnn.data.sources import Finder, Found, Patterns
from sharnn.data.unpack import CHUNK_BYTES, Scratch, file_reader
from sharnn.errors import DataError
from texts import reference_text


def find(text: str | Path, patterns: Patterns | None = None) -> list[Found]:
    with tempfile.TemporaryDirectory() as folder, Scratch(Path(folder) / "scratch") as scratch:
        return list(Finder(scratch, patterns).find(str(text)))


def content(text: str | Path) -> bytes:
    return b"".join(b"".join(file.reader.chunks()) for file in find(text))


def zstd_frames(data: bytes) -> bytes:
    """Two frames: what `cat a.zst b.zst` makes."""
    half = len(data) // 2
    return b"".join(zstandard.compress(part) for part in (data[:half], data[half:]))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "b.txt": b"3",
        "a/z.txt": b"2",
        "a/b/y.txt": b"1",
        "c.md": b"4",
        ".hidden": b"no",
        ".git/config.txt": b"no",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_paths(tree: Path) -> None:
    assert content(tree) == b"1234"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.txt", b"3"), ("**/*.txt", b"123"), ("**/**/*.txt", b"123"), ("a/*/?.txt", b"1")],
)
def test_globs(tree: Path, pattern: str, expected: bytes) -> None:
    assert content(tree / pattern) == expected


def test_a_name_with_the_signs_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    (tmp_path / "[1].txt").write_bytes(b"yes")
    assert content(tmp_path / "[1].txt") == b"yes"


def test_the_home_folder_in_quotes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert content("~/a/*.txt") == b"2"


COMPRESSIONS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gz", gzip.compress),
    ("bz2", bz2.compress),
    ("xz", lzma.compress),
    ("zst", zstandard.compress),
    ("ZST", zstd_frames),
]


@pytest.mark.parametrize(("ending", "compress"), COMPRESSIONS)
def test_compressed_texts(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    data, path = reference_text(600_000) * 3, tmp_path / f"text.{ending}"
    compressed = compress(data)
    path.write_bytes(compressed)
    assert content(path) == data
    for damaged in (compressed[:-1], compressed[:-400], compressed[: len(compressed) // 2], b"no"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"text\.{ending} is damaged or cut"):
            content(path)


def test_what_unpacks_to_far_more_is_read_in_small_pieces(tmp_path: Path) -> None:
    """A real process that may have 400 MB of memory reads a gigabyte of zeros from 32 KB."""
    path, packer = tmp_path / "zeros.zst", zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as file:
        for _ in range(1000):
            file.write(packer.compress(bytes(CHUNK_BYTES)))
        file.write(packer.flush())
    assert path.stat().st_size < 50_000
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from sharnn.data.unpack import file_reader\n"
        "print(sum(len(chunk) for chunk in file_reader(Path(sys.argv[1])).chunks()))\n"
    )
    limit = 400 << 20
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert int(result.stdout) == 1000 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.txt", r"there is no text at .*nothing\.txt"),
        ("*.nothing", r"the pattern .*\*\.nothing matches no file"),
        ("folder", r"the folder .*folder has no files"),
        ("a" * 300, r"cannot read a+: "),
        ("", r"there is no text at|has no files"),
    ],
)
def test_bad_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").touch()
    with pytest.raises(DataError, match=message):
        find(text)


def test_what_is_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(DataError, match="neither a file nor a folder"):
            find("socket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("text", ["a/z.txt", "a", ".", "a/b/y.txt"])
def test_what_may_not_be_read_is_told(tree: Path, text: str) -> None:
    (tree / "a" / "z.txt").chmod(0)
    (tree / "a" / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="permission denied"):
            find(str(tree / text))
    finally:
        (tree / "a" / "b").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_told_not_left_out(tree: Path) -> None:
    """Root may list everything but what is gone: the folder vanishes while it is walked."""
    import shutil

    real_scandir = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("/a/b"):
            shutil.rmtree(path)
        return real_scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(DataError, match=r"cannot read .*no such file"):
            find(str(tree))


def test_a_file_that_goes_away_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"here")
    reader = file_reader(path)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*text: no such file"):
        list(reader.chunks())
