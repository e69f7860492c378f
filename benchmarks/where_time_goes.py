"""Profile of a training step and of a decoding step, eagerly and with the fast paths.

    python benchmarks/where_time_goes.py
    python benchmarks/where_time_goes.py --embed-dim 256 --batch 64x64

Training is profiled by PyTorch; operations, including the project's kernels, are grouped by name. A
decoding step of the fast path is one call, so its parts are measured by omission: the memory with a
window of 0, the softmax alone.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from bench import Report, full_state, make_parser
from decode_latency import TOLERANCE, eager_steps, make_model
from sharnn.generation import RingDecoder
from sharnn.ops.matmul import has_fast_bf16
from sharnn.train.precision import resolve_device
from train_throughput import batch_of, training_step

#: Groups of operations by parts of their names; the first match counts.
GROUPS = {
    "matrix products": ("mm", "linear_pointwise", "matmul"),
    "PyTorch's LSTM": ("lstm_layer", "mkldnn_rnn", "cudnn_rnn", "thnn"),
    "own kernels (LSTM, Boom, softmax)": ("_Lstm", "_Boom", "_Attend", "_Dropout"),
    "optimiser and clipping": ("adam", "foreach", "_amp", "linalg_vector_norm"),
    "LayerNorm": ("layer_norm",),
    "softmax": ("softmax", "nll_loss", "cross_entropy"),
    "copies, masks, gates, sums": (),
}


def group_of(name: str) -> str:
    """Return the group of an operation."""
    return next(
        (g for g, parts in GROUPS.items() if any(part in name for part in parts)), list(GROUPS)[-1]
    )


def shares(call: Callable[[], None], device: torch.device) -> tuple[dict[str, float], float]:
    """Return each group's share of a call, and the milliseconds of a call without the profiler."""
    call()
    started = time.perf_counter()
    call()
    milliseconds = (time.perf_counter() - started) * 1e3
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        call()
    micros: Counter[str] = Counter()
    for event in profiled.key_averages():
        micros[group_of(event.key)] += (
            event.self_device_time_total if cuda else event.self_cpu_time_total
        )
    total = sum(micros.values())
    return {group: micros[group] / total for group in GROUPS}, milliseconds


def profile_training(options: argparse.Namespace, report: Report) -> None:
    """Profile one step of each path at the same batch size."""
    dtypes = ["fp32", *(["bf16"] if has_fast_bf16(report.device) else [])]
    paths = {"eager fp32": (False, "fp32"), **{f"fast {d}": (True, d) for d in dtypes}}
    found = {}
    for name, (fast, dtype) in paths.items():
        step = training_step(
            fast, dtype, options.batch, options.embed_dim, options.window, options.device
        )
        found[name] = shares(step, report.device)
    rows = [[group, *(f"{found[name][0][group]:.1%}" for name in found)] for group in GROUPS]
    rows.append(["milliseconds", *(f"{found[name][1]:,.0f}" for name in found)])
    lanes, tokens = options.batch
    report.table(f"A training step of {lanes} lanes × {tokens}", ["", *found], rows)


@torch.no_grad()
def profile_decoding(options: argparse.Namespace, report: Report) -> None:
    """Profile an eager step, and measure the parts of the decoder's step."""
    dim, window = options.embed_dim, options.window
    eager = eager_steps(dim, window, options.device, 5)
    parts, milliseconds = shares(eager, report.device)
    rows = [[group, f"{share:.1%}", f"{share * milliseconds / 5:.2f}"]
            for group, share in parts.items()]  # fmt: skip
    report.table("An eager decoding step", ["", "share", "ms"], rows)
    model, rows = make_model(dim, window, options.device), []
    state = full_state(model, 1, window - 1, torch.float32)
    h_BD, weight_VD = torch.zeros(1, dim, device=model.device), model.embedding.weight
    token_B = torch.zeros(1, dtype=torch.long, device=model.device)
    for dtype in TOLERANCE:
        decoder, bare = RingDecoder(model, 1, dtype), RingDecoder(model, 1, dtype, window=0)
        decoder.load(state)
        whole = median_ms(functools.partial(decoder.step, token_B))
        softmax = median_ms(functools.partial(model.softmax.logits, h_BD, weight_VD))
        weights = median_ms(functools.partial(bare.step, token_B)) - softmax
        attention = whole - weights - softmax
        rows.append([dtype, *(f"{ms:.2f}" for ms in (weights, attention, softmax, whole))])
    columns = [
        "",
        "LSTM, Boom, norms: ms",
        "attention and its query: ms",
        "softmax: ms",
        "step: ms",
    ]
    report.table("A step of the decoder", columns, rows)


def median_ms(call: Callable[[], object], repeats: int = 60) -> float:
    """Return the median of many calls in milliseconds."""
    for _ in range(20):
        call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def main() -> None:
    """Profile training and decoding, and write the section."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, default=1024)
    parser.add_argument("--window", type=int, default=5000)
    parser.add_argument("--batch", type=batch_of, default=(16, 256), help="lanes x tokens")
    options = parser.parse_args()
    device = resolve_device(options.device)
    title = f"Where time goes, D {options.embed_dim} × 4, window {options.window:,}"
    report = Report(title, device, options.results)
    profile_training(options, report)
    profile_decoding(options, report)
    report.save()


if __name__ == "__main__":
    main()
