"""Small sessions for tests, whose texts depend on what was read."""

from __future__ import annotations

import torch

from models import know_ngrams
from sharnn.config import ModelConfig
from sharnn.generation import Sampling, Session, generate
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer

ARCHITECTURES = [{}, {"architecture": "lstm", "window": None}, {"architecture": "transformer"},
                 {"longest_ngram": 3, "recall_orders": [1, 2]},
                 {"residual": True, "reads_next": True}]  # fmt: skip


def make_session(seed: int = 0, **settings: object) -> Session:
    torch.manual_seed(seed)
    config = ModelConfig(**{"embed_dim": 16, "num_layers": 2, "window": 12, **settings})
    model = know_ngrams(LanguageModel(config)).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1)  # far from uniform, so that texts depend on the prompt
    return Session(model, ByteTokenizer())


def text_of(session: Session, **options: object) -> bytes:
    settings = {"sampling": Sampling(temperature=1.5), "max_bytes": 60, "seed": 1, **options}
    return b"".join(generate(session, **settings))
