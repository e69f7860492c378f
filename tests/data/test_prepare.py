"""Texts of every kind become corpora: counted, split, kept by content."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import tar_of
from sharnn.data.corpus import SPLITS, Corpus
from sharnn.data.counting import TextCounter, Utf8Checker
from sharnn.data.prepare import prepare, train_tokenizer
from sharnn.data.splits import cut_at, whole_blocks
from sharnn.data.unpack import CHUNK_BYTES
from sharnn.errors import ConfigError, DataError
from sharnn.files import cache_folder
from sharnn.text import (
    SpelledWordTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
    save_tokenizer,
)
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


@given(st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=5).map(str.encode)), max_size=6))
def test_bytes_that_are_not_utf8_are_counted_in_chunks(chunks: list[bytes]) -> None:
    checker, data = Utf8Checker(), b"".join(chunks)
    for chunk in chunks:
        checker.add(chunk)
    checker.add(b"", final=True)
    invalid = [c for c in data.decode(errors="surrogateescape") if "\udc80" <= c <= "\udcff"]
    assert checker.num_invalid == len(invalid)
    assert checker.looks_like_cp1252 == any(c < "\udca0" for c in invalid)


def test_texts_are_joined_in_the_order_given(tmp_path: Path) -> None:
    for name, data in {"b.txt": b"second ", "a/c.txt": b"first ", "d.md": b"third"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert content(prepare([str(tmp_path)])) == b"first \nsecond \nthird"
    corpus = prepare([str(tmp_path / "d.md"), str(tmp_path / "**" / "*.txt")])
    assert content(corpus) == b"third\nfirst \nsecond "


def test_standard_input_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(b"piped text")

    monkeypatch.setattr("sys.stdin", Pipe)
    named = tmp_path / "pipe"
    os.mkfifo(named)
    writer = threading.Thread(target=named.write_bytes, args=(b" and more",))
    writer.start()
    corpus = prepare(["-", str(named)])
    writer.join()
    assert content(corpus) == b"piped text\n and more"
    assert not list(cache_folder().glob(".*"))
    with pytest.raises(ConfigError, match="named twice"):
        prepare(["-", "-"])


@pytest.mark.parametrize("again", ["a.txt", "./b/../a.txt", "link.txt", "*.txt", "."])
def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    """What is trained on must not be scored as held out."""
    monkeypatch.chdir(tmp_path)
    Path("b").mkdir()
    Path("a.txt").write_text("a text\n" * 50)
    Path("link.txt").symlink_to("a.txt")
    lines: list[str] = []
    corpus = prepare(["a.txt", again], notice=lines.append)
    assert content(corpus) == Path("a.txt").read_bytes()
    assert re.search(
        r"1 file, 350 bytes, UTF-8; left out \d files?, equal to others: \S+ = a\.txt", lines[0]
    )


def test_the_cache_goes_by_content(tmp_path: Path) -> None:
    one, two = write_text(tmp_path, 500, "one"), write_text(tmp_path, 500, "two")
    first = prepare([str(one)])
    stamp = (first.folder / "tokens.bin").stat().st_mtime_ns
    again = prepare([str(two)])
    assert again.digest == first.digest
    assert (again.folder / "tokens.bin").stat().st_mtime_ns == stamp
    two.write_bytes(one.read_bytes() + b"!")
    assert prepare([str(two)]).digest != first.digest


def test_the_same_text_under_another_name_is_called_by_it(tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        path = write_text(tmp_path, 700, name)
        assert prepare([str(path)]).name == str(path)


@given(
    lines=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=12),
    sizes=st.lists(st.integers(1, 7), min_size=1),
)
def test_cutting_by_line_keeps_lines_whole(lines: list[bytes], sizes: list[int]) -> None:
    """However the text comes in chunks, a line belongs to the split in which it begins."""
    text = b"".join(line + b"\n" for line in lines)
    stream, chunks = io.BytesIO(text), []
    for size in itertools.cycle(sizes):
        if not (chunk := stream.read(size)):
            break
        chunks.append(chunk)
    ends = [int(len(text) * 0.9), int(len(text) * 0.95), len(text)]
    parts = dict.fromkeys(SPLITS, b"")
    for split, block in cut_at(
        whole_blocks(chunks, WordTokenizer.last_cut, "text"), ends, by_line=True
    ):
        parts[split] += block
    expected, start = dict.fromkeys(SPLITS, b""), 0
    for line in [line + b"\n" for line in text.split(b"\n")[:-1]]:
        index = next((i for i, end in enumerate(ends) if start < end), 2)
        expected[SPLITS[index]] += line
        start += len(line)
    assert parts == expected


def test_words_are_split_by_line(tmp_path: Path) -> None:
    path = tmp_path / "wiki"
    path.write_bytes(b" the cat \n \n the dog sat \n" * 40 + b" unseen words \n")
    corpus = prepare([str(path)], tokenizer="word")
    assert isinstance(corpus.tokenizer, WordTokenizer)
    assert corpus.tokenizer.words == ["<eos>", "the", "cat", "dog", "sat", "unseen", "words"]
    assert content(corpus) == path.read_bytes()
    assert content(corpus, "train").endswith(b"\n")
    assert corpus.split("all").num_tokens == 40 * 8 + 3
    corpus.verify()
    given = prepare([str(path)], tokenizer=corpus.tokenizer)
    assert np.array_equal(given.split("all").tokens, corpus.split("all").tokens)


def test_a_text_that_words_cannot_say_is_shown_by_file_and_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b" the cat \n" * 200_000)  # more than one block
    bad.write_bytes(b" the \n the  cat \n")
    with pytest.raises(DataError, match=r"/bad, line 2, byte 6: b' cat"):
        prepare([str(good), str(bad)], tokenizer="word")
    tokenizer = WordTokenizer(["<eos>", "the", "cat"])
    good.write_bytes(b" the cat \n" * 200_000 + b" the dog \n")
    with pytest.raises(DataError, match=r"/good, line 200,001, byte 6: the word 'dog'"):
        prepare([str(good)], tokenizer=tokenizer)
    assert not list(cache_folder().rglob(".*.partial"))


def test_a_text_without_lines_is_refused_before_it_fills_the_memory() -> None:
    endless = itertools.repeat(b" word" * 200_000)
    with pytest.raises(DataError, match=r"a stretch of more than 64 MiB without a line's end"):
        next(whole_blocks(endless, WordTokenizer.last_cut, "text"))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "spelled-word"])
def test_subwords_have_the_splits_of_bytes_and_blocks_cut_no_unit(
    tmp_path: Path, kind: str
) -> None:
    """Units that are longer than they may be lie across the chunks' borders."""
    size = 600 if kind != "spelled-word" else 400
    tokenizer = train_tokenizer([str(write_text(tmp_path, 9_000))], kind, size)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    path = tmp_path / "long"
    text = (reference_text(50_000) * (CHUNK_BYTES // 50_000 + 2))[: CHUNK_BYTES + 30_000]
    path.write_bytes(text[: CHUNK_BYTES - 99] + b"a" * 250 + text[CHUNK_BYTES - 99 :] + b"\xff\0")
    as_bytes, corpus = (
        prepare([str(path)], tokenizer=name) for name in ("byte", str(tmp_path / "tokenizer.json"))
    )
    for split in SPLITS:
        data, part = content(as_bytes, split), corpus.split(split)
        assert content(corpus, split) == data
        assert np.array_equal(part.tokens, tokenizer.encode(data))
        assert (part.num_bytes, part.num_words) == (len(data), as_bytes.split(split).num_words)
    corpus.verify()
    assert prepare([str(path)], tokenizer=tokenizer).digest == corpus.digest != as_bytes.digest


def test_a_vocabulary_may_be_larger_than_16_bits_hold(tmp_path: Path) -> None:
    tokenizer = SpelledWordTokenizer([b" w%d" % i for i in range(70_000)])
    path = tmp_path / "text"
    path.write_bytes(b" w69999 other w1\n" * 50)
    corpus = prepare([str(path)], tokenizer=tokenizer)
    assert corpus.split("all").tokens.dtype == np.uint32
    assert corpus.split("all").tokens[0] == 256 + 69_999
    assert content(corpus) == path.read_bytes()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "spelled-word"])
def test_a_tokenizer_is_trained_on_the_train_split_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "text"
    size = {"spelled-word": 300, "wordpiece": 600}.get(kind, 400)
    path.write_bytes(reference_text(9_000) + b" qqqqa qqqqe" * 80)
    made = train_tokenizer([str(path)], kind, size)
    assert isinstance(made, SpelledWordTokenizer | SubwordTokenizer)
    assert made.vocab_size == size
    assert len(made.encode(b" qqqqa")) >= 5
    path.write_bytes(reference_text(9_000) + b" qqqqa qqqqe" * 800)
    seen = train_tokenizer([str(path)], kind, size)
    assert len(seen.encode(b" qqqqa")) <= 2


def test_training_a_tokenizer_knows_splits_of_a_corpus_and_closed_vocabularies(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "wikitext-2-v1.zip"
    parts = {"train": b" one two one \n" * 9, "valid": b" two three \n", "test": b" four \n"}
    with zipfile.ZipFile(archive, "w") as out:
        for split, data in parts.items():
            out.writestr(f"wikitext-2/wiki.{split}.tokens", data)
    words: Tokenizer = train_tokenizer(["wikitext-2"], "word", local_source=archive)
    assert words.to_json() == prepare(["wikitext-2"], local_source=archive).tokenizer.to_json()
    done: list[tuple[str, int, int | None]] = []
    spelled = train_tokenizer(
        ["wikitext-2"], "spelled-word", 258, local_source=archive,
        progress=lambda *told: done.append(told),
    )  # fmt: skip
    assert spelled.to_json()["words"] == [" one", " two"]
    assert ("counting", len(parts["train"]), len(parts["train"])) in done
    with pytest.raises(DataError, match="2 different words"):
        train_tokenizer(["wikitext-2"], "spelled-word", 259, local_source=archive)


def test_tokenizer_files_that_are_none(tmp_path: Path) -> None:
    path = str(write_text(tmp_path, 100))
    with pytest.raises(DataError, match=r"nothing\.json: no such file"):
        prepare([path], tokenizer=str(tmp_path / "nothing.json"))
    (tmp_path / "other.json").write_text('{"model": {}}')
    with pytest.raises(DataError, match=r"other\.json has no known kind .*tokenizer import"):
        prepare([path], tokenizer=str(tmp_path / "other.json"))
    with pytest.raises(ConfigError, match=r"whose name ends in \.json"):
        prepare([path], tokenizer=path)


def test_binary_data_is_a_text_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(bytes(range(256)) * 4)
    assert content(prepare([str(path)])) == path.read_bytes()


def test_a_name_that_is_almost_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no text at python-stdlb.*mean 'python-stdlib'"):
        prepare(["python-stdlb"])


def test_a_text_without_a_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"empty is empty"):
        prepare([str(tmp_path / "empty")])


def test_a_text_that_changes_between_the_readings_is_told(tmp_path: Path) -> None:
    """Else it would lie in the cache under the digest of what it was."""
    path = write_text(tmp_path, 600)

    def change(what: str, done: int, total: int | None) -> None:
        if what == "reading" and done:
            path.write_bytes(b"x" * 600)

    with pytest.raises(DataError, match="changed while it was read"):
        prepare([str(path)], progress=change)


def test_bad_calls(tmp_path: Path) -> None:
    path = str(write_text(tmp_path, 100))
    with pytest.raises(ConfigError, match="no text was given"):
        prepare([])
    with pytest.raises(ConfigError, match="cannot be joined"):
        prepare(["python-stdlib", path])
    with pytest.raises(ConfigError, match=r"local_source is .*is not a known corpus"):
        prepare([path], local_source=tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer 'wrd'"):
        prepare([path], tokenizer="wrd")
    with pytest.raises(ConfigError, match="no split 'tset'"):
        prepare([path]).split("tset")


def test_a_damaged_cache_is_prepared_again(tmp_path: Path) -> None:
    path = write_text(tmp_path, 800)
    folder = prepare([str(path)]).folder
    for name in ("manifest.json", "tokens.bin", "tokenizer.json"):
        (folder / name).write_bytes(b"{}")
        assert content(prepare([str(path)])) == path.read_bytes()


def test_what_a_killed_process_left_goes_after_a_day() -> None:
    corpora = cache_folder() / "corpora"
    for name, age_seconds in ((".old.1.partial", 25 * 3600), (".new.1.partial", 60)):
        (corpora / name).mkdir(parents=True)
        os.utime(corpora / name, (time.time() - age_seconds,) * 2)
    with pytest.raises(DataError):
        prepare(["no such text"])
    assert [path.name for path in corpora.glob(".*")] == [".new.1.partial"]
    (corpora / ".new.1.partial").rmdir()


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
    assert "SHARNN_CACHE" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_read_only_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write .*file.*SHARNN_CACHE moves it"):
        prepare([str(write_text(tmp_path, 100))])


def test_a_text_larger_than_the_disk_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one thing that is not real here is the disk's size."""
    usage = type(shutil.disk_usage(tmp_path))(total=10**9, used=10**9 - 99, free=99)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"has 0 MB of free space.*SHARNN_CACHE"):
        prepare([str(write_text(tmp_path, 101))])


def test_a_tokenizer_of_subwords_needs_a_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vocab_size is None: give the number of tokens for bpe"):
        train_tokenizer([str(write_text(tmp_path, 100))], "bpe")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", ["plain", "tar.gz", "utf-16"])
def test_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    """32 times the text may not take much more memory (the benchmark does it with 2 GB)."""
    program = (
        "import re, sys\nfrom sharnn.data.prepare import prepare\nprepare([sys.argv[1]])\n"
        "assert 'torch' not in sys.modules\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    peaks = []
    for size in (1, 32):
        path = tmp_path / f"text{size}"
        data = reference_text(100_000)[: 1 << 16] * (16 * size)
        if kind == "tar.gz":
            data = gzip.compress(tar_of({"a": data[::2], "b": data[1::2]}), 1)
        elif kind == "utf-16":
            data = data.decode(errors="ignore").encode("utf-16")
        path.write_bytes(data)
        result = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={"SHARNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 16 * 1024  # KiB, for 31 MiB more of text
