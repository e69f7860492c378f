"""Small models on disk, one of which may stand for the one that comes with sharnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sharnn.checkpoint import load, save_model
from sharnn.config import ModelConfig
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer, Tokenizer


def know_ngrams(model: LanguageModel) -> LanguageModel:
    """Give rows to n-grams of a random text, where the model embeds any; return the model."""
    if model.ngrams is not None:
        text = np.random.default_rng(0).integers(model.config.vocab_size, size=3_000)
        model.ngrams.learn_vocabulary(text, min_count=1)
    return model


def stir(model: LanguageModel, deviation: float = 0.3) -> LanguageModel:
    """Add noise to all weights, so that every gate and every row matters; return the model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
    return model


def make_model(seed: int = 0, **settings: object) -> LanguageModel:
    torch.manual_seed(seed)
    config = ModelConfig(**{"embed_dim": 16, "num_layers": 2, "window": 8, **settings})
    return know_ngrams(LanguageModel(config))


def write_model(
    folder: Path, seed: int = 0, dtype: str = "fp32", tokenizer: Tokenizer | None = None,
    **settings: object,
) -> LanguageModel:  # fmt: skip
    """Write a model whose texts depend on what it has read, so that models can be told apart."""
    tokenizer = tokenizer or ByteTokenizer()
    model = make_model(seed, vocab_size=tokenizer.vocab_size, **settings).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1)
    save_model(folder, model, tokenizer, {"corpus": "zen"}, dtype)
    return model


def ship(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model in `folder` be the one that comes with sharnn; None: there is none."""
    monkeypatch.setattr(load, "SHIPPED", folder or Path("nothing is shipped here"))
