"""Small subword tokenizers of each kind, trained once."""

from __future__ import annotations

from hypothesis import strategies as st

from sharnn.text import SubwordTokenizer
from texts import reference_text

TEXT = reference_text(30_000)
KINDS = ("bpe", "wordpiece", "unigram")
SIZES = {"bpe": 600, "wordpiece": 800, "unigram": 600}
TOKENIZERS = {kind: SubwordTokenizer.train([TEXT], kind, SIZES[kind]) for kind in KINDS}

kinds = st.sampled_from(KINDS)
#: Any bytes, and bytes that words are made of, with rare ones among them.
texts = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b" the", b"statement", b" ", b"\n", b"\xff", b"\0", b"42", b"...", b"\xc3\xa9"]
    ),
    max_size=30,
).map(b"".join)
