"""Speed of the matrix products of a training step, with MKL (or what PyTorch uses) and with oneDNN.

    python benchmarks/products.py
    python benchmarks/products.py --embed-dim 1024 --dtype bf16

oneDNN's time includes the packing of the second matrix. `ops.matmul.product` chooses between the two.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from bench import DTYPES, Report, best_seconds, make_parser
from sharnn.ops.matmul import multiply_packed
from sharnn.train.precision import resolve_device

POSITIONS, ROWS, QUERIES = 4096, 5063, 64


def main() -> None:
    """Time each product with both and write the section."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, default=256)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    options = parser.parse_args()
    device, dim = resolve_device(options.device), options.embed_dim
    report = Report(f"Products, D {dim}, {options.dtype}", device, options.results)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(DTYPES[options.dtype])

    pairs = {
        "queries × rows": (random(QUERIES, dim), random(ROWS, dim)),
        "weights of rows × rows": (random(QUERIES, ROWS), random(ROWS, dim).t()),
        "inputs × gates": (random(POSITIONS, dim), random(4 * dim, dim)),
        "gate gradients × weights": (random(POSITIONS, 4 * dim), random(4 * dim, dim).t()),
        "gradient of a weight": (random(POSITIONS, 4 * dim).t(), random(POSITIONS, dim).t()),
    }
    rows = []
    for name, (a_NK, b_MK) in pairs.items():
        gigaflops = 2 * a_NK.numel() * b_MK.shape[0] / 1e9
        seconds = [
            best_seconds(functools.partial(call, a_NK, b_MK), options.repeats)
            for call in (F.linear, multiply_packed)
        ]
        rows.append([name, *(f"{gigaflops / s:,.0f}" for s in seconds)])
    report.table(
        f"GFLOP/s, {QUERIES} queries, {ROWS:,} rows, {POSITIONS:,} positions, best of {options.repeats}",
        ["", "PyTorch's choice", "oneDNN with packing"], rows,
    )  # fmt: skip
    report.save()


if __name__ == "__main__":
    main()
