"""A word is what white space separates, with one space before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sharnn.text.units import WORD

texts = st.lists(st.sampled_from([b" ", b"  ", b"\n", b"\x0b", b"\0", b"a", b"\xff", b"."])).map(
    b"".join
)


@given(texts)
def test_words_are_what_white_space_separates(data: bytes) -> None:
    words = WORD.findall(data)
    assert [word.removeprefix(b" ") for word in words] == data.split()
    assert not WORD.sub(b"", data).strip()


@given(texts)
def test_a_word_has_the_space_before_it(data: bytes) -> None:
    for match in WORD.finditer(data):
        before = data[: match.start()]
        assert match[0].startswith(b" ") or not before.endswith(b" ")
