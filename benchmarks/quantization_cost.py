"""Cost of fewer bits: bits per byte of a held-out text, decoded with each dtype of weights and memory.

    python benchmarks/quantization_cost.py                       first trains the recipe demo for --budget
    python benchmarks/quantization_cost.py runs/mine my-valid.txt

Every byte is read by the decoder's step, as in sampling, in lanes that start with an empty memory. All
dtypes read the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from bench import Report, make_parser, sample_text, trained
from sharnn.checkpoint import load_model
from sharnn.evaluate.score import LN2
from sharnn.generation import RingDecoder
from sharnn.model import LanguageModel
from sharnn.train import resolve_device

PAIRS = [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "bf16"), ("int8", "int8")]


@torch.no_grad()
def bits_per_byte(decoder: RingDecoder, tokens_BT: torch.Tensor) -> float:
    """Score every token except the first of each lane, one step at a time."""
    nats = 0.0
    for token_B, target_B in zip(
        tokens_BT[:, :-1].unbind(1), tokens_BT[:, 1:].unbind(1), strict=True
    ):
        log_probs_BV = decoder.step(token_B).double().log_softmax(-1)
        nats -= float(log_probs_BV.gather(1, target_B[:, None]).sum())
    return nats / LN2 / tokens_BT[:, 1:].numel()


def cut_in_lanes(text: bytes, num_lanes: int) -> torch.Tensor:
    """Return a text as lanes, `[B, T]`."""
    flat = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return flat[: len(flat) // num_lanes * num_lanes].view(num_lanes, -1)


def measure(options: argparse.Namespace) -> None:
    """Score each pair of dtypes and write the section."""
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        run = options.model or trained(options.budget, options.device, Path(folder))
        model: LanguageModel = load_model(run, device).model
    report = Report("Cost of fewer bits", device, options.results)
    text = sample_text(options.text, options.num_bytes)
    tokens_BT = cut_in_lanes(text, options.lanes).to(device)
    scores = [bits_per_byte(RingDecoder(model, options.lanes, *pair), tokens_BT) for pair in PAIRS]
    rows = [
        [weights, memory, f"{score:.4f}", f"{score - scores[0]:+.4f}"]
        for (weights, memory), score in zip(PAIRS, scores, strict=True)
    ]
    report.table(
        f"D {model.config.embed_dim} × {model.config.num_layers}, {tokens_BT.numel():,} bytes in "
        f"{options.lanes} lanes",
        ["weights", "memory", "bits per byte", "cost"], rows,
    )  # fmt: skip
    report.save()


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="model or run folder")
    parser.add_argument(
        "text", type=Path, nargs="?", help="a text that it has not read in training"
    )
    parser.add_argument("--budget", default="90s", help="training budget, without MODEL")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--num-bytes", type=int, default=100_000)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
