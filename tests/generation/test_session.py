"""Sessions: what was read is what counts, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from generation.sessions import ARCHITECTURES, make_session, text_of
from sharnn.checkpoint.format import load_tensors, save_tensors
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import sha256_of_file
from sharnn.generation import Sampling, Session
from sharnn.generation.session import _digest_of_model, join_decoders
from sharnn.text import ByteTokenizer, WordTokenizer


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


@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_a_saved_session_goes_on(tmp_path: Path, settings: dict[str, object]) -> None:
    session = make_session(**settings)
    session.prefill("once upon a time there was a window")
    session.save(tmp_path / "session")
    loaded = Session.load(tmp_path / "session", session.model, session.tokenizer)
    penalised = Sampling(temperature=1.5, repetition_penalty=1.3)
    assert text_of(loaded, sampling=penalised) == text_of(session, sampling=penalised)
    assert loaded.num_tokens == session.num_tokens


def test_a_session_keeps_the_window_that_it_began_with() -> None:
    session = make_session(window=40)
    session.prefill("once upon a time there was a window, " * 3)
    session.model.set_window(8)
    prompted, stepped = session.fork(), session.fork()
    text = "and it was forty rows"
    prompted.prefill(text)
    for token in text.encode():
        stepped.step(token)
    torch.testing.assert_close(prompted.logits, stepped.logits, rtol=1e-4, atol=1e-4)
    assert session.model.state_bytes() < make_session(window=40).model.state_bytes()


def test_what_a_session_began_with_comes_back(tmp_path: Path) -> None:
    model, tokenizer = make_session(window=40, recall_orders=[2]).model, ByteTokenizer()
    session = Session(model, tokenizer, "bf16", "fp32")
    session.prefill("once upon a time")
    session.save(tmp_path / "session")
    model.set_window(8)
    model.set_recall_slots(512)
    loaded = Session.load(tmp_path / "session", model, tokenizer)
    for one in (session, loaded):
        one.prefill("there was a window of forty rows")
    assert torch.equal(loaded.logits, session.logits)
    model.set_window(40)
    with pytest.raises(ConfigError, match="has recall slots 512 and session 0 has"):
        join_decoders([session, Session(model, tokenizer, "bf16", "fp32")])


@pytest.mark.parametrize("name", ["slots", "recent", "logits", "layer0.hidden", "layer0.memory"])
@pytest.mark.parametrize("change", ["drop", "cut", "enlarge"])
def test_an_altered_state_never_reaches_a_kernel(tmp_path: Path, name: str, change: str) -> None:
    session, folder = make_session(recall_orders=[2]), tmp_path / "session"
    session.prefill("once upon a time there was a window of twelve rows")
    session.save(folder)
    state = folder / "state.safetensors"
    tensors = load_tensors(state, torch.device("cpu"))
    if change == "drop":
        del tensors[name]
    elif change == "cut":
        tensors[name] = tensors[name][..., :-1].contiguous()
    elif tensors[name].is_floating_point():
        tensors[name] = torch.cat([tensors[name]] * 2, dim=-1)
    else:
        tensors[name] = torch.full_like(tensors[name], 10**9)
    save_tensors(state, tensors)
    facts = json.loads((folder / "session.json").read_text())
    facts["state"] = sha256_of_file(state)
    (folder / "session.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="its state is not one of this model"):
        Session.load(folder, session.model, session.tokenizer)


def test_a_session_of_the_first_format_is_read(tmp_path: Path) -> None:
    session, folder = make_session(recall_orders=[2]), tmp_path / "session"
    session.prefill("once")
    session.save(folder)
    facts = json.loads((folder / "session.json").read_text())
    del facts["settings"]
    facts |= {"format": 1, "model": _digest_of_model(session.model, with_slots=True)}
    (folder / "session.json").write_text(json.dumps(facts))
    loaded = Session.load(folder, session.model, session.tokenizer)
    assert torch.equal(loaded.logits, session.logits)


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


def test_wrong_calls_are_told() -> None:
    session = make_session()
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
    with pytest.raises(CheckpointError, match="is not a session"):
        session.save(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"history": "abc"}, "not a list of tokens"),
        ({"num_tokens": None}, "was altered"),
        ({"settings": {"window": 3}}, "its settings are not"),
        ({"settings": None}, "its settings are not"),
        ({"num_tokens": -1}, "was altered"),
        ({"history": [300]}, "its state is not one of this model"),
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
