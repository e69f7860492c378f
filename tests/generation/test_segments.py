"""Segments read in fewer bits: nearly the scores of the forward pass, and refused where of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import make_model
from sharnn import kernels
from sharnn.data.corpus import Split
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError
from sharnn.evaluate import evaluate_static
from sharnn.generation import kernel_step, scoring_reader
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer
from texts import write_text


def model_and_split(tmp_path: Path) -> tuple[LanguageModel, Split]:
    model = make_model(embed_dim=40, vocab_size=256).eval()
    return model, prepare([str(write_text(tmp_path, 2_000))]).split("all")


def test_int8_scores_nearly_as_float32(tmp_path: Path) -> None:
    model, split = model_and_split(tmp_path)
    if not kernel_step.available(torch.int8, torch.int8, model.device):
        pytest.skip("no C++ compiler here")
    exact = evaluate_static(model, ByteTokenizer(), split)
    reader = scoring_reader(model, "int8")
    found = evaluate_static(model, ByteTokenizer(), split, hidden=reader)
    assert found.nats != exact.nats
    assert found.bits_per_byte == pytest.approx(exact.bits_per_byte, rel=0.01)
    assert found.settings["products"] == {"dtype": "int8"}
    assert "products" not in exact.settings


def test_segments_of_any_length_score_alike(tmp_path: Path) -> None:
    """With float32 to a millionth."""
    model, split = model_and_split(tmp_path)
    scores = [
        evaluate_static(model, ByteTokenizer(), split, segment_length=n).nats for n in (7, 512)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scoring_reader(model, "fp32") is None


def test_what_would_not_be_quicker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().eval()
    monkeypatch.setattr("sharnn.generation.segments.has_fast_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="bf16 needs hardware with fast bf16 matrix products"):
        scoring_reader(model, "bf16")
    with kernels.at(kernels.NONE), pytest.raises(ConfigError, match="int8 needs a CPU"):
        scoring_reader(model, "int8")
    with pytest.raises(ConfigError, match="'fp16' is unknown: give fp32, bf16 or int8"):
        scoring_reader(model, "fp16")
    with pytest.raises(ConfigError, match="a transformer"):
        scoring_reader(make_model(architecture="transformer"), "int8")


@pytest.mark.parametrize("architecture", ["sha-rnn", "lstm"])
def test_products_in_bf16_score_nearly_as_float32(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharnn.generation.segments.has_fast_bf16", lambda device: True)
    _, split = model_and_split(tmp_path)
    window = {} if architecture == "sha-rnn" else {"window": None}
    model = make_model(embed_dim=24, vocab_size=256, architecture=architecture, **window).eval()
    exact = evaluate_static(model, ByteTokenizer(), split)
    found = evaluate_static(model, ByteTokenizer(), split, hidden=scoring_reader(model, "bf16"))
    assert found.bits_per_byte == pytest.approx(exact.bits_per_byte, rel=0.01)
