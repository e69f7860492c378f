"""Subwords lose no byte, whatever they are given; what would lose one is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given

from sharnn.errors import DataError
from sharnn.text import (
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from sharnn.text.alphabet import ALPHABET
from text.subwords import KINDS, TEXT, TOKENIZERS, kinds, texts


@given(kinds, texts)
def test_every_byte_comes_back(kind: str, data: bytes) -> None:
    tokenizer = TOKENIZERS[kind]
    assert b"".join(tokenizer.units(data)) == data
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.uint16
    assert tokenizer.decode(tokens) == data
    assert b"".join(tokenizer.token_bytes(int(t)) for t in tokens) == data


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_stands_in_every_place(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    for byte in range(256):
        for data in (bytes([byte]), bytes([byte]) * 3, b" a" + bytes([byte]), bytes([byte]) + b"e"):
            assert tokenizer.decode(tokenizer.encode(data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_units_keep_to_words(kind: str) -> None:
    units = TOKENIZERS[kind].units(b"The cat, it's 40  cats\xc3\xa9 \n\t" + b"x" * 130)
    first = [b"The", b" cat", b",", b" it", b"'", b"s", b" 40", b" ", b" cats\xc3\xa9", b" ", b"\n"]
    assert units == [*first, b"\t", b"x" * 64, b"x" * 64, b"xx"]


def segmentations(tokenizer: SubwordTokenizer, unit: bytes, start: int = 0) -> Iterable[list[int]]:
    """Yield all ways to spell a unit in pieces."""
    if start == len(unit):
        yield []
    for stop in range(start + 1, len(unit) + 1):
        token = (tokenizer.continuing if start else tokenizer.pieces).get(unit[start:stop])
        if token is not None:
            for rest in segmentations(tokenizer, unit, stop):
                yield [token, *rest]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [b" statement", b" the", b"\xff\xfe", b"__", b"\n"])
def test_a_units_tokens_are_one_way_to_spell_it(kind: str, unit: bytes) -> None:
    tokenizer = TOKENIZERS[kind]
    ways = list(segmentations(tokenizer, unit))
    assert tokenizer.encode(unit).tolist() in ways
    assert all(tokenizer.decode(way) == unit for way in ways)


@pytest.mark.parametrize("kind", KINDS)
def test_files(kind: str, tmp_path: Path) -> None:
    tokenizer, path = TOKENIZERS[kind], tmp_path / "tokenizer.json"
    assert isinstance(tokenizer, Tokenizer)
    save_tokenizer(tokenizer, path)
    again = load_tokenizer(path)
    assert isinstance(again, SubwordTokenizer)
    assert (again.kind, again.to_json()) == (kind, tokenizer.to_json())
    data = TEXT + bytes(range(256))
    assert np.array_equal(again.encode(data), tokenizer.encode(data))
    save_tokenizer(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def without(key: str, model: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in model.items() if k != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: without("vocab", m), "vocab"),
        (lambda m: {**m, "type": "WordLevel"}, "WordLevel"),
        (lambda m: {**m, "dropout": 0.1}, "dropout 0.1"),
        (lambda m: {**m, "end_of_word_suffix": "</w>"}, "end_of_word_suffix '</w>'"),
        (lambda m: {**m, "continuing_subword_prefix": "##"}, "continuing_subword_prefix '##'"),
        (lambda m: {**m, "vocab": {**m["vocab"], "x y": 600}}, "'x y' represents no bytes"),
        (lambda m: {**m, "vocab": {**m["vocab"], "": 600}}, "'' represents no bytes"),
        (lambda m: {**m, "vocab": {**m["vocab"], "xyz": 700}}, "700 is number 600"),
        (lambda m: {**m, "merges": [["q", "7x"]]}, "tokenizer.json is damaged"),
        (
            lambda m: {**m, "vocab": {**without("A", m["vocab"]), "xyzzy": m["vocab"]["A"]}},
            r"the first is 0x41 \(b'A'\) at offset 65",
        ),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, damage: Any, message: str) -> None:
    values = TOKENIZERS["bpe"].to_json()
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**values, "model": damage(values["model"])}))
    with pytest.raises(DataError, match=message):
        load_tokenizer(path)


def test_another_rule_of_units_is_told() -> None:
    with pytest.raises(DataError, match="another rule"):
        tokenizer_from_json({**TOKENIZERS["bpe"].to_json(), "units": "."})


def library_tokenizer(normalizer: Any = None, prefix_space: bool = False) -> tokenizers.Tokenizer:
    """Return a byte-level tokenizer such as GPT-2's, trained as the library does it."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=ALPHABET,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator([TEXT.decode()], trainer)
    return made


def test_a_file_of_the_library_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    original = library_tokenizer()
    original.save(str(path))
    tokenizer = SubwordTokenizer.from_library_file(path)
    assert tokenizer.vocab_size == original.get_vocab_size() == 500
    for text in ("the quick brown fox", "def statement(name): return 42"):
        assert tokenizer.encode(text.encode()).tolist() == original.encode(text).ids
    data = bytes(range(256)) + TEXT
    assert tokenizer.decode(tokenizer.encode(data)) == data
    with pytest.raises(DataError, match="sharnn tokenizer import"):
        load_tokenizer(path)


def test_files_of_the_library_that_lose_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    normalizers, pre_tokenizers = tokenizers.normalizers, tokenizers.pre_tokenizers
    for normalizer, byte, offset in (
        (normalizers.Lowercase(), "0x54 .b'T'.", 0),
        (normalizers.NFC(), "0x65 .b'e'.", 21),
        (normalizers.Strip(), "0x20", 70),
    ):
        library_tokenizer(normalizer).save(str(path))
        with pytest.raises(DataError, match=f"first is {byte}.* at offset {offset} "):
            SubwordTokenizer.from_library_file(path)
    library_tokenizer(prefix_space=True).save(str(path))
    with pytest.raises(DataError, match="offset 0 "):
        SubwordTokenizer.from_library_file(path)
    words = tokenizers.models.WordPiece({"[UNK]": 0, "the": 1, "##s": 2}, unk_token="[UNK]")
    unknown = tokenizers.Tokenizer(words)
    unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    unknown.decoder = tokenizers.decoders.WordPiece()
    unknown.save(str(path))
    with pytest.raises(DataError, match=r"the first is 0x54 \(b'T'\) at offset 0"):
        SubwordTokenizer.from_library_file(path)
    path.write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match="is not a tokenizer of the library"):
        SubwordTokenizer.from_library_file(path)


def test_a_library_that_drops_one_character_is_found_out(tmp_path: Path) -> None:
    """A vocabulary without `é`'s second byte, which no check of ASCII would notice."""
    path = tmp_path / "tokenizer.json"
    library_tokenizer().save(str(path))
    values = json.loads(path.read_text())
    lost = ALPHABET[0xA9]
    vocab = {t: i for t, i in values["model"]["vocab"].items() if lost not in t}
    values["model"]["vocab"] = {token: i for i, token in enumerate(vocab)}
    values["model"]["merges"] = [m for m in values["model"]["merges"] if lost not in "".join(m)]
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"the first is 0xc3|the first is 0xa9"):
        SubwordTokenizer.from_library_file(path)
