"""Each byte has its own character, the one that GPT-2 gave it."""

from __future__ import annotations

import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from sharnn.text.alphabet import ALPHABET, to_bytes, to_characters


@given(st.binary())
def test_the_alphabet_has_a_character_for_every_byte(data: bytes) -> None:
    assert to_bytes(to_characters(data)) == data
    assert set(ALPHABET) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
