"""A known word is one token, any other is spelled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import ConfigError, DataError
from sharnn.text import (
    SpelledWordTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from texts import reference_text

TEXT = reference_text(20_000)
TOKENIZER = SpelledWordTokenizer.build([TEXT], 500)

texts = st.binary(max_size=200) | st.lists(
    st.sampled_from([b" the", b"the", b" ", b"\n", b"\xff", b"\0", b" of", b"of", b" xyzzy"]),
    max_size=30,
).map(b"".join)


@given(texts)
def test_every_byte_comes_back(data: bytes) -> None:
    assert b"".join(TOKENIZER.units(data)) == data
    tokens = TOKENIZER.encode(data)
    assert TOKENIZER.decode(tokens) == data
    assert b"".join(TOKENIZER.token_bytes(int(t)) for t in tokens) == data
    end = TOKENIZER.last_cut(data)
    parts = [TOKENIZER.encode(data[:end]), TOKENIZER.encode(data[end:])]
    assert np.array_equal(np.concatenate(parts), tokens)


def test_a_known_word_is_one_token_and_any_other_its_bytes() -> None:
    tokenizer = SpelledWordTokenizer([b" the", b"don't", b" --"])
    assert tokenizer.units(b"don't  the\n\t-- the.") == [
        b"don't", b" ", b" the", b"\n", b"\t", b"--", b" the."
    ]  # fmt: skip
    assert tokenizer.encode(b"don't  the -- the\n").tolist() == [257, 32, 256, 258, 256, 10]
    assert tokenizer.encode(b" the. the").tolist() == [*b" the.", 256]
    assert tokenizer.encode(b"the don't").tolist() == [*b"the don't"]


def test_every_word_of_the_vocabulary_is_one_token() -> None:
    for token in range(TOKENIZER.vocab_size):
        assert TOKENIZER.encode(TOKENIZER.token_bytes(token)).tolist() == [token]


def test_the_most_frequent_words_are_taken() -> None:
    text = b" b b c a a a\n"
    assert [SpelledWordTokenizer.build([text], n).to_json()["words"] for n in (257, 258, 259)] == [
        [" a"], [" a", " b"], [" a", " b", " c"]
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"has 3 different words, so use at most 259 tokens"):
        SpelledWordTokenizer.build([text], 260)
    with pytest.raises(ConfigError, match="too small"):
        SpelledWordTokenizer.build([text], 256)


def test_the_start_is_a_lines_end() -> None:
    assert TOKENIZER.token_bytes(TOKENIZER.start_token) == b"\n"
    assert TOKENIZER.vocab_size == 500
    assert TOKENIZER.encode(b"").dtype == np.uint16


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = SpelledWordTokenizer([b" \xff\x00", "é".encode(), b" the"])
    assert isinstance(tokenizer, Tokenizer)
    save_tokenizer(tokenizer, path)
    again = load_tokenizer(path)
    assert again.to_json() == tokenizer.to_json()
    assert again.encode(b" \xff\x00").tolist() == [256]
    for words in ([1], "the", [" a b"], [""], ["a"], ["ab", "ab"], ["  ab"], ["ŷŷ"]):
        path.write_text(json.dumps({"name": "spelled-word", "words": words}))
        with pytest.raises(DataError, match=r"tokenizer\.json is damaged"):
            load_tokenizer(path)
    with pytest.raises(DataError, match="damaged"):
        tokenizer_from_json({"name": "spelled-word"})
