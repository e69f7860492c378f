"""Subwords lose no byte, whatever they are given; what would lose one is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import ConfigError, DataError
from sharnn.text import (
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from sharnn.text.alphabet import ALPHABET, to_bytes, to_characters
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


@given(kinds, texts)
def test_every_byte_comes_back(kind: str, data: bytes) -> None:
    tokenizer = TOKENIZERS[kind]
    assert b"".join(tokenizer.units(data)) == data
    tokens = tokenizer.encode(data)
    assert tokens.dtype == np.uint16
    assert tokenizer.decode(tokens) == data
    assert b"".join(tokenizer.token_bytes(int(t)) for t in tokens) == data


@given(kinds, texts, texts)
def test_a_text_may_be_cut_where_it_says(kind: str, data: bytes, more: bytes) -> None:
    """Also inside of words that are longer than a unit can be."""
    tokenizer = TOKENIZERS[kind]
    for whole in (data + more, data + b"a" * 150 + more):
        end = tokenizer.last_cut(whole)
        parts = [tokenizer.encode(whole[:end]), tokenizer.encode(whole[end:])]
        assert np.array_equal(np.concatenate(parts), tokenizer.encode(whole))
        assert not any(white in whole[end + 1 :] for white in b" \t\n\r\x0b\x0c")


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
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert tokenizer.encode_perturbed(unit, 0.5, rng).tolist() in ways


@given(kinds, texts, st.floats(0, 1), st.integers(0, 99))
def test_perturbed_tokens_say_the_same(kind: str, data: bytes, dropout: float, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode_perturbed(data, dropout, np.random.default_rng(seed))
    assert tokenizer.decode(tokens) == data
    again = tokenizer.encode_perturbed(data, dropout, np.random.default_rng(seed))
    assert np.array_equal(tokens, again)
    assert tokens.dtype == tokenizer.encode(data).dtype


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_goes_from_nothing_to_single_bytes(kind: str) -> None:
    tokenizer, whole = TOKENIZERS[kind], len(TOKENIZERS[kind].encode(TEXT))
    lengths = []
    for dropout in (0.0, 0.1, 0.5, 1.0):
        tokens = tokenizer.encode_perturbed(TEXT, dropout, np.random.default_rng(0))
        assert tokenizer.decode(tokens) == TEXT
        lengths.append(len(tokens))
    assert lengths == sorted(lengths)
    assert whole == lengths[0] < lengths[1]
    assert lengths[-1] == len(TEXT)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            tokenizer.encode_perturbed(TEXT, wrong, np.random.default_rng(0))


@given(kinds, texts)
def test_what_drops_nothing_is_what_the_library_does(kind: str, data: bytes) -> None:
    """The merges, the longest match and the best path that dropout is laid upon are the library's."""
    tokenizer = TOKENIZERS[kind]
    for unit in tokenizer.units(data):
        found, own = tokenizer.encode_unit(unit), tokenizer.perturb_unit(unit, lambda: False)
        if kind == "unigram":  # of two ways that are as good either will do
            scores = tokenizer._scores
            assert sum(scores[t] for t in own) == pytest.approx(sum(scores[t] for t in found))
        else:
            assert own == found


def test_a_merge_is_dropped_with_the_probability_that_was_given() -> None:
    """` the` is one token; with one merge in four given up, its first merge fails as often."""
    tokenizer = TOKENIZERS["bpe"]
    assert len(tokenizer.encode(b" t")) == 1
    tokens = tokenizer.encode_perturbed(b" t" * 4000, 0.25, np.random.default_rng(0))
    dropped = len(tokens) - 4000
    assert abs(dropped - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_the_cache_of_units_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharnn.text.unit_tokenizer._CACHE_BYTES", 5_000)
    tokenizer = tokenizer_from_json(TOKENIZERS["bpe"].to_json())
    for start in range(0, len(TEXT), 1000):
        data = TEXT[start : start + 1000]
        assert tokenizer.decode(tokenizer.encode(data)) == data
    assert len(tokenizer._cache) < len(set(tokenizer.units(TEXT))) / 2


# ------------------------------------------------------------------------------------------- files


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


# ----------------------------------------------------------------------------- files of the library


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


@given(st.binary())
def test_the_alphabet_has_a_character_for_every_byte(data: bytes) -> None:
    assert to_bytes(to_characters(data)) == data
    assert set(ALPHABET) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
