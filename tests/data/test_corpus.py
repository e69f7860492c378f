"""A prepared corpus is what its manifest says, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharnn.data.corpus import SPLITS, Corpus
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from texts import write_text

Manifest = dict[str, Any]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "cache"))
    return prepare([str(write_text(tmp_path, 3000))])


def test_splits_are_parts_of_one_read_only_map(corpus: Corpus) -> None:
    opened = Corpus.open(corpus.folder)
    parts = [opened.split(name) for name in SPLITS]
    whole = opened.split("all")
    assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    for count in ("num_tokens", "num_bytes", "num_chars"):
        assert getattr(whole, count) == sum(getattr(part, count) for part in parts)
    assert isinstance(whole.tokens, np.memmap)
    assert not whole.tokens.flags.writeable
    with pytest.raises(ConfigError, match=r"no split 'tset' \(did you mean 'test'\?\): train, va"):
        opened.split("tset")


def test_a_part_of_a_split_counts_what_it_holds(corpus: Corpus) -> None:
    split = corpus.split("train")
    part = split.part(corpus.tokenizer, 100, 350)
    text = corpus.tokenizer.decode(split.tokens[100:350])
    assert (part.num_tokens, part.num_bytes) == (250, len(text))
    assert part.num_words == len(text.split())
    assert split.part(corpus.tokenizer, 2_600, 9_999).num_tokens == split.num_tokens - 2_600


def set_in_train(key: str, value: object) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["splits"]["train"].update({key: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.update(format=1), "has format 1, this version reads"),
        (lambda m: m.pop("format"), "has format None"),
        (lambda m: m.pop("digest"), "is damaged"),
        (lambda m: m.pop("tokenizer_sha256"), "is damaged"),
        (lambda m: m.update(splits=[1]), "is damaged"),
        (lambda m: m["splits"].pop("valid"), "is damaged"),
        (lambda m: m.update(dtype="float99"), "is damaged"),
        (lambda m: m.update(dtype="uint16"), "is damaged"),
        (set_in_train("num_tokens", "many"), "is damaged"),
        (set_in_train("num_tokens", -5), "is damaged"),
        (set_in_train("offset", 1), "is damaged"),
        (set_in_train("sha256", None), "is damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(
    corpus: Corpus, damage: Callable[[Manifest], object], message: str
) -> None:
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    damage(manifest)
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=rf"manifest\.json {message}.*remove the folder"):
        Corpus.open(corpus.folder)
    assert Corpus.find(corpus.digest) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, r"cannot read .*manifest\.json: no such file"),
        ("manifest.json", b'{"format": ', r"manifest\.json is not valid JSON"),
        ("manifest.json", b"[]", r"manifest\.json has format None"),
        ("tokens.bin", None, r"tokens\.bin has None bytes, manifest\.json says 3000"),
        ("tokens.bin", b"short", r"tokens\.bin has 5 bytes"),
        ("tokenizer.json", None, r"cannot read .*tokenizer\.json"),
        ("tokenizer.json", b'{"name": "byte"} ', r"tokenizer\.json is not the tokenizer that"),
        ("tokenizer.json", b'{"name": "runes"}', r"tokenizer\.json has no known kind"),
    ],
)
def test_a_lost_or_changed_file_is_told(
    corpus: Corpus, name: str, content: bytes | None, message: str
) -> None:
    path = corpus.folder / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        Corpus.open(corpus.folder)


def test_a_bit_that_fell_over_is_found(corpus: Corpus) -> None:
    corpus.verify()
    tokens = bytearray((corpus.folder / "tokens.bin").read_bytes())
    tokens[2800] ^= 1
    (corpus.folder / "tokens.bin").write_bytes(tokens)
    with pytest.raises(DataError, match=r"tokens\.bin: the split 'valid' was altered"):
        Corpus.open(corpus.folder).verify()


def test_a_token_that_does_not_exist_is_found(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(b" a b \n" * 50)
    words = prepare([str(path)], tokenizer="word")
    (words.folder / "tokens.bin").write_bytes(bytes([3]) * words.split("all").num_tokens)
    with pytest.raises(DataError, match="'train' was altered"):
        Corpus.open(words.folder).verify()
