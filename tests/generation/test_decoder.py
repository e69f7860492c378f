"""The step path equals the forward pass, token by token, in logits and in state."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import know_ngrams, stir
from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.generation import kernel_step
from sharnn.generation.decoder import PREFILL_SEGMENT, ForwardDecoder, RingDecoder, make_decoder
from sharnn.generation.kernel_step import _Threads
from sharnn.model import LanguageModel

VOCAB = 11
KINDS = {
    "one": {},
    "all-residual": {"attention_layers": "all", "residual": True},
    "reads-next": {"attention_layers": "all", "residual": True, "reads_next": True},
    "ragged-boom": {},
    "window-0": {"window": 0},
    "lstm": {"architecture": "lstm", "window": None, "boom_dim": None},
    "lstm-residual": {"architecture": "lstm", "window": None, "boom_dim": None, "residual": True},
    "segment": {"reach": "segment"},
    "split-softmax": {"split_softmax": [3, 7]},
    "transformer": {"architecture": "transformer", "num_heads": 2},
    "n-grams": {"longest_ngram": 4, "ngram_rows": 60, "residual": True},
    "recall": {"recall_orders": [1, 3], "recall_slots": 256, "residual": True},
}


def make_model(kind: str, window: int = 5, dim: int = 8) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "embed_dim": dim, "num_layers": 3, "window": window}
    sizes["boom_dim"] = dim // 8 * (29 if kind == "ragged-boom" else 20)
    model = know_ngrams(LanguageModel(ModelConfig(**{**sizes, **KINDS[kind]}))).double().eval()
    return stir(model, 0.3 * (8 / dim) ** 0.5)


def needs_compiler(model: LanguageModel) -> None:
    if not kernel_step.available(torch.float32, torch.float32, model.device):
        assert shutil.which("g++") is None, "there is a compiler, but the kernel does not build"
        pytest.skip("no C++ compiler here")


@contextlib.contextmanager
def without_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_step, "available", lambda *_: False)
        yield


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transformer"])
@settings(max_examples=8)
@given(
    steps=st.integers(1, 25), lanes=st.sampled_from([1, 2, 4, 5]), window=st.integers(1, 9),
    reset=st.booleans(), dim=st.sampled_from([8, 40]),
)  # fmt: skip
@torch.no_grad()
def test_the_kernel_equals_the_chain_of_operations(
    kind: str, steps: int, lanes: int, window: int, reset: bool, dim: int
) -> None:
    """In every dtype of weights and memory, for widths with whole vectors and with cut ones."""
    model = make_model(kind, window, dim).float()
    needs_compiler(model)
    tokens = torch.randint(VOCAB, (lanes, 7 + steps))
    for dtype, memory_dtype in itertools.product(("fp32", "bf16", "int8"), repeat=2):
        kernel = RingDecoder(model, lanes, dtype, memory_dtype)
        with without_kernel():
            chain = RingDecoder(model, lanes, dtype, memory_dtype)
        assert (kernel._kernels is None, chain._kernels is None) == (False, True)
        state = ForwardDecoder(model, lanes)
        state.prefill(tokens[:, :7])
        for decoder in (kernel, chain):
            decoder.load(state.state().reset([0] if reset else []))
        for step in range(7, 7 + steps):
            ours, theirs = kernel.step(tokens[:, step]), chain.step(tokens[:, step])
        # What is rounded to few bits may fall to either side of a tie.
        limit = 1e-5 if dtype == memory_dtype == "fp32" else 0.05
        assert float((ours - theirs).norm() / theirs.norm()) < limit
        if dtype == memory_dtype == "fp32":
            left, right = kernel.state().to_tensors(), chain.state().to_tensors()
            for name in left:
                torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.05)])
@pytest.mark.parametrize("kind", ["one", "all-residual", "lstm", "ragged-boom"])
def test_reading_at_once_equals_steps(kind: str, dtype: str, limit: float) -> None:
    model = make_model(kind, window=9, dim=40).float()
    needs_compiler(model)
    tokens = torch.randint(VOCAB, (2, 30))
    at_once, stepping = RingDecoder(model, 2, dtype), RingDecoder(model, 2, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharnn.generation.decoder.PREFILL_SEGMENT", 11)
        ours = at_once.prefill(tokens)
    for token in tokens.unbind(1):
        theirs = stepping.step(token)
    assert float((ours - theirs).norm() / theirs.norm()) < limit
    left, right = at_once.state().to_tensors(), stepping.state().to_tensors()
    for name in left.keys() - {"layer0.lengths", "layer1.lengths", "layer2.lengths"}:
        assert float((left[name] - right[name]).norm() / right[name].norm()) < limit


def test_int8_reads_at_once_with_the_products_of_steps() -> None:
    model = make_model("lstm", dim=40).float()
    needs_compiler(model)
    tokens = torch.randint(VOCAB, (2, 70))
    at_once, stepping = RingDecoder(model, 2, "int8"), RingDecoder(model, 2, "int8")
    ours = at_once.prefill(tokens)
    for token in tokens.unbind(1):
        theirs = stepping.step(token)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["one", "lstm", "window-0"])
def test_the_number_of_threads_changes_no_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(kind, window=50, dim=40).float()
    needs_compiler(model)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(
            "sharnn.generation.kernel_step._Threads.run", lambda _, f, n=threads: f(n)
        )
        decoder = RingDecoder(model)
        results.append([decoder.step(torch.tensor([t % VOCAB])) for t in range(70)])
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_all_cores_or_one_fewer_are_tried_and_the_quicker_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    now = [0.0]
    monkeypatch.setattr("sharnn.generation.kernel_step.time.perf_counter", lambda: now[0])
    used = []

    def call(num_threads: int, cost: dict[int, float]) -> None:
        used.append(num_threads)
        now[0] += cost[num_threads]

    threads = _Threads()
    for cost, quicker in (({4: 1.0, 3: 2.0}, 4), ({4: 9.0, 3: 2.0}, 3), ({4: 1.0, 3: 2.0}, 4)):
        for _ in range(_Threads._PERIOD):
            threads.run(functools.partial(call, cost=cost))
        assert set(used[2 * _Threads._TRIAL :]) == {quicker}
        assert set(used) == {3, 4}
        used.clear()


@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.05)])
def test_fewer_bits_follow_the_forward_pass(dtype: str, limit: float) -> None:
    model = make_model("one", window=20, dim=64).float()
    tokens, decoder = torch.randint(VOCAB, (2, 12)), make_decoder(model, 2, dtype)
    with torch.no_grad():
        expected, _ = model(tokens, model.initial_state(2))
    for step in range(12):
        logits = decoder.step(tokens[:, step])
    assert logits.dtype == torch.float32
    assert float((logits - expected[:, -1]).norm() / expected[:, -1].norm()) < limit


def test_a_bfloat16_model_decodes_in_its_own_dtype() -> None:
    model = make_model("one").to(torch.bfloat16)
    tokens, decoder = torch.randint(VOCAB, (1, 12)), make_decoder(model)
    with torch.no_grad():
        expected, _ = model(tokens, model.initial_state(1))
    for step in range(12):
        logits = decoder.step(tokens[:, step])
    torch.testing.assert_close(logits, expected[:, -1].float(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("fast_bf16", [True, False])
@pytest.mark.parametrize("dtype", [None, "fp32", "bf16", "int8"])
@pytest.mark.parametrize("own", [torch.bfloat16, torch.float64])
def test_weights_of_every_dtype_read_a_prompt(
    own: torch.dtype, dtype: str | None, fast_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a model is kept in, and whether or not the hardware is quick in bf16."""
    monkeypatch.setattr("sharnn.generation.segments.has_fast_bf16", lambda device: fast_bf16)
    model = make_model("one", dim=40)
    tokens = torch.randint(VOCAB, (2, 12))
    with torch.no_grad():
        expected, _ = model(tokens, model.initial_state(2))
    logits = RingDecoder(model.to(own), 2, dtype).prefill(tokens).double()
    assert float((logits - expected[:, -1]).norm() / expected[:, -1].norm()) < 0.05


def test_state_survives_int8_rows_unchanged() -> None:
    """Rows that were rounded once round to themselves, so a session can be put away and go on."""
    decoder = make_decoder(make_model("one", dim=40).float(), 1, "int8", "int8")
    for token in range(9):
        decoder.step(torch.tensor([token]))
    again = make_decoder(decoder.model, 1, "int8", "int8")
    again.load(decoder.state())
    assert torch.equal(decoder.step(torch.tensor([3])), again.step(torch.tensor([3])))


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype 'int4' is unknown: give fp32, bf16 or int8"):
        make_decoder(make_model("one"), 1, "int4")
    with pytest.raises(ConfigError, match="a transformer decodes in its weights' own dtype"):
        make_decoder(make_model("transformer"), 1, None, "int8")


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
