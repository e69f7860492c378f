"""Known corpora from local copies, and the library that every Python carries."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sharnn.data.corpora import KNOWN_CORPORA, StdlibCorpus, ZipCorpus
from sharnn.data.prepare import prepare
from sharnn.errors import DataError
from sharnn.text import WordTokenizer
from texts import reference_text

PARTS = {"train": b" one two one \n" * 9, "valid": b" two one \n", "test": b" one \n"}


@pytest.fixture
def wikitext(tmp_path: Path) -> Path:
    archive = tmp_path / "wikitext-2-v1.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for split, data in PARTS.items():
            out.writestr(f"wikitext-2/wiki.{split}.tokens", data)
    return archive


def test_wikitext_from_a_zip_and_from_a_folder(wikitext: Path, tmp_path: Path) -> None:
    corpus = prepare(["wikitext-2"], local_source=wikitext)
    assert corpus.own_splits
    assert isinstance(corpus.tokenizer, WordTokenizer)
    for split, data in PARTS.items():
        assert corpus.tokenizer.decode(corpus.split(split).tokens) == data
    zipfile.ZipFile(wikitext).extractall(tmp_path / "unpacked")
    for folder in (tmp_path / "unpacked", tmp_path / "unpacked" / "wikitext-2"):
        assert prepare(["wikitext-2"], local_source=folder).digest == corpus.digest
    as_bytes = prepare(["wikitext-2"], local_source=wikitext, tokenizer="byte")
    assert as_bytes.split("train").num_tokens == len(PARTS["train"])


def test_another_zip_is_told(wikitext: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no wikitext-103/wiki\.train\.tokens"):
        prepare(["wikitext-103"], local_source=wikitext)
    with pytest.raises(DataError, match=r"has no wiki\.train\.raw"):
        prepare(["wikitext-2-raw"], local_source=tmp_path)
    with pytest.raises(DataError, match="there is nothing at"):
        prepare(["wikitext-2"], local_source=tmp_path / "nothing")


def small_enwik(content: bytes) -> ZipCorpus:
    enwik8 = KNOWN_CORPORA["enwik8"]
    assert isinstance(enwik8, ZipCorpus)
    sizes = {"train": 900, "valid": 50, "test": 50}
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(enwik8, sizes=sizes, content_sha256=digest)


@pytest.mark.parametrize("form", ["file", "zip"])
def test_enwik8_is_cut_by_bytes_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    content = reference_text(1000)
    monkeypatch.setitem(KNOWN_CORPORA, "enwik8", small_enwik(content))
    local = tmp_path / "copy"
    if form == "file":
        local.write_bytes(content)
    else:
        with zipfile.ZipFile(local, "w") as out:
            out.writestr("enwik8", content)
    corpus = prepare(["enwik8"], local_source=local)
    assert corpus.own_splits
    assert bytes(corpus.split("all").tokens) == content
    assert [corpus.split(s).num_bytes for s in ("train", "valid", "test")] == [900, 50, 50]
    other = tmp_path / "other"
    other.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match=r"is not enwik8: 1,000 bytes with SHA-256"):
        prepare(["enwik8"], local_source=other)


def test_a_known_name_goes_before_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = reference_text(1000)
    monkeypatch.setitem(KNOWN_CORPORA, "enwik8", small_enwik(content))
    monkeypatch.chdir(tmp_path)
    Path("enwik8").write_bytes(content)
    assert prepare(["enwik8"], local_source=Path("enwik8")).own_splits
    assert not prepare(["./enwik8"]).own_splits


def test_a_zip_with_a_damaged_file_is_told(wikitext: Path) -> None:
    archive = bytearray(wikitext.read_bytes())
    archive[archive.index(PARTS["train"][:20])] ^= 1
    wikitext.write_bytes(archive)
    with pytest.raises(DataError, match=r"wiki\.train\.tokens is damaged or cut \(Bad CRC"):
        prepare(["wikitext-2"], local_source=wikitext)


def test_a_download_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, from a server: zip, digest, splits; a second time without a server."""
    content = reference_text(1000)
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "enwik8.zip", "w") as out:
        out.writestr("enwik8", content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    archive = (site / "enwik8.zip").read_bytes()
    known = dataclasses.replace(
        small_enwik(content),
        url=f"http://127.0.0.1:{server.server_port}/enwik8.zip",
        zip_bytes=len(archive),
        zip_sha256=hashlib.sha256(archive).hexdigest(),
    )
    monkeypatch.setitem(KNOWN_CORPORA, "enwik8", known)
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "cache"))
    first = prepare(["enwik8"])
    server.shutdown()
    server.server_close()
    assert first.manifest["sources"] == [known.url]
    assert first.manifest["licence"] == "CC BY-SA"
    assert prepare(["enwik8"]).digest == first.digest


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_enwik8_is_what_the_world_knows() -> None:
    enwik8 = KNOWN_CORPORA["enwik8"]
    assert isinstance(enwik8, ZipCorpus)
    assert sum(enwik8.sizes.values()) == 100_000_000
    assert enwik8.sizes["train"] == 90_000_000


def test_the_standard_library() -> None:
    corpus = prepare(["python-stdlib"])
    assert corpus.own_splits
    sizes = {name: corpus.split(name).num_bytes for name in ("train", "valid", "test")}
    assert sizes["train"] > 5_000_000
    assert corpus.manifest["sources"] == [f"standard library of Python {platform.python_version()}"]
    assert corpus.manifest["licence"] == "PSF License"
    assert 50_000 < sizes["test"] < 1_500_000
    assert 50_000 < sizes["valid"] < 1_500_000
    assert prepare(["python-stdlib"]).digest == corpus.digest
    readers = StdlibCorpus().locate(None, Path(), None).readers
    names = [reader.name for split in readers.values() for reader in split]
    assert len(names) == len(set(names))
    assert any(name.endswith("topics.py") for name in names)


def test_a_library_without_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no library source"):
        StdlibCorpus().locate(tmp_path, tmp_path, None)


def test_digests_stay_what_they_were(
    wikitext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared corpora, and runs that recorded the digest of theirs, depend on them."""
    content = bytes(index % 251 for index in range(1000))
    monkeypatch.setitem(KNOWN_CORPORA, "enwik8", small_enwik(content))
    (tmp_path / "enwik8").write_bytes(content)
    library = tmp_path / "library"
    library.mkdir()
    for index in range(60):
        (library / f"m{index}.py").write_bytes(b"x = %d" % index)
    (library / "n.py").write_bytes(b"x = 1")  # equal files and missing line ends stay as they are
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(f"{name} line\n".encode() * 100)
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    digests = [
        prepare(["wikitext-2"], local_source=wikitext).digest,
        prepare(["wikitext-2"], local_source=wikitext, tokenizer="byte").digest,
        prepare(["enwik8"], local_source=tmp_path / "enwik8").digest,
        prepare(["python-stdlib"], local_source=library).digest,
        prepare([one]).digest,
        prepare([one, two]).digest,
    ]
    assert digests == [
        "c3de50dd81c33d49cd8b7c5ca3bf62fdf6a07463d300389f7e4bcb10c3e0b3f6",
        "d251100198566d59994444e2b9b8be5ebefa384a5d60a120a5a9af3f4c776676",
        "c07a7cc2f2de3f8f9dc3799a52ce63e73c8f220f66861faa5a7f35d910287315",
        "bbab306c213a23f3a70da577a9044fccbb5d849d1ac5923116120d6712b03587",
        "e333d0c87abc4018e6908f2ef41ff1d62a722b41830e5b963da67866b92bc585",
        "5af6899b61ba70149e8d8e11c554cf2aa72dd78424c9e40e26212d2b6feb82fe",
    ]
