"""Speed of a trained model's decoder with and without kernels, by default of the shipped model.

    python benchmarks/decode_shipped.py
    python benchmarks/decode_shipped.py my-run --lanes 1 16 --dtypes int8

A step looks up n-grams and recall and then runs the blocks, with kernels or with PyTorch's operations.
Each step's token is drawn from the previous step's logits, as in sampling, after the model has read 2,000
bytes. The two contenders of a pair run in turn. The text below the table lists where kernels are slower.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sharnn import machine

machine.wait_briefly(drawing=True)  # as `sharnn generate` does, before torch is imported

import torch  # noqa: E402

from bench import BYTES, Contender, Report, make_parser, race  # noqa: E402
from sharnn import kernels  # noqa: E402
from sharnn.checkpoint import BASE, load_model  # noqa: E402
from sharnn.generation import RingDecoder, Sampling, sample_together  # noqa: E402
from sharnn.train.precision import resolve_device  # noqa: E402

_READ_BEFORE = 2_000
#: Numbers of lanes that are compared: many lanes together should not be slower than one.
_ONE, _MANY = 1, 16
#: Ratios nearer to 1 than this are noise.
_NOISE = 0.05
#: Tokens per second with and without kernels, by lanes and dtype.
Grid = dict[tuple[int, str], tuple[float, float]]


def steps(model: str, device: str, dtype: str, lanes: int, build: str) -> Callable[[], None]:
    """Return a function that draws a token in every lane, all lanes together.

    Args:
        model: Name or folder of the model.
        device: Device of the decoder.
        dtype: Dtype of weights and memory.
        lanes: Number of lanes.
        build: Name of the kernels' build, or `kernels.NONE`.
    """
    loaded = load_model(model, device).model
    torch.manual_seed(0)
    with kernels.at(build):
        reader = RingDecoder(loaded)
        reader.prefill(torch.randint(97, 105, (1, _READ_BEFORE), device=loaded.device))
        decoder = RingDecoder(loaded, lanes, dtype)
        decoder.load(reader.state().expand(lanes))
        logits_BV = decoder.step(torch.full((lanes,), 97, device=loaded.device))

    rngs = [torch.Generator().manual_seed(lane) for lane in range(lanes)]
    sampling, histories = Sampling(temperature=1.0), [()] * lanes

    def draw() -> None:
        nonlocal logits_BV
        with kernels.at(build):
            drawn = sample_together(logits_BV, sampling, rngs, histories)
            logits_BV = decoder.step(torch.tensor(drawn, device=loaded.device))

    return draw


def measure_pair(options: argparse.Namespace, lanes: int, dtype: str) -> tuple[float, float]:
    """Return tokens per second with and without kernels."""
    in_use = kernels.variant()
    if in_use is None:
        raise SystemExit("there are no kernels to measure: SHARNN_NATIVE is 0, or see sharnn info")
    place = {"model": options.model, "device": options.device, "dtype": dtype, "lanes": lanes}
    pair = {
        build: Contender(steps, {**place, "build": build}, lanes, options.seconds)
        for build in (in_use.name, kernels.NONE)
    }
    timings = race(pair, options.repeats)
    return timings[in_use.name].rate, timings[kernels.NONE].rate


def table_rows(grid: Grid, lanes: list[int], dtypes: list[str]) -> list[list[str]]:
    """Return a row for each number of lanes."""
    rows = []
    for count in lanes:
        pairs = [grid[count, dtype] for dtype in dtypes]
        cells = (f"{rate:,.0f}" for pair in pairs for rate in pair)
        rows.append([f"{count}", *cells, *(f"{ours / none:.2f}" for ours, none in pairs)])
    return rows


def findings(grid: Grid) -> list[str]:
    """Return sentences that name the combinations in which the path in use is not the fastest."""
    slower = [
        f"{dtype}, {lanes} lanes ({ours / none:.2f})"
        for (lanes, dtype), (ours, none) in grid.items()
        if ours < (1 - _NOISE) * none
    ]
    told = [
        f"Kernels are slower than none by more than {_NOISE:.0%}: {'; '.join(slower) or 'nowhere'}."
    ]
    ratios = {
        dtype: grid[_MANY, dtype][0] / grid[_ONE, dtype][0]
        for lanes, dtype in grid
        if lanes == _MANY and (_ONE, dtype) in grid
    }
    if ratios:
        slower = [dtype for dtype, ratio in ratios.items() if ratio < 1]
        shown = ", ".join(f"{dtype} {ratio:.1f}" for dtype, ratio in ratios.items())
        where = ", ".join(slower) or "nowhere"
        told.append(f"{_MANY} lanes are slower than one: {where} (ratios: {shown}).")
    return told


def measure(options: argparse.Namespace) -> None:
    """Time every combination and write the section."""
    config = load_model(options.model).model.config
    report = Report(
        f"Drawing from {options.model}", resolve_device(options.device), options.results
    )
    grid = {
        (lanes, dtype): measure_pair(options, lanes, dtype)
        for lanes in options.lanes
        for dtype in options.dtypes
    }
    columns = [
        "lanes",
        *(f"{dtype}, {kind}" for dtype in options.dtypes for kind in ("kernels", "none")),
        *(f"{dtype}, ratio" for dtype in options.dtypes),
    ]
    title = (
        f"Tokens/s, D {config.embed_dim} × {config.num_layers}, {_READ_BEFORE:,} bytes read before, all "
        f"lanes together, with kernels and without, median of {options.repeats} in turn"
    )
    report.table(title, columns, table_rows(grid, options.lanes, options.dtypes))
    for sentence in findings(grid):
        report.say(sentence)
    report.save()


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("model", nargs="?", default=BASE, metavar="MODEL", help="default: base")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--dtypes", choices=BYTES, nargs="+", default=list(BYTES))
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a timed run")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
