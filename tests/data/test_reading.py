"""What is read of files, folders, globs and archives, and the line that says so."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import COMPRESS, NOT_TEXT, tar_of, zip_of
from sharnn.data.corpus import SPLITS, Corpus
from sharnn.data.prepare import prepare, train_tokenizer
from sharnn.errors import ConfigError, DataError

LINES = "the north wind carried seven barrels before dawn\n" * 20
ACCENTS = "la façade à côté du café\n" * 20


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(*texts: Path, **how: object) -> tuple[bytes, str]:
    """Return the text of a corpus, and what is said of it."""
    corpus = prepare([str(text) for text in texts], **how)  # type: ignore[arg-type]
    corpus.verify()
    return text_of(corpus), corpus.reading


def text_of(corpus: Corpus, split: str = "all") -> bytes:
    return corpus.tokenizer.decode(corpus.split(split).tokens)


def test_what_is_not_text_is_left_out_of_folders_globs_and_archives(tmp_path: Path) -> None:
    files = {f"a/{name}.bin": data for name, data in NOT_TEXT.items()}
    folder = write(tmp_path / "folder", {**files, "b.txt": b"text\n"})
    (tmp_path / "tar").write_bytes(tar_of({**files, "b.txt": b"text\n"}))
    for place in (folder, folder / "**" / "*", tmp_path / "tar"):
        text, line = read(place)
        assert text == b"text\n"
        assert "1 file, 5 bytes, UTF-8; left out 8 files, not text: a/elf.bin, " in line
        assert line.endswith("and 5 more")
    with pytest.raises(DataError, match=r"has no text: left out 8 files, not text: elf"):
        prepare([str(folder / "a")])
    text, line = read(folder / "a", encoding="bytes")
    assert text == b"".join(data for _, data in sorted(files.items()))
    assert "8 files" in line


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text_is_taken_as_bytes_if_it_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: NOT_TEXT[name]})
    text, line = read(tmp_path / name)
    assert text == NOT_TEXT[name]
    assert "not text, read byte for byte: " in line


def test_archives_that_cannot_be_unpacked_are_refused_or_left_out(tmp_path: Path) -> None:
    sealed = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(50)
    write(tmp_path, {"a.txt": b"text", "b.txt": sealed})
    with pytest.raises(DataError, match=r"b\.txt is a 7z archive, which sharnn cannot unpack"):
        prepare([str(tmp_path / "b.txt")])
    assert read(tmp_path)[0] == b"text"
    assert read(tmp_path / "b.txt", encoding="bytes")[0] == sealed


@pytest.mark.parametrize("compression", COMPRESS)
def test_an_archive_is_read_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Not as one text with the zero padding of a tar at its end, which would be its test split."""
    members = {"poem.txt": b"poem\n" * 300, "held.txt": b"held\n" * 300}
    data = COMPRESS[compression](tar_of(members))
    write(tmp_path, {"corpus.tar.gz" if compression == "gz" else "corpus": data})
    expected = members["held.txt"] + members["poem.txt"]
    for text in next(tmp_path.iterdir()), tmp_path:
        assert read(text)[0] == expected

    class Pipe:
        buffer = io.BytesIO(data)

    monkeypatch.setattr("sys.stdin", Pipe)
    assert read(Path("-"))[0] == expected


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_text_that_is_not_utf8_is_said_and_can_be_decoded(tmp_path: Path, encoding: str) -> None:
    text = ACCENTS if encoding == "latin-1" else ACCENTS.replace("la ", "“la” ")
    data = text.encode(encoding)
    num_invalid = sum(byte >= 0x80 for byte in data)
    path = write(tmp_path, {"text": data}) / "text"
    corpus = prepare([str(path)])
    assert text_of(corpus) == data
    assert not corpus.is_utf8
    assert f"{num_invalid} bytes are not UTF-8, probably {encoding}: " in corpus.reading
    corpus = prepare([str(path)], encoding=encoding)
    assert text_of(corpus) == text.encode()
    assert corpus.is_utf8
    assert corpus.reading.endswith(f", {encoding}")
    # The digest covers the text, not the settings that it came from.
    (tmp_path / "utf8").write_bytes(text.encode())
    assert prepare([str(tmp_path / "utf8")]).digest == corpus.digest


def test_other_scripts_are_not_called_latin(tmp_path: Path) -> None:
    write(tmp_path, {"text": ("съешь ещё этих мягких булок\n" * 9).encode("koi8-r")})
    assert "not UTF-8: set data.encoding to their encoding, such as" in read(tmp_path / "text")[1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_unicode_is_recognised(tmp_path: Path, encoding: str) -> None:
    text = LINES + ACCENTS
    write(tmp_path, {"text": text.encode(encoding)})
    corpus = prepare([str(tmp_path / "text")])
    assert text_of(corpus) == text.encode()
    assert corpus.split("all").num_chars == len(text)
    assert {"utf-8-sig": "UTF-8 with a mark", "utf-32": "UTF-32"}.get(
        encoding, "UTF-16"
    ) in corpus.reading
    made = train_tokenizer([str(tmp_path / "text")], "spelled-word", 260)
    assert (
        made.to_json()["words"] == [" before", " carried", " côté", " dawn"]
        or made.vocab_size == 260
    )


def test_a_text_not_in_the_given_encoding_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"text": b"caf\xe9"})
    with pytest.raises(DataError, match=r"text is not utf-8 text: byte 3 .*set data\.encoding"):
        prepare([str(tmp_path / "text")], encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no encoding 'latin-11'.*mean 'latin-?1'.*koi8-r"):
        prepare([str(tmp_path / "text")], encoding="latin-11")
    for wrong in ("rot13", "hex", ""):
        with pytest.raises(ConfigError, match="no encoding"):
            prepare([str(tmp_path / "text")], encoding=wrong)
    for name in ("encoding", "include", "exclude"):
        given = "utf-8" if name == "encoding" else ["*.py"]
        with pytest.raises(ConfigError, match=rf"data\.{name} does nothing for python-stdlib"):
            prepare(["python-stdlib"], **{name: given})  # type: ignore[arg-type]


def test_equal_files_are_read_once(tmp_path: Path) -> None:
    """Else held-out text would also be training text."""
    files = {"a.txt": b"one\n", "b/c.txt": b"one\n", "d.txt": b"two\n", "e": b"", "f": b""}
    write(tmp_path, files)
    (tmp_path / "g.zip").write_bytes(zip_of({"x": b"two\n", "y": "one\n".encode("utf-16")}))
    text, line = read(tmp_path)
    assert text == b"one\ntwo\n"
    assert "2 files, 8 bytes" in line
    assert (
        "left out 3 files, equal to others: b/c.txt = a.txt, g.zip/x = d.txt, g.zip/y = a.txt"
        in line
    )


def test_words_of_two_files_are_not_joined(tmp_path: Path) -> None:
    write(tmp_path, {"1": b"one two", "2": b"three four\n", "3": b"five", "4": b"six"})
    corpus = prepare([str(tmp_path)])
    assert text_of(corpus) == b"one two\nthree four\nfive\nsix"
    assert corpus.split("all").num_words == 6
    assert "added a line end after 2 files without one" in corpus.reading
    assert read(tmp_path, encoding="bytes")[0] == b"one twothree four\nfivesix"


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], "a.md a.txt docs/b.md docs/old/c.md src/d.py"),
        (["*.md"], [], "a.md docs/b.md docs/old/c.md"),
        (["*.md", "src"], [], "a.md docs/b.md docs/old/c.md src/d.py"),
        (["docs/*.md"], [], "docs/b.md docs/old/c.md"),
        (["**/*.md"], ["docs/old"], "a.md docs/b.md"),
        ([], ["old", "*.txt", "src/"], "a.md docs/b.md"),
        ([], ["b.md", "c.m?", "[sz]rc"], "a.md a.txt"),
    ],
)
def test_patterns(tmp_path: Path, include: list[str], exclude: list[str], expected: str) -> None:
    names = ["a.md", "a.txt", "docs/b.md", "docs/old/c.md", "src/d.py"]
    files = {name: f"{name}\n".encode() for name in names}
    folder = write(tmp_path / "folder", files)
    (tmp_path / "zip").write_bytes(zip_of(files))
    for place in (folder, folder / "**", tmp_path / "zip"):
        text, line = read(place, include=include, exclude=exclude)
        assert text.decode().split() == expected.split()
        left_out = len(names) - len(expected.split())
        assert (f"left out {left_out} file" in line) == bool(left_out)
    with pytest.raises(DataError, match=r"leave none of the 5 files in"):
        prepare([str(folder)], include=["*.rst"])


def test_folders_of_programs_are_left_out(tmp_path: Path) -> None:
    kept = {"a.py": b"a\n", "build/b.py": b"b\n"}
    files = {
        **kept, "__pycache__/a.txt": b"no", "x/node_modules/y.js": b"no", ".git/config": b"no",
        ".hidden": b"no", "x/__MACOSX/y": b"no",
    }  # fmt: skip
    folder = write(tmp_path / "folder", files)
    (tmp_path / "tar").write_bytes(tar_of(files))
    for place in (folder, folder / "**" / "*", tmp_path / "tar"):
        assert read(place)[0] == b"a\nb\n"


@pytest.fixture
def many(tmp_path: Path) -> dict[str, bytes]:
    draw = random.Random(3)
    return {
        f"part{index // 20}/{index:03}.txt": f"text {index}\n".encode() * draw.randint(5, 15)
        for index in range(120)
    }


def test_whole_files_of_a_folder_are_held_out_by_a_hash_of_their_paths(
    tmp_path: Path, many: dict[str, bytes]
) -> None:
    folder = write(tmp_path / "folder", many)
    corpus = prepare([str(folder)])
    held_out = corpus.manifest["read"]["held_out"]
    parts = {split: b"".join(many[name] for name in held_out[split]) for split in ("valid", "test")}
    train = set(many) - {*held_out["valid"], *held_out["test"]}
    parts["train"] = b"".join(many[name] for name in sorted(train))
    assert {split: text_of(corpus, split) for split in SPLITS} == parts
    for split in ("valid", "test"):
        assert len(parts[split]) == pytest.approx(0.05 * corpus.split("all").num_bytes, rel=0.3)
        assert (
            len({name.split("/")[0] for name in held_out[split]}) > 1
        )  # not the last folder alone
        assert (
            f"{split} is {len(held_out[split])} files by hash of the path: part" in corpus.reading
        )
    assert not corpus.own_splits
    # Under another name, as a glob and in an archive the same files are held out.
    folder.rename(tmp_path / "other")
    (tmp_path / "tar").write_bytes(tar_of(dict(reversed(many.items()))))
    for place in ("other", "other/**/*.txt", "tar"):
        assert prepare([str(tmp_path / place)]).digest == corpus.digest
    words = prepare([str(tmp_path / "tar")], tokenizer="byte")
    assert words.digest == corpus.digest


def test_lines_end_between_the_splits_of_a_folder(tmp_path: Path, many: dict[str, bytes]) -> None:
    folder = write(tmp_path / "folder", {name: data.rstrip() for name, data in many.items()})
    corpus = prepare([str(folder)])
    assert text_of(corpus).count(b"\n") + 1 == sum(data.count(b"\n") for data in many.values())
    assert corpus.split("all").num_words == sum(len(data.split()) for data in many.values())
    assert "added a line end after 119 files without one" in corpus.reading
    first = corpus.manifest["read"]["held_out"]["valid"][0]
    (folder / first).write_bytes(b"changed")
    assert prepare([str(folder)]).digest != corpus.digest


def test_a_file_that_changes_between_the_readings_is_named(
    tmp_path: Path, many: dict[str, bytes]
) -> None:
    folder = write(tmp_path / "folder", {name: data + b"." for name, data in many.items()})

    def change(what: str, done: int, total: int | None) -> None:
        if what == "preparing":
            (folder / "part5" / "119.txt").write_bytes(b"x")

    with pytest.raises(DataError, match=r"part5/119\.txt changed while it was read"):
        prepare([str(folder)], progress=change)


def test_a_plain_file_needs_no_notice(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"text\n", "b": b"text \xe9\n"})
    lines: list[str] = []
    prepare([str(tmp_path / "a")], notice=lines.append)
    assert lines == []
    prepare([str(tmp_path / "b")], notice=lines.append)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    train_tokenizer([str(tmp_path)], "spelled-word", 257, notice=lines.append)
    assert "2 files" in lines[1]


def test_names_that_are_not_utf8_do_no_harm(tmp_path: Path, many: dict[str, bytes]) -> None:
    for index in range(60):
        (tmp_path / f"n\udce4me{index}").write_bytes(b"%d\n" % (index + 100))
    corpus = prepare([str(tmp_path)])
    assert corpus.reading.encode()
    assert Corpus.open(corpus.folder).reading == corpus.reading


#: What compressed files and archives begin with.
UNPACKED = (b"\x1f\x8b", b"BZh", b"\xfd7z", b"\x28\xb5", b"PK", b"\x1f\x9d", b"7z", b"Rar!", b"\x04\x22",
            b"LZIP", b"\x5d\0")  # fmt: skip
SMALL = st.binary(max_size=200).filter(lambda data: not data.startswith(UNPACKED))


@settings(max_examples=60)
@given(SMALL)
def test_any_bytes_come_back(data: bytes) -> None:
    """As the same bytes; in UTF-8 if they are recognised as UTF-16 or have a mark."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), {"text": data + b"."}) / "text"
        assert read(path, encoding="bytes")[0] == data + b"."
        assert read(path, encoding="latin-1")[0] == (data + b".").decode("latin-1").encode()
        if not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
            text = read(path)[0]
            assert text == data + b"." or data.count(0) >= 0.4 * len(data)


@settings(max_examples=40)
@given(st.lists(SMALL, min_size=2, max_size=5, unique=True))
def test_any_files_come_back(parts: list[bytes]) -> None:
    """One after the other, in order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {f"{index}": part + b"." for index, part in enumerate(parts)})
        assert read(Path(folder), encoding="bytes")[0] == b"".join(part + b"." for part in parts)
        decoded = [(part + b".").decode("latin-1").encode() for part in parts]
        given = read(*(Path(folder, str(index)) for index in range(len(parts))), encoding="latin-1")
        assert given[0] == b"\n".join(decoded)
