"""Speed of a trained model's decoder, and what its kernels win: by default of the model that ships.

    python benchmarks/decode_shipped.py
    python benchmarks/decode_shipped.py my-run

A step looks n-grams and recall up and then passes the blocks; each of the two is one call of a kernel, or
a chain of PyTorch's operations. A step's token is drawn from the one before, as in sampling, and the
model has read 2,000 bytes before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench import Contender, Report, make_parser, race
from sharnn.checkpoint import BASE, load_model
from sharnn.generation import RingDecoder, native_embed, native_step
from sharnn.train.precision import resolve_device

_READ_BEFORE = 2_000
#: Which kernels a decoder has.
_KERNELS = {
    "no kernels": (False, False),
    "blocks by a kernel": (True, False),
    "blocks and look-ups by kernels": (True, True),
}


def steps(
    model: str, device: str, dtype: str, lanes: int, count: int, kernels: str
) -> Callable[[], None]:
    """Return a function that draws `count` tokens in every lane, all lanes together."""
    blocks, look_ups = _KERNELS[kernels]
    if not blocks:
        native_step.available = lambda *_: False
    if not look_ups:
        native_embed.available = lambda model: False
    loaded = load_model(model, device)
    decoder = RingDecoder(loaded.model, lanes, dtype)
    torch.manual_seed(0)
    text_BT = torch.randint(97, 105, (lanes, _READ_BEFORE), device=loaded.model.device)
    logits_BV = decoder.prefill(text_BT)

    def draw() -> None:
        nonlocal logits_BV
        for _ in range(count):
            tokens_B = logits_BV.softmax(-1).multinomial(1)[:, 0]
            logits_BV = decoder.step(tokens_B)

    return draw


def measure(options: argparse.Namespace) -> None:
    """Race, print the table and keep it."""
    place = {"model": options.model, "device": options.device}
    config = load_model(options.model).model.config
    contenders = {}
    for lanes in (1, options.lanes):
        for dtype in ("fp32", "bf16", "int8"):
            for kernels in _KERNELS:
                count = max(options.steps // lanes, 1)
                settings = {
                    **place,
                    "dtype": dtype,
                    "lanes": lanes,
                    "count": count,
                    "kernels": kernels,
                }
                name = f"{dtype}, {lanes} lane{'s' * (lanes > 1)}, {kernels}"
                contenders[name] = Contender(steps, settings, lanes * count)
    report = Report(
        f"Drawing from {options.model}", resolve_device(options.device), options.results
    )
    timings = race(contenders, options.repeats)
    rows = [
        [name, f"{timing.rate:,.0f}", timing.spread, f"{1e6 / timing.rate:,.0f}"]
        for name, timing in timings.items()
    ]
    columns = ["", "tokens/s", "slowest … quickest", "µs a token"]
    title = (
        f"D {config.embed_dim} × {config.num_layers}, {_READ_BEFORE:,} bytes read before, all lanes "
        f"together, median of {options.repeats} in turn"
    )
    report.table(title, columns, rows)
    report.save()


def main() -> None:
    """Parse and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("model", nargs="?", default=BASE, metavar="MODEL", help="default: base")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=256, help="tokens of a timed run")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
