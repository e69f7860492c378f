"""What the kernel looks up for a step is what the model's own embedding is."""

from __future__ import annotations

import shutil

import pytest
import torch

from models import make_model, stir
from sharnn.generation import kernel_embed
from sharnn.generation.kernel_embed import KernelEmbedding
from sharnn.model import LanguageModel

VOCAB, LANES = 11, 3
KINDS = {
    "both": {
        "longest_ngram": 4,
        "ngram_rows": 200,
        "recall_orders": [3, 1, 7],
        "recall_slots": 256,
    },
    "n-grams look back further": {"longest_ngram": 6, "recall_orders": [2], "recall_slots": 256},
    "n-grams": {"longest_ngram": 3, "ngram_rows": 60},
    "recall": {"recall_orders": [2, 1], "recall_slots": 256},
}


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = stir(make_model(vocab_size=VOCAB, residual=True, **KINDS[kind]).eval()).to(dtype)
    if not kernel_embed.available(model):
        assert shutil.which("g++") is None, "there is a compiler, but the kernel does not build"
        pytest.skip("no C++ compiler here")
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@torch.no_grad()
def test_the_kernel_embeds_as_the_model_does(kind: str, dtype: torch.dtype, limit: float) -> None:
    model = model_of(kind, dtype)
    kernel, state = KernelEmbedding(model), model.initial_state(LANES)
    recent, slots = state.recent, state.slots
    ours_recent = recent.clone()
    ours_slots = None if slots is None else slots.clone()
    for tokens in torch.randint(4, (60, LANES)):  # few tokens, so that n-grams come again
        expected, recent, slots = model.embed(tokens[:, None], recent, slots)
        ours = kernel(tokens, ours_recent, ours_slots)
        torch.testing.assert_close(ours, expected[:, 0].float(), rtol=limit, atol=limit)
        assert torch.equal(ours_recent, recent)
        assert slots is None or torch.equal(ours_slots, slots)


def test_a_token_that_there_is_not_is_refused_and_nothing_read() -> None:
    model = model_of("both")
    state = model.initial_state(2)
    for wrong in (VOCAB, -1):
        with pytest.raises(IndexError, match=f"token {wrong} is outside the vocabulary of {VOCAB}"):
            KernelEmbedding(model)(torch.tensor([1, wrong]), state.recent, state.slots)
    empty = model.initial_state(2)
    assert torch.equal(state.recent, empty.recent)
    assert torch.equal(state.slots, empty.slots)


@pytest.mark.parametrize("settings", [{}, {"recall_orders": [1], "dtype": torch.float64}])
def test_other_models_embed_by_themselves(settings: dict) -> None:
    dtype = settings.pop("dtype", torch.float32)
    assert not kernel_embed.available(make_model(vocab_size=VOCAB, **settings).to(dtype))
