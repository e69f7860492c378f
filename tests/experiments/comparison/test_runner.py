"""What is scored of a text, and what trainers from elsewhere may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharnn.data.prepare import prepare
from sharnn.errors import DataError
from sharnn.experiments.comparison.runner import beginning_of
from texts import zen


@pytest.mark.parametrize("tokenizer", ["byte", "word"])
@pytest.mark.parametrize("share", [0.3, 0.004, 1.0])
def test_a_share_of_a_split_is_its_beginning(tmp_path: Path, tokenizer: str, share: float) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f" {line} \n" for line in zen().split("\n") if line))
    corpus = prepare([str(text)], tokenizer=tokenizer)
    split = corpus.split("train")
    part = beginning_of(split, corpus.tokenizer, share)
    data = corpus.tokenizer.decode(part.tokens)
    whole = corpus.tokenizer.decode(split.tokens)
    assert whole.startswith(data)
    last = len(corpus.tokenizer.token_bytes(int(part.tokens[-1])))
    assert len(data) - last < int(share * split.num_bytes) <= len(data)
    assert (part.num_tokens, part.num_bytes) == (len(part.tokens), len(data))
    assert (part.num_chars, part.num_words) == (len(data.decode()), len(data.split()))


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(zen())
    corpus = prepare([str(text)])
    with pytest.raises(DataError, match="larger --scale"):
        beginning_of(corpus.split("valid"), corpus.tokenizer, 0.01)
