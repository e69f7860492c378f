"""The step path equals the forward pass, token by token, in logits and in state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharnn.config import ModelConfig
from sharnn.generate.decoder import (
    PREFILL_SEGMENT,
    ForwardDecoder,
    RingDecoder,
    _Matrix,
    make_decoder,
)
from sharnn.model import LanguageModel

VOCAB = 11
KINDS = {
    "one": {},
    "all-residual": {"attention_layers": "all", "residual": True},
    "ragged-boom": {"boom_dim": 29},
    "window-0": {"window": 0},
    "lstm": {"architecture": "lstm", "window": None, "boom_dim": None},
    "lstm-residual": {"architecture": "lstm", "window": None, "boom_dim": None, "residual": True},
    "segment": {"reach": "segment"},
    "split-softmax": {"split_softmax": [3, 7]},
    "transformer": {"architecture": "transformer", "num_heads": 2},
}


def make_model(kind: str, window: int = 5) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "embed_dim": 8, "num_layers": 3, "boom_dim": 20, "window": window}
    model = LanguageModel(ModelConfig(**{**sizes, **KINDS[kind]})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    prompt=st.integers(0, 14), steps=st.integers(1, 25), lanes=st.integers(1, 3),
    window=st.integers(1, 9), reset=st.booleans(),
)  # fmt: skip
@torch.no_grad()
def test_steps_equal_forward(
    kind: str, prompt: int, steps: int, lanes: int, window: int, reset: bool
) -> None:
    model = make_model(kind, window)
    tokens = torch.randint(VOCAB, (lanes, prompt + steps))
    decoder, state = make_decoder(model, lanes), model.initial_state(lanes)
    if prompt:
        logits, state = model(tokens[:, :prompt], state)
        torch.testing.assert_close(decoder.prefill(tokens[:, :prompt]), logits[:, -1])
    if reset:  # lanes whose memories have other lengths
        state = state.reset([0])
        decoder.load(state)
    for step in range(prompt, prompt + steps):
        logits, state = model(tokens[:, step : step + 1], state)
        ours = decoder.step(tokens[:, step])
        torch.testing.assert_close(ours, logits[:, 0], rtol=1e-9, atol=1e-11)
    left, right = decoder.state().to_tensors(), state.to_tensors()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["one", "transformer"])
def test_forks_go_their_own_ways(kind: str) -> None:
    decoder = make_decoder(make_model(kind), 1)
    decoder.prefill(torch.randint(VOCAB, (1, 9)))
    fork, again = decoder.fork(), decoder.fork()
    expected = [fork.step(torch.tensor([t])) for t in (1, 2, 3)]
    decoder.step(torch.tensor([7]))
    for token, logits in zip((1, 2, 3), expected, strict=True):
        assert torch.equal(again.step(torch.tensor([token])), logits)


def test_what_is_handed_out_is_the_callers() -> None:
    decoder = make_decoder(make_model("one"), 2)
    logits = decoder.step(torch.tensor([1, 2]))
    before = {name: tensor.clone() for name, tensor in decoder.state().to_tensors().items()}
    logits.fill_(0)
    for tensor in decoder.state().to_tensors().values():
        tensor.zero_()
    for name, tensor in decoder.state().to_tensors().items():
        assert torch.equal(tensor, before[name])
    nats, _ = decoder.model.nats(torch.ones(2, 3), torch.ones(2, 3), decoder.state())
    nats.mean().backward()  # the state is no inference tensor


def test_large_matrices_read_in_halves_give_the_same() -> None:
    torch.manual_seed(0)
    matrix = _Matrix(torch.randn(1024, 1026), torch.randn(1024))
    assert matrix._halved
    x_BD = torch.randn(3, 1026)
    expected = torch.nn.functional.linear(x_BD, matrix.weight, matrix.bias)
    torch.testing.assert_close(matrix(x_BD), expected)
    torch.testing.assert_close(matrix(x_BD[1:2]), expected[1:2], rtol=1e-4, atol=1e-3)
    assert not _Matrix(torch.randn(1023, 1026), torch.randn(1023))._halved


def test_a_step_leaves_the_number_of_threads_as_it_was() -> None:
    decoder, before = make_decoder(make_model("one")), torch.get_num_threads()
    decoder.step(torch.tensor([1]))
    assert torch.get_num_threads() == before


def test_bfloat16_steps_follow_the_forward_pass() -> None:
    model = make_model("one").to(torch.bfloat16)
    tokens, decoder = torch.randint(VOCAB, (1, 12)), make_decoder(model)
    with torch.no_grad():
        expected, _ = model(tokens, model.initial_state(1))
    for step in range(12):
        logits = decoder.step(tokens[:, step])
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, expected[:, -1], rtol=0.1, atol=0.1)


def test_loading_changes_the_lanes() -> None:
    model, tokens = make_model("one"), torch.randint(VOCAB, (2, 9))
    decoder = make_decoder(model, 2)
    decoder.prefill(tokens)
    decoder.load(decoder.state().select([1, 0, 1]))
    with torch.no_grad():
        _, state = model(tokens[[1, 0, 1]], model.initial_state(3))
        expected, _ = model(torch.tensor([[1], [2], [3]]), state)
    ours = decoder.step(torch.tensor([1, 2, 3]))
    torch.testing.assert_close(ours, expected[:, 0], rtol=1e-9, atol=1e-11)


def test_memory_does_not_grow() -> None:
    decoder = make_decoder(make_model("one", window=6), 1)
    ring = next(ring for ring in decoder._rings if ring is not None)
    storage = ring.rows.data_ptr(), ring.rows.shape
    for token in range(50):
        decoder.step(torch.tensor([token % VOCAB]))
    assert (ring.rows.data_ptr(), ring.rows.shape) == storage


def test_long_prompts_are_read_in_segments() -> None:
    model = make_model("one", window=40)
    tokens = torch.randint(VOCAB, (1, 2 * PREFILL_SEGMENT + 17))
    with torch.no_grad():
        logits, _ = model(tokens, model.initial_state(1))
    ours = RingDecoder(model).prefill(tokens)
    torch.testing.assert_close(ours, logits[:, -1], rtol=1e-8, atol=1e-10)
    assert isinstance(make_decoder(make_model("transformer")), ForwardDecoder)
