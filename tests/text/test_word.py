"""Every byte of a tokenised text comes back, and what cannot be said is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import DataError
from sharnn.text import UnencodableText, WordTokenizer, tokenizer_from_json

words = st.text(alphabet="abé<>@-,.", min_size=1, max_size=5)
wikitext = st.lists(st.lists(words, max_size=6), max_size=5)


def as_text(lines: list[list[str]]) -> bytes:
    return "".join("".join(f" {word}" for word in line) + " \n" for line in lines).encode()


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" the cat\n", r"line 1, byte 9"),
        (b" the \n the  cat \n", r"line 2, byte 6"),
        (b"the \n", r"line 1, byte 1"),
        (b" the \n the ", r"line 2, byte 5: b' ' does not have"),
        (b" the \n dog", r"line 2, byte 2: the word 'dog'"),
        (b" the <eos>", r"line 1, byte 6: the word '<eos>'"),
        (b" the \n ", r"line 2, byte 1"),
        (b" the\tcat \n", r"line 1, byte 5"),
        (b" the \r\n", r"line 1, byte 6"),
        (b" \n the <eos> \n", r"line 2, byte 6: the word '<eos>'"),
        (b" the \n the dog \n", r"line 2, byte 6: the word 'dog' is not in the vocabulary of 3"),
    ],
)
def test_texts_that_would_lose_bytes_are_refused(text: bytes, message: str) -> None:
    tokenizer = WordTokenizer(["<eos>", "the", "cat"])
    with pytest.raises(DataError, match=message):
        tokenizer.encode(text)


@pytest.mark.parametrize("text", [b" the", b" the \n the cat", b"", b" the \n"])
def test_the_last_line_may_end_after_any_word(text: bytes) -> None:
    tokenizer = WordTokenizer(["<eos>", "the", "cat"])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.last_cut(text) == text.rfind(b"\n") + 1


@given(wikitext, st.binary(max_size=3), st.integers(0, 100))
def test_damage_is_found_or_harmless(lines: list[list[str]], damage: bytes, place: int) -> None:
    """Whatever is done to a text, it is either said exactly or refused at a place inside it."""
    text = as_text(lines)
    text = text[:place] + damage + text[place:]
    before, place_in_line = b"", (1, 1)
    try:
        tokenizer = WordTokenizer.build([text])
    except UnencodableText as error:
        before, place_in_line = text[: error.offset], (error.line, error.column)
    except DataError:  # the damage made a word that is not UTF-8
        with pytest.raises(UnicodeDecodeError):
            text.decode()
    else:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        return
    assert place_in_line == (before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))


def test_words_of_held_out_text_are_in_the_vocabulary_but_do_not_count() -> None:
    tokenizer = WordTokenizer.build([b" b b c \n"], also=[b" c a a a a \n"])
    assert tokenizer.words == ["b", "<eos>", "c", "a"]
