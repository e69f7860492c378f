"""Every byte comes back, and what cannot be said is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import DataError
from sharnn.text import (
    ByteTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)

words = st.text(alphabet="abé<>@-,.", min_size=1, max_size=5)
wikitext = st.lists(st.lists(words, max_size=6), max_size=5)


def as_text(lines: list[list[str]]) -> bytes:
    return "".join("".join(f" {word}" for word in line) + " \n" for line in lines).encode()


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.uint8
    assert tokenizer.decode(tokens) == data
    assert b"".join(tokenizer.token_bytes(int(t)) for t in tokens) == data


@given(wikitext)
def test_words_come_back(lines: list[list[str]]) -> None:
    text = as_text(lines)
    tokenizer = WordTokenizer.build(text.splitlines(keepends=True) or [b" \n"])
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) == sum(len(line) + 1 for line in lines)
    assert sum(len(tokenizer.token_bytes(int(t))) for t in tokens) == len(text)
    again = tokenizer_from_json(tokenizer.to_json())
    assert np.array_equal(again.encode(text), tokens)


def test_words_are_ranked_by_frequency() -> None:
    tokenizer = WordTokenizer.build([b" the cat the \n", b" a the \n", b" \n"])
    assert tokenizer.words == ["<eos>", "the", "a", "cat"]
    assert tokenizer.token_bytes(tokenizer.start_token) == b" \n"


def test_the_dtype_holds_the_vocabulary() -> None:
    for size, dtype in ((256, np.uint8), (257, np.uint16), (70_000, np.uint32)):
        tokenizer = WordTokenizer(["<eos>", *(f"w{i}" for i in range(size - 1))])
        assert tokenizer.encode(b" w3 \n").dtype == dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" the cat\n", r"line 1, byte 9"),
        (b" the \n the  cat \n", r"line 2, byte 6"),
        (b"the \n", r"line 1, byte 1"),
        (b" the \n the", r"line 2, byte 5"),
        (b" the <eos> \n", r"line 1"),
        (b" the dog \n", r"line 1: the word 'dog' is not in the vocabulary of 3 words"),
    ],
)
def test_texts_that_would_lose_bytes_are_refused(text: bytes, message: str) -> None:
    tokenizer = WordTokenizer(["<eos>", "the", "cat"])
    with pytest.raises(DataError, match=message):
        tokenizer.encode(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for tokenizer in (ByteTokenizer(), WordTokenizer(["<eos>", "é"])):
        assert isinstance(tokenizer, Tokenizer)
        save_tokenizer(tokenizer, path)
        assert load_tokenizer(path).to_json() == tokenizer.to_json()
    for damaged in (
        "{",
        "[]",
        '{"name": "runes"}',
        '{"name": "word"}',
        '{"name": "word", "words": []}',
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"tokenizer|vocabulary"):
            load_tokenizer(path)
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(tmp_path / "nothing.json")
