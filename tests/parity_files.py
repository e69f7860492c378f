"""What the original computed, under our names and batch first; see tests/parity/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sharnn.config import ModelConfig
from sharnn.model import LanguageModel
from sharnn.ops import FAST, Ops

FOLDER = Path(__file__).parent / "parity"
MODELS = ["single_attention", "all_attention", "no_attention", "ragged_boom"]

_NAMES = {
    "encoder.weight": "embedding.weight",
    "decoder.bias": "softmax.bias",
    ".rnn.": ".lstm.",
    ".lnstart.": ".start_norm.",
    ".lnmid.": ".mid_norm.",
    ".lnmem.": ".memory_norm.",
    ".lnff.": ".skip_norm.",
    ".lnxff.": ".boom_norm.",
    ".ff.linear1.": ".boom.linear.",
    ".attn.qln.": ".attention.query_norm.",
    ".attn.q.": ".attention.query.",
    ".attn.qs": ".attention.query_gate",
    ".attn.ks": ".attention.key_gate",
    ".attn.vs": ".attention.value_gate.seed",
    ".attn.vq.l1.": ".attention.value_gate.linear.",
}


def our_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def rename(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that the model has, under its names; dead weights are left out."""
    renamed = {our_name(name): tensor for name, tensor in tensors.items()}
    return {name: renamed[name].reshape(like[name].shape) for name in like if name in renamed}


@dataclass
class ParityFile:
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> ParityFile:
        config = json.loads((FOLDER / f"{name}.json").read_text())
        return cls(config, load_file(FOLDER / f"{name}.safetensors"))

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def model(self, ops: Ops = FAST) -> LanguageModel:
        sizes = ("vocab_size", "embed_dim", "boom_dim", "num_layers", "attention_layers", "window")
        config = ModelConfig(reach="segment", **{key: self.config[key] for key in sizes})
        model = LanguageModel(config, ops)
        weights = rename(self.under("weights."), model.state_dict())
        model.load_state_dict(weights)
        return model

    def segments(self) -> list[tuple[Tensor, Tensor]]:
        """Return inputs and targets `[B, T]` of each carried segment."""
        tokens, start, pairs = self.tensors["tokens"].T, 0, []
        for length in self.config["segment_lengths"]:
            pairs.append(
                (tokens[:, start : start + length], tokens[:, start + 1 : start + length + 1])
            )
            start += length
        return pairs


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """`‖ours - theirs‖ / ‖theirs‖`."""
    return float((ours.detach() - theirs).norm() / theirs.norm().clamp_min(1e-12))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
