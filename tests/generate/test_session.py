"""Sessions: what was read is what counts, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sharnn.config import ModelConfig
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.generate import Sampling, Session, generate
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer, WordTokenizer

ARCHITECTURES = [{}, {"architecture": "lstm", "window": None}, {"architecture": "transformer"}]


def make_session(seed: int = 0, **settings: object) -> Session:
    torch.manual_seed(seed)
    config = ModelConfig(**{"embed_dim": 16, "num_layers": 2, "window": 12, **settings})
    model = LanguageModel(config).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1)  # far from uniform, so that texts depend on the prompt
    return Session(model, ByteTokenizer())


def text_of(session: Session, **options: object) -> bytes:
    settings = {"sampling": Sampling(temperature=1.5), "max_bytes": 60, "seed": 1, **options}
    return b"".join(generate(session, **settings))


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_same_seed_same_text_and_no_state_leaks(settings: dict[str, object]) -> None:
    session = make_session(**settings)
    session.prefill("The ")
    first = text_of(session)
    assert text_of(session) == first
    assert text_of(session, seed=2) != first
    other = make_session(**settings)
    other.prefill("something else entirely")
    text_of(other)
    other.reset()
    other.prefill("The ")
    assert text_of(other) == first


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_pieces_are_one_text(settings: dict[str, object]) -> None:
    """Prefill in any parts, and step by step, give the same next token."""
    text = "a prompt that is a good deal longer than the window of twelve rows"
    whole, parts, steps = (make_session(**settings) for _ in range(3))
    whole.prefill(text)
    parts.prefill(text[:20])
    parts.prefill("")
    parts.prefill(text[20:].encode())
    for byte in text.encode():
        steps.step(byte)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(steps.logits, whole.logits, rtol=1e-4, atol=1e-4)
    assert whole.num_tokens == steps.num_tokens == len(text)


@pytest.mark.parametrize("max_bytes", [0, 1, 2, 3, 50])
def test_an_untrained_model_writes_valid_utf8(max_bytes: int) -> None:
    for seed in range(5):
        session = make_session(seed)
        text = text_of(session, max_bytes=max_bytes, seed=seed)
        assert len(text) <= max_bytes
        text.decode()


def test_a_prompt_that_ends_inside_a_character_is_finished() -> None:
    session = make_session()
    prompt = "日本".encode()[:-1]
    session.prefill(prompt)
    (prompt + text_of(session)).decode()
    assert text_of(session, max_bytes=0) == b""


def test_raw_writes_any_byte() -> None:
    text = text_of(make_session(), raw=True, max_bytes=300)
    assert len(text) == 300
    with pytest.raises(UnicodeDecodeError):
        text.decode()


def test_stop_ends_the_text() -> None:
    session = make_session()
    whole = text_of(session, sampling=Sampling(temperature=0.5)).decode()
    stop = whole[10:12]
    cut = text_of(session, sampling=Sampling(temperature=0.5), stop=[stop]).decode()
    assert cut == whole[: whole.index(stop)]


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_a_saved_session_goes_on(tmp_path: Path, settings: dict[str, object]) -> None:
    session = make_session(**settings)
    session.prefill("once upon a time there was a window")
    session.save(tmp_path / "session")
    loaded = Session.load(tmp_path / "session", session.model, session.tokenizer)
    penalised = Sampling(temperature=1.5, repetition_penalty=1.3)
    assert text_of(loaded, sampling=penalised) == text_of(session, sampling=penalised)
    assert loaded.num_tokens == session.num_tokens


def test_a_damaged_or_foreign_session_is_told(tmp_path: Path) -> None:
    session, folder = make_session(), tmp_path / "session"
    session.save(folder)
    with pytest.raises(CheckpointError, match="another model"):
        Session.load(folder, make_session(seed=9).model, session.tokenizer)
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="truncated or was altered"):
        Session.load(folder, session.model, session.tokenizer)
    (folder / "session.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"session\.json"):
        Session.load(folder, session.model, session.tokenizer)


def test_words() -> None:
    tokenizer = WordTokenizer(["<eos>", "the", "cat", "sat"])
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=4, embed_dim=16, window=8)).eval()
    session = Session(model, tokenizer)
    session.prefill(" the cat \n")
    text = text_of(session, max_bytes=40)
    assert 0 < len(text) <= 40
    assert set(text.split()) <= {b"the", b"cat", b"sat"}
    with pytest.raises(DataError, match="'dog' is not in the vocabulary"):
        session.prefill(" the dog \n")
    with pytest.raises(ConfigError, match="max_bytes is -1"):
        text_of(session, max_bytes=-1)


class PieceTokenizer:
    """Tokens of no byte, of half a character, of many: what a subword vocabulary may hold."""

    name = "pieces"
    pieces = (b"", b"a", "é".encode()[:1], "é".encode()[1:], "日本".encode(), b"\xff")
    vocab_size, start_token = len(pieces), 1

    def encode(self, data: bytes) -> npt.NDArray[np.uint8]:
        return np.array([self.pieces.index(data)], dtype=np.uint8)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        return b"".join(self.pieces[token] for token in tokens)

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.mark.parametrize("max_bytes", [0, 1, 5, 40])
def test_other_tokenizers_write_whole_characters(max_bytes: int) -> None:
    torch.manual_seed(0)
    tokenizer = PieceTokenizer()
    model = LanguageModel(ModelConfig(vocab_size=6, embed_dim=16, window=8)).eval()
    session = Session(model, tokenizer)
    session.prefill("é".encode()[:1])
    for seed in range(8):
        options = {"session": session, "max_bytes": max_bytes, "seed": seed}
        text = text_of(**options)
        assert len(text) <= max_bytes
        continues = text.startswith("é".encode()[1:])
        (("é".encode()[:1] if continues else b"") + text).decode()
        assert len(text_of(**options, raw=True)) <= max_bytes


def test_a_text_begins_where_the_session_stands_when_asked() -> None:
    session = make_session()
    session.prefill("The ")
    expected, late = text_of(session), generate(session, Sampling(temperature=1.5), 60, 1)
    session.prefill("something else")
    session.reset()
    assert b"".join(late) == expected


def test_wrong_calls_are_told_before_anything_is_drawn() -> None:
    session = make_session()
    with pytest.raises(ConfigError, match="seed is -1"):
        generate(session, Sampling(), 9, seed=-1)
    with pytest.raises(ConfigError, match="stop string is empty"):
        generate(session, Sampling(), 9, stop=[""])
    with pytest.raises(ConfigError, match="token 256 is outside"):
        session.step(256)
    with pytest.raises(ConfigError, match="3 tokens and the model 256"):
        Session(session.model, WordTokenizer(["<eos>", "the", "cat"]))
    with pytest.raises(ConfigError, match="training mode"):
        Session(session.model.train(), session.tokenizer)


def test_saving_replaces_sessions_and_nothing_else(tmp_path: Path) -> None:
    session = make_session()
    session.save(tmp_path / "session")
    session.prefill("more")
    session.save(str(tmp_path / "session"))
    loaded = Session.load(tmp_path / "session", session.model, session.tokenizer)
    assert torch.equal(loaded.logits, session.logits)
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="is no session"):
        session.save(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"history": "abc"}, "no list of tokens"),
        ({"num_tokens": None}, "was altered"),
        ({"tokenizer": "0" * 64}, "another tokenizer"),
        ({"state": "0" * 64}, "truncated or was altered"),
    ],
)
def test_altered_facts_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    session, folder = make_session(), tmp_path / "session"
    session.save(folder)
    facts = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(CheckpointError, match=message):
        Session.load(folder, session.model, session.tokenizer)
