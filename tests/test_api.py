"""Texts in and out: each method agrees with the parts that it is made of."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import sharnn
from models import write_model
from sharnn.errors import ConfigError, DataError

TEXT = "the cat sat on the mat, the cat sat on the mät"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> sharnn.Model:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, residual=True, recall_orders=[2], longest_ngram=3, ngram_rows=64)
    return sharnn.load_model(folder)


def test_the_bits_of_tokens_add_up_to_the_score(model: sharnn.Model) -> None:
    text = 30 * TEXT
    score = model.evaluate(text)
    assert score.num_bytes == len(text.encode())
    assert score.num_chars == len(text)
    bits = model.bits(text)
    assert bits.shape == (score.num_tokens,)
    assert bits.double().sum().item() / score.num_bytes == pytest.approx(
        score.bits_per_byte, rel=1e-5
    )
    assert model.evaluate(text.encode()).nats == score.nats


def test_dropout_is_off_whatever_the_mode(tmp_path: Path) -> None:
    write_model(tmp_path / "model", hidden_dropout=0.5)
    model = sharnn.load_model(tmp_path / "model")
    bits, hidden = model.bits(TEXT), model.hidden(TEXT)
    model.model.train()
    assert torch.equal(model.bits(TEXT), bits)
    assert torch.equal(model.hidden(TEXT), hidden)
    assert model.model.training


def test_the_last_token_had_its_probability(model: sharnn.Model) -> None:
    found = dict(model.top_k(TEXT[:-2], k=256))
    assert sum(found.values()) == pytest.approx(1, abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    last = TEXT[:-1].encode()[-2:-1]  # the byte that follows TEXT[:-2]
    bits = model.bits(TEXT)[len(TEXT[:-2].encode())].item()
    assert found[last] == pytest.approx(2**-bits, rel=1e-3)
    assert len(model.top_k(k=3)) == 3


def test_hidden_rows_make_the_logits(model: sharnn.Model) -> None:
    rows = model.hidden(TEXT)
    assert rows.shape == (len(TEXT.encode()), model.config.embed_dim)
    network = model.model
    logits = network.softmax.logits(rows[None, -1:], network.embedding.weight)[0, 0]
    session = model.session()
    torch.testing.assert_close(session.prefill(TEXT), logits, atol=1e-4, rtol=1e-4)


def test_prompts_together_get_what_each_gets_alone(model: sharnn.Model) -> None:
    prompts = ["the cat", "", "on thé"]
    together = model.generate(prompts, 40, seed=3)
    assert together == [model.generate(prompt, 40, seed=3) for prompt in prompts]
    other = model.generate(prompts, 40, seed=[3, 4, 5])
    assert other[0] == together[0]
    assert other[1:] != together[1:]
    assert model.generate([]) == []
    assert model.generate(b"the cat", 40, seed=3) == together[0]
    greedy = sharnn.Sampling(temperature=0)
    assert model.generate("a", 9, sampling=greedy) == model.generate(
        "a", 9, seed=7, sampling=greedy
    )
    with pytest.raises(ConfigError, match="3 sessions and 2 seeds"):
        model.generate(prompts, seed=[1, 2])


def test_sessions_are_independent_and_share_packed_weights(
    model: sharnn.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = model.session(), model.session()
    first.prefill("abc")
    assert second.num_tokens == 0
    assert torch.equal(second.logits, model.session().logits)
    model.session("int8")

    def packs(*_: object, **__: object) -> None:
        raise AssertionError("the weights were packed again")

    monkeypatch.setattr("sharnn.generation.session.make_decoder", packs)
    for dtype in (None, "int8"):
        assert model.session(dtype).num_tokens == 0


def test_changed_weights_are_packed_again(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = sharnn.load_model(tmp_path / "model")
    before = model.top_k("abc", 3)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(1.5)
    model.save(tmp_path / "changed")
    changed = sharnn.load_model(tmp_path / "changed")
    assert model.top_k("abc", 3) == changed.top_k("abc", 3) != before
    assert model.generate("abc", 20) == changed.generate("abc", 20)


def test_what_is_no_text_is_refused(model: sharnn.Model) -> None:
    for method in (model.bits, model.hidden, model.evaluate, model.top_k):
        with pytest.raises(ConfigError, match="3 is no text"):
            method(3)
        with pytest.raises(DataError, match="not valid Unicode"):
            method("\ud800")
    with pytest.raises(ConfigError, match="97 is no text"):
        model.generate([97])
    with pytest.raises(ConfigError, match="k is -1"):
        model.top_k(k=-1)
    assert model.evaluate(memoryview(b"abc")).nats == model.evaluate("abc").nats


def test_one_stop_string_is_one(model: sharnn.Model) -> None:
    text = model.generate("the cat", 60, seed=1)
    assert model.generate("the cat", 60, seed=1, stop=text[5:8]) == text[: text.index(text[5:8])]


def test_a_changed_window_makes_other_sessions(tmp_path: Path) -> None:
    write_model(tmp_path / "model", window=16)
    model = sharnn.load_model(tmp_path / "model")
    text = 3 * TEXT
    wide = model.session().prefill(text)
    model.model.set_window(2)
    assert not torch.allclose(model.session().prefill(text), wide)
    assert model.evaluate(text, window=16).nats != model.evaluate(text).nats


def test_what_people_try_first(model: sharnn.Model, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = torch.from_numpy(model.tokenizer.encode("abc"))[None]
    assert model.tokenizer.decode([97, 98, 99]) == b"abc"
    logits, _ = model.model(tokens)
    again, _ = model.model(tokens, model.model.initial_state(1))
    assert torch.equal(logits, again)
    model.save(str(tmp_path / "out"), dtype="int8")
    sharnn.save_model(str(tmp_path / "bare"), model.model, model.tokenizer)
    assert sharnn.load_model(tmp_path / "bare").card == {}
    for empty in ("", b""):
        for method in (model.bits, model.hidden, model.evaluate):
            with pytest.raises(DataError, match="empty"):
                method(empty)
