"""Texts of every kind become corpora: counted, split, kept by content."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sharnn.data.corpus import Corpus
from sharnn.data.counting import TextCounter
from sharnn.data.prepare import prepare
from sharnn.data.sources import CHUNK_BYTES
from sharnn.errors import ConfigError, DataError
from sharnn.text import WordTokenizer
from texts import reference_text, write_text


def content(corpus: Corpus, split: str = "all") -> bytes:
    return corpus.tokenizer.decode(corpus.split(split).tokens)


@pytest.mark.parametrize("num_bytes", [1, 2, 19, 20, 999, CHUNK_BYTES + 5])
def test_a_text_is_cut_by_position(tmp_path: Path, num_bytes: int) -> None:
    data = (reference_text(50_000) * (num_bytes // 50_000 + 1))[:num_bytes]
    path = tmp_path / "text"
    path.write_bytes(data)
    corpus = prepare([str(path)])
    ends = [int(num_bytes * 0.9), int(num_bytes * 0.95), num_bytes]
    parts = [data[: ends[0]], data[ends[0] : ends[1]], data[ends[1] :]]
    assert [content(corpus, s) for s in ("train", "valid", "test")] == parts
    assert content(corpus) == data
    assert not corpus.own_splits
    for split, part in zip(("train", "valid", "test"), parts, strict=True):
        counts = corpus.split(split)
        assert counts.num_bytes == counts.num_tokens == len(part)
        assert counts.num_words == len(part.split())
    assert corpus.split("all").num_words == len(data.split())
    assert corpus.split("all").num_chars == len(data.decode(errors="ignore"))
    corpus.verify()


@given(st.lists(st.binary(max_size=12), max_size=6))
def test_counting_in_chunks_is_counting(chunks: list[bytes]) -> None:
    counter, data = TextCounter(), b"".join(chunks)
    for chunk in chunks:
        counter.add(chunk)
    assert counter.num_bytes == len(data)
    assert counter.num_words == len(data.split())


@given(st.text())
def test_characters_are_counted(text: str) -> None:
    counter = TextCounter()
    counter.add(text.encode())
    assert counter.num_chars == len(text)


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    for name, data in {
        "b.txt": b"second ",
        "a/c.txt": b"first ",
        ".hidden": b"no",
        "d.md": b"third",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert content(prepare([str(tmp_path)])) == b"first second third"
    assert content(prepare([str(tmp_path / "**" / "*.txt")])) == b"first second "
    assert content(prepare([str(tmp_path / "d.md"), str(tmp_path / "b.txt")])) == b"thirdsecond "


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress),
     ("zst", zstandard.ZstdCompressor().compress)],
)  # fmt: skip
def test_compressed_texts(tmp_path: Path, ending: str, compress: object) -> None:
    data, path = reference_text(30_000), tmp_path / f"text.{ending}"
    path.write_bytes(compress(data))
    assert content(prepare([str(path)])) == data
    path.write_bytes(compress(data)[:-400])
    with pytest.raises(DataError, match="damaged or cut"):
        prepare([str(path)])


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(b"piped text")

    monkeypatch.setattr("sys.stdin", Pipe)
    corpus = prepare(["-"])
    assert content(corpus) == b"piped text"
    assert Corpus.find(corpus.digest) is not None


def test_the_cache_goes_by_content(tmp_path: Path) -> None:
    one, two = write_text(tmp_path, 500, "one"), write_text(tmp_path, 500, "two")
    first = prepare([str(one)])
    stamp = (first.folder / "tokens.bin").stat().st_mtime_ns
    again = prepare([str(two)])
    assert again.digest == first.digest
    assert (again.folder / "tokens.bin").stat().st_mtime_ns == stamp
    two.write_bytes(one.read_bytes() + b"!")
    assert prepare([str(two)]).digest != first.digest


def test_words_are_split_by_line(tmp_path: Path) -> None:
    path = tmp_path / "wiki"
    path.write_bytes(b" the cat \n \n the dog sat \n" * 40)
    corpus = prepare([str(path)], tokenizer="word")
    assert isinstance(corpus.tokenizer, WordTokenizer)
    assert content(corpus) == path.read_bytes()
    assert content(corpus, "train").endswith(b"\n")
    assert corpus.split("all").num_tokens == 40 * 8
    corpus.verify()
    given = prepare([str(path)], tokenizer=corpus.tokenizer)
    assert np.array_equal(given.split("all").tokens, corpus.split("all").tokens)


def test_binary_data_is_a_text_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(bytes(range(256)) * 4)
    assert content(prepare([str(path)])) == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.txt", r"there is no text at .*nothing\.txt"),
        ("*.nothing", "matches no file"),
        ("empty", "is empty"),
        ("folder", "holds no files"),
        ("python-stdlb", r"did you mean 'python-stdlib'"),
    ],
)
def test_bad_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message):
        prepare([text])


def test_bad_calls(tmp_path: Path) -> None:
    path = str(write_text(tmp_path, 100))
    with pytest.raises(ConfigError, match="no text was given"):
        prepare([])
    with pytest.raises(ConfigError, match="cannot be joined"):
        prepare(["python-stdlib", path])
    with pytest.raises(ConfigError, match="--from is for known corpora"):
        prepare([path], local_source=tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer 'wrd'"):
        prepare([path], tokenizer="wrd")
    with pytest.raises(ConfigError, match="no split 'tset'"):
        prepare([path]).split("tset")


def test_a_damaged_cache_is_prepared_again_and_told_when_opened(tmp_path: Path) -> None:
    path = write_text(tmp_path, 800)
    corpus = prepare([str(path)])
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    for damage in ("{", "{}", json.dumps({**manifest, "format": 99}), json.dumps({"format": 1})):
        (corpus.folder / "manifest.json").write_text(damage)
        with pytest.raises(DataError, match=r"manifest\.json"):
            Corpus.open(corpus.folder)
        assert content(prepare([str(path)])) == path.read_bytes()
    (corpus.folder / "tokens.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"tokens\.bin has 5 bytes"):
        Corpus.open(corpus.folder)
    corpus = prepare([str(path)])
    tokens = bytearray((corpus.folder / "tokens.bin").read_bytes())
    tokens[100] ^= 1
    (corpus.folder / "tokens.bin").write_bytes(tokens)
    with pytest.raises(DataError, match="was altered"):
        Corpus.open(corpus.folder).verify()


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    """A real process that may write no file larger than 64 KiB, as on a disk that fills up."""
    text = write_text(tmp_path, 300_000)
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from sharnn.cli.main import main\n"
        f"sys.exit(main(['data', 'prepare', {str(text)!r}]))"
    )
    cache = tmp_path / "cache"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"SHARNN_CACHE": str(cache), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "sharnn: error: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_read_only_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write .*file"):
        prepare([str(write_text(tmp_path, 100))])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Twenty times the text may not take much more memory (the benchmark does it with 2 GB)."""
    program = (
        "import re, sys\nfrom sharnn.data.prepare import prepare\nprepare([sys.argv[1]])\n"
        "assert 'torch' not in sys.modules\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    peaks = []
    for size in (1, 64):
        path = tmp_path / f"text{size}"
        path.write_bytes(reference_text(100_000)[: 1 << 16] * (16 * size))
        result = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={"SHARNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 16 * 1024  # KiB, for 63 MiB more of text
