"""Compressed files and archives are unpacked by their first bytes, whatever they are called."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from archives import COMPRESS, tar_of, zip_of
from sharnn.data.unpack import ChunkStream, Reader, Scratch, file_reader, plain_reader, unpacked
from sharnn.errors import DataError
from texts import reference_text

MEMBERS = {
    "b.txt": b"second\n",
    "a/z.txt": b"first\n",
    "c.txt": b"third",
    "big.txt": reference_text(90_000) * 30,
}


def texts_in(
    path: Path, wants: Callable[[str], bool] = lambda name: True
) -> list[tuple[str, bytes]]:
    scratch = path.parent / "scratch"
    with Scratch(scratch) as place:
        found = [
            (inside, b"".join(reader.chunks()))
            for inside, reader in unpacked(plain_reader(path), place, wants)
        ]
    assert not scratch.exists()
    return found


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", [tar_of, zip_of])
def test_archives_are_read_member_by_member(
    tmp_path: Path, kind: Callable[[dict[str, bytes]], bytes], compression: str
) -> None:
    path = tmp_path / "no suffix that tells"
    path.write_bytes(COMPRESS[compression](kind(MEMBERS)))
    assert texts_in(path) == sorted(MEMBERS.items())


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_texts_need_no_suffix(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(COMPRESS[compression](MEMBERS["big.txt"]))
    assert texts_in(path) == [("", MEMBERS["big.txt"])]
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert b"".join(file_reader(path).chunks()) == MEMBERS["big.txt"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar(tmp_path: Path, format: int) -> None:
    path, members = tmp_path / "tar", {"a/" * 40 + "name": b"deep", "short": b""}
    path.write_bytes(tar_of(members, format))
    assert texts_in(path) == sorted(members.items())
    old = bytearray(path.read_bytes())
    old[257:265] = bytes(8)  # a tar of before 1988 has no magic, only a checksum
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + 8 * 32 + sum(old[156:512]))
    if format == tarfile.USTAR_FORMAT:
        path.write_bytes(old)
        assert len(texts_in(path)) == 2


def test_what_is_no_regular_member_is_skipped_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"kind{kind!r}")
            info.type, info.linkname = kind, "a"
            archive.addfile(info)
        for data in (b"old", b"newer"):
            info = tarfile.TarInfo("./a")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert texts_in(path) == [("a", b"newer")]


def test_names_in_archives_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "tar"
    path.parent.mkdir()
    path.write_bytes(tar_of({"../../up.txt": b"1", "/etc/passwd": b"2", "a/../b": b"3"}))
    assert texts_in(path) == [("a/b", b"3"), ("etc/passwd", b"2"), ("up.txt", b"1")]
    assert os.listdir(path.parent) == ["tar"]


def test_archives_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "outer"
    inner = tar_of({"x.txt": b"x", "y.gz": gzip.compress(b"y")})
    path.write_bytes(tar_of({"in.zip": zip_of({"t.tar.xz": lzma.compress(inner)}), "z": b"z"}))
    assert texts_in(path) == [
        ("in.zip/t.tar.xz/x.txt", b"x"),
        ("in.zip/t.tar.xz/y.gz", b"y"),
        ("z", b"z"),
    ]
    deep = b"end"
    for _ in range(9):
        deep = zip_of({"a": deep})
    path.write_bytes(deep)
    assert [name for name, _ in texts_in(path)] == ["a/a/a/a"]


def test_copies_show_their_progress(tmp_path: Path) -> None:
    done: list[tuple[str, int, int | None]] = []
    with Scratch(tmp_path / "scratch", lambda *told: done.append(told)) as scratch:
        path = scratch.copy("pipe", iter([b"ab", b"cde"]))
        assert path.read_bytes() == b"abcde"
    assert done == [("unpacking", 2, None), ("unpacking", 5, None)]


def test_unwanted_members_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "tar"
    path.write_bytes(tar_of({"a.gz": b"\x1f\x8b\x08 damaged", "b": b"good"}))
    assert texts_in(path, lambda name: name == "b") == [("b", b"good")]
    with pytest.raises(DataError, match=r"tar:a\.gz is damaged or cut"):
        texts_in(path)


def test_documents_and_programs_in_zip_files_are_not_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    data = zip_of({"[Content_Types].xml": b"<xml/>", "word/document.xml": b"<xml/>"})
    path.write_bytes(data)
    assert texts_in(path) == [("", data)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_of(MEMBERS)[:-40_000], "damaged"),
        (tar_of(MEMBERS)[:700_000], "damaged"),
        (zip_of(MEMBERS)[:-30], "damaged archive"),
        (gzip.compress(tar_of(MEMBERS))[:-900], "damaged or cut"),
        (b"PK\x03\x04 and no more", "damaged archive"),
    ],
)
def test_damaged_archives_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        texts_in(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.txt": b"secret"}))
    for start in (6, data.index(b"PK\x01\x02") + 8):
        data[start] |= 1
    (tmp_path / "zip").write_bytes(data)
    with pytest.raises(DataError, match=r"zip:a\.txt is encrypted"):
        texts_in(tmp_path / "zip")


def test_a_stream_of_chunks_gives_as_much_as_was_wanted() -> None:
    stream = ChunkStream(iter([b"", b"abc", b"", b"defgh"]))
    assert [stream.read(2), stream.read(9), stream.read(3), stream.read(), stream.read(1)] == [
        b"ab", b"c", b"def", b"gh", b"",
    ]  # fmt: skip


def test_the_head_is_as_long_as_wanted() -> None:
    reader = Reader("text", lambda: ChunkStream(iter([b"ab", b"cd", b"ef"])))  # type: ignore[arg-type,return-value]
    assert [reader.head(size) for size in (0, 3, 6, 9)] == [b"", b"abc", b"abcdef", b"abcdef"]
