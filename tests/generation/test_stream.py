"""Only valid UTF-8, and nothing past a stop."""

from __future__ import annotations

import codecs
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import ConfigError
from sharnn.generation.stream import (
    StopFilter,
    Utf8Constraint,
    WholeCharacters,
    unfinished_character,
)


@given(st.integers(0, 2**32), st.integers(0, 12), st.text(max_size=3), st.integers(0, 3))
def test_every_path_is_valid_utf8(seed: int, length: int, prompt: str, cut: int) -> None:
    """Any walk over allowed bytes, after a prompt that may end inside a character, is a text."""
    data = prompt.encode()
    data = data[: max(len(data) - cut, 0)]
    constraint, rng = Utf8Constraint(data), random.Random(seed)
    length = max(length, constraint.pending)
    for left in range(length, 0, -1):
        allowed = constraint.allowed(left).nonzero().flatten().tolist()
        byte = rng.choice(allowed)
        constraint.advance(byte)
        data += bytes([byte])
    assert constraint.pending == 0
    data.decode()


@given(st.text())
def test_every_text_is_allowed(text: str) -> None:
    constraint, data = Utf8Constraint(), text.encode()
    for index, byte in enumerate(data):
        assert constraint.allowed(len(data) - index)[byte]
        constraint.advance(byte)


@pytest.mark.parametrize(
    "bad", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\x80"]
)
def test_forbidden_forms_are_not_allowed(bad: bytes) -> None:
    constraint = Utf8Constraint()
    for byte in bad:
        if not constraint.allowed(9)[byte]:
            return
        constraint.advance(byte)
    pytest.fail("an invalid form got through")


@given(
    text=st.text(alphabet="abé", max_size=30),
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3),
)
def test_stops_cut_at_the_first(text: str, stops: list[str]) -> None:
    found = [(p + len(s), p) for s in stops if (p := text.find(s)) >= 0]
    expected = text[: min(found)[1]] if found else text
    filtered, shown = StopFilter(stops), b""
    for character in text:
        shown += filtered.feed(character.encode())
        shown.decode()  # what is shown is whole characters at any time
        if filtered.stopped:
            break
    assert (shown + filtered.rest()).decode() == expected


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop string is empty"):
        StopFilter([""])


@given(st.binary(max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_whole_characters_in_any_parts(data: bytes, cuts: list[int]) -> None:
    """Any bytes, in any parts, become what a decoder with replacement makes of them at once."""
    characters, shown = WholeCharacters(), b""
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(bounds):
        piece = characters.feed(data[start:stop])
        piece.decode()
        shown += piece
    assert shown == codecs.getincrementaldecoder("utf-8")("replace").decode(data).encode()


@given(st.text(min_size=1, max_size=4), st.integers(0, 3), st.text(max_size=3))
def test_whole_characters_finish_the_prompt(prompt: str, cut: int, more: str) -> None:
    data = (prompt + more).encode()
    place = max(len(prompt.encode()) - cut, 0)
    assert data[:place] + WholeCharacters(data[:place]).feed(data[place:]) == data


def test_a_prompt_that_cannot_be_finished_is_left_as_it_is() -> None:
    assert WholeCharacters(b"a\xe6\x97").feed(b"bc") == b"bc"


@pytest.mark.parametrize(
    ("text", "tail"),
    [(b"", b""), (b"a", b""), ("日".encode(), b""), ("a日".encode()[:-1], "日".encode()[:-1]),
     ("😀".encode()[:3], "😀".encode()[:3]), (b"\xe0\x80", b""), (b"\xed\xa0", b""),
     (b"\x80\x80", b""), (b"\xf4\x90", b""), (b"\xff\xc3", b"\xc3")],
)  # fmt: skip
def test_unfinished_characters(text: bytes, tail: bytes) -> None:
    assert unfinished_character(text) == tail
