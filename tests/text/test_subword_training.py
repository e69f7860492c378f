"""Vocabularies have the size that was asked for, the same each time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sharnn.errors import ConfigError, DataError
from sharnn.text import SubwordTokenizer, tokenizer_from_json
from text.subwords import KINDS, SIZES, TEXT, TOKENIZERS


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_has_the_size_that_was_asked_for(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.vocab_size == SIZES[kind]
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.token_bytes(tokenizer.start_token) == b"\n"
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    with pytest.raises(ConfigError, match="too small"):
        SubwordTokenizer.train([TEXT], kind, 256)
    small = TEXT[:500]
    with pytest.raises(DataError, match=r"it gives .* at most") as told:
        SubwordTokenizer.train([small], kind, 5000)
    most = int(str(told.value).split("it gives ")[1].split(" ")[0])
    assert SubwordTokenizer.train([small], kind, most).vocab_size == most


def test_a_text_without_a_byte_fills_no_vocabulary() -> None:
    for kind in KINDS:
        with pytest.raises(DataError, match="more than this text fills"):
            SubwordTokenizer.train([], kind, 5000)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_training_is_the_same_each_time(kind: str) -> None:
    """In another process too, where hashes are other ones; however the text comes in blocks."""
    program = (
        "import json, sys\nfrom sharnn.text import SubwordTokenizer\n"
        "data = sys.stdin.buffer.read()\ncut = SubwordTokenizer.last_cut(data[:9000])\n"
        "made = SubwordTokenizer.train([data[:cut], data[cut:]], sys.argv[1], int(sys.argv[2]))\n"
        "print(json.dumps(made.to_json()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, kind, str(SIZES[kind])],
        input=TEXT,
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout) == TOKENIZERS[kind].to_json()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for call in (
        lambda: SubwordTokenizer.train([TEXT], "bpe", 300),
        lambda: tokenizer_from_json(TOKENIZERS["bpe"].to_json()),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'sharnn\[subword\]'"):
            call()


def test_bytes_and_words_do_without_the_library() -> None:
    program = (
        "import sys, sharnn, sharnn.text, sharnn.data.prepare\n"
        "sharnn.text.tokenizer_from_json({'name': 'byte'})\n"
        "assert 'tokenizers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
