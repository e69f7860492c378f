"""Texts: the same seed gives the same one, alone or together with others, and it can be shown."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from generation.sessions import ARCHITECTURES, make_session, text_of
from sharnn.config import ModelConfig
from sharnn.errors import ConfigError, DataError, StreamError
from sharnn.generation import Sampling, Session, generate, generate_together, kernel_step
from sharnn.model import LanguageModel
from sharnn.text import WordTokenizer

PROMPTS = ("", "The ", "a prompt that is a good deal longer than the window", "日本".encode()[:-1])


def make_sessions(dtype: str | None = None, **settings: object) -> list[Session]:
    first = make_session(**settings)
    sessions = [Session(first.model, first.tokenizer, dtype) for _ in PROMPTS]
    for session, prompt in zip(sessions, PROMPTS, strict=True):
        session.prefill(prompt)
    return sessions


def texts_of(sessions: Sequence[Session], seeds: Sequence[int], **options: object) -> list[bytes]:
    settings = {"sampling": Sampling(temperature=1.5), "max_bytes": 60, **options}
    texts, ended = [b""] * len(sessions), set()
    for index, piece in generate_together(sessions, seed=seeds, **settings):
        assert index not in ended
        texts[index] += piece
        if not piece:
            ended.add(index)
    assert ended == set(range(len(sessions)))
    return texts


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
    with pytest.raises(ConfigError, match="2 sessions and 1 seeds"):
        generate_together([session, session], Sampling(), 9, [0])
    with pytest.raises(ConfigError, match="no session was given"):
        generate_together([], Sampling(), 9, [])


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("max_bytes", [0, 1, 2, 60])
@pytest.mark.parametrize("settings", [*ARCHITECTURES, {"reach": "segment"}, {"window": 0}])
def test_texts_are_the_same_together_as_alone(
    settings: dict[str, object], max_bytes: int, raw: bool
) -> None:
    sessions = make_sessions(**settings)
    for seeds in ([0, 1, 2, 3], [7, 7, 7, 7]):
        options = {"max_bytes": max_bytes, "raw": raw}
        alone = [
            text_of(session, seed=seed, **options)
            for session, seed in zip(sessions, seeds, strict=True)
        ]
        assert texts_of(sessions, seeds, **options) == alone


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_each_text_ends_on_its_own(settings: dict[str, object]) -> None:
    """Stops end texts at different places, and a penalty looks at each text's own tokens."""
    sessions = make_sessions(**settings)
    options = {
        "sampling": Sampling(1.5, repetition_penalty=1.3),
        "stop": list(string.ascii_letters),
    }
    seeds = range(len(sessions))
    alone = [
        text_of(session, seed=seed, **options)
        for session, seed in zip(sessions, seeds, strict=True)
    ]
    assert len({len(text) for text in alone}) > 1
    assert texts_of(sessions, seeds, **options) == alone


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_forks_of_a_prompt_go_on_together(settings: dict[str, object]) -> None:
    session = make_session(**settings)
    session.prefill("once upon a time there was a window")
    alone = [text_of(session, seed=seed) for seed in range(3)]
    assert texts_of([session, session.fork(), session], range(3)) == alone
    assert len(set(alone)) == 3
    assert text_of(session, seed=0) == alone[0]  # the session stands where it stood


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_texts_of_fewer_bits_are_the_same_together(dtype: str) -> None:
    sessions = make_sessions(dtype)
    if not kernel_step.available(torch.float32, torch.float32, sessions[0].model.device):
        pytest.skip("without the kernel, a product's rounding depends on the number of lanes")
    alone = [text_of(session, seed=seed) for seed, session in enumerate(sessions)]
    assert texts_of(sessions, range(len(sessions))) == alone


def test_texts_step_together_and_those_that_end_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = make_sessions()
    lanes: list[int] = []
    step = type(sessions[0]._decoder).step
    monkeypatch.setattr(
        type(sessions[0]._decoder), "step", lambda d, t: lanes.append(len(t)) or step(d, t)
    )
    texts = texts_of(sessions, range(4), stop=["e", "\n", "0"])
    assert lanes[0] == len(sessions)
    assert lanes == sorted(lanes, reverse=True)
    assert len(set(lanes)) > 1
    assert len(lanes) < sum(map(len, texts))


def test_pieces_come_as_they_are_drawn() -> None:
    drawn = generate_together(make_sessions(), Sampling(), 9, range(4), raw=True)
    assert [index for index, _ in itertools.islice(drawn, 8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = make_sessions()
    monkeypatch.setattr("sharnn.generation.decoder.pack", None)
    texts_of(sessions, range(4))


def test_sessions_that_cannot_step_together_are_refused() -> None:
    session = make_session()
    model, tokenizer = session.model, session.tokenizer
    with pytest.raises(ConfigError, match="session 1 has another model than session 0: load"):
        generate_together([session, make_session()], Sampling(), 9, [0, 1])
    for options, message in (
        ({"dtype": "int8"}, "session 2 has dtype torch.int8 and session 0 has torch.float32"),
        ({"memory_dtype": "bf16"}, "session 2 has memory dtype torch.bfloat16"),
    ):
        other = Session(model, tokenizer, **options)
        with pytest.raises(ConfigError, match=message):
            generate_together([session, session, other.fork()], Sampling(), 9, [0, 1, 2])
    same = Session(model, tokenizer, "fp32", "fp32")
    assert texts_of([session, same], [0, 0]) == [text_of(session, seed=0)] * 2
    model.set_window(3)
    with pytest.raises(ConfigError, match="session 1 has window 3 and session 0 has 12"):
        generate_together([session, Session(model, tokenizer)], Sampling(), 9, [0, 1])


def test_a_damaged_model_is_told() -> None:
    session = make_session()
    torch.nn.init.constant_(session.model.embedding.weight, torch.nan)
    drawn = generate_together([session, session], Sampling(), 9, [0, 1])
    with pytest.raises(StreamError, match="largest logit is nan"):
        list(drawn)
