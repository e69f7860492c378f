"""Time and memory of the softmax over a closed vocabulary of words, whole and split.

    python benchmarks/split_softmax.py
    python benchmarks/split_softmax.py --embed-dim 256 --positions 1024

A step is everything after the last block in training: the nats of the targets, and the gradients of the
hidden states, the embedding and the biases. V is WikiText-103's 267,735 words. Targets follow Zipf's law,
so that rare words are as rare as in a text. The optimiser, which costs both the same, is left out. Peak
memory is that of the process, with PyTorch and the embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench import DTYPES, Contender, Report, make_parser, race
from sharnn.config import SPLIT_SOFTMAX_CUTOFFS
from sharnn.model.softmax import SplitSoftmax, TiedSoftmax
from sharnn.train.precision import Precision, resolve_device

#: Offset in the Zipf–Mandelbrot law, p ∝ 1 / (rank + 2.7).
_ZIPF_OFFSET = 2.7


def cutoffs_below(vocab_size: int) -> list[int]:
    """Return the original's cutoffs that are below the size of the vocabulary."""
    return [cutoff for cutoff in SPLIT_SOFTMAX_CUTOFFS if cutoff < vocab_size]


def zipf_targets(vocab_size: int, positions: int) -> torch.Tensor:
    """Return words as ranks, `[positions]`."""
    weights = 1 / (torch.arange(vocab_size, dtype=torch.float64) + 1 + _ZIPF_OFFSET)
    return torch.multinomial(weights, positions, replacement=True)


def softmax_step(
    split: bool, vocab_size: int, dim: int, positions: int, dtype: str, device: str
) -> Callable[[], None]:
    """Return a function that computes the nats and their gradients."""
    torch.manual_seed(0)
    precision = Precision(resolve_device(device), DTYPES[dtype])
    softmax: TiedSoftmax | SplitSoftmax = TiedSoftmax(vocab_size)
    if split:
        softmax = SplitSoftmax(vocab_size, dim, cutoffs_below(vocab_size))
    softmax.to(precision.device)
    embedding_VD = torch.empty(vocab_size, dim, device=precision.device).uniform_(-0.1, 0.1)
    hidden_ND = torch.randn(positions, dim, device=precision.device)
    targets_N = zipf_targets(vocab_size, positions).to(precision.device)
    learnt = [embedding_VD.requires_grad_(), hidden_ND.requires_grad_(), *softmax.parameters()]

    def step() -> None:
        with precision.autocast():
            nats_N = softmax.nats(hidden_ND, embedding_VD, targets_N)
        nats_N.mean().backward()
        assert embedding_VD.grad is not None
        embedding_VD.grad[0, 0].item()  # waits for the device
        for tensor in learnt:
            tensor.grad = None

    return step


def main() -> None:
    """Time both at each size and write the section."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, nargs="+", default=[256, 512], help="sizes D")
    parser.add_argument("--vocab-size", type=int, default=267_735, help="words V")
    parser.add_argument("--positions", type=int, default=512, help="targets of a step")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    options = parser.parse_args()
    device = resolve_device(options.device)
    vocab_size, positions = options.vocab_size, options.positions
    report = Report(f"Softmax of {vocab_size:,} words, {options.dtype}", device, options.results)
    torch.manual_seed(0)
    ranks, cutoffs = zipf_targets(vocab_size, 1_000_000), cutoffs_below(vocab_size)
    shares = [f"{(ranks >= cutoff).double().mean():.0%}" for cutoff in cutoffs]
    rows = []
    for dim in options.embed_dim:
        sizes = {"vocab_size": vocab_size, "dim": dim, "positions": positions}
        where = {"dtype": options.dtype, "device": str(device)}
        contenders = {
            name: Contender(softmax_step, {"split": split, **sizes, **where}, positions)
            for name, split in (("whole", False), ("split", True))
        }
        for name, timing in race(contenders, options.repeats).items():
            rows.append([
                f"{name}, D {dim}", f"{positions / timing.rate * 1e3:,.0f}", f"{timing.rate:,.0f}",
                timing.spread, f"{timing.peak_bytes / 2**30:.2f}",
            ])  # fmt: skip
    report.table(
        f"{positions:,} positions a step, {torch.get_num_threads()} threads, median of {options.repeats}",
        ["", "ms a step", "positions/s", "slowest … quickest", "peak GiB"], rows,
    )  # fmt: skip
    report.say(
        f"By Zipf's law {', '.join(shares)} of the targets have a rank of at least "
        f"{', '.join(f'{cutoff:,}' for cutoff in cutoffs)}."
    )
    report.save()


if __name__ == "__main__":
    main()
