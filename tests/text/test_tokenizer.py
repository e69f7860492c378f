"""Files of tokenizers, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharnn.errors import DataError
from sharnn.text import ByteTokenizer, Tokenizer, WordTokenizer, load_tokenizer, save_tokenizer


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
        '{"name": "word", "words": "<eos>"}',
        '{"name": "word", "words": ["<eos>", ""]}',
        '{"name": "word", "words": ["<eos>", "two words"]}',
        '{"name": "word", "words": ["<eos>", "\\ud800"]}',
        '{"name": "word", "words": ["<eos>", 1]}',
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"tokenizer|vocabulary"):
            load_tokenizer(path)
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(tmp_path / "nothing.json")
