"""Where a head pays: bits per byte apart for bytes whose last eight bytes stood in the text before.

    python benchmarks/recurring_text.py runs/none runs/next --text held-out.txt

Bytes are told apart by how far back the eight bytes before them last stood: there a copy begins, and a
head in whose window that lies can read on. Each text is read once, in one lane, memory carried.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench import Report, make_parser
from sharnn.checkpoint import load_model
from sharnn.model import LanguageModel

_CONTEXT = 8
_SEGMENT = 1024
#: Distances up to these, then further ones, then none.
_BANDS = (128, 1024)


def distances(text: bytes) -> npt.NDArray[np.int64]:
    """Return for each byte how far back the eight bytes before it last stood; 0 where never."""
    found, last = np.zeros(len(text), np.int64), dict[bytes, int]()
    for at in range(_CONTEXT, len(text)):
        context = text[at - _CONTEXT : at]
        if context in last:
            found[at] = at - last[context]
        last[context] = at
    return found


@torch.no_grad()
def bits(model: LanguageModel, text: bytes, start_token: int) -> npt.NDArray[np.float64]:
    """Return the bits of each byte."""
    targets = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    inputs = torch.cat([torch.tensor([start_token]), targets[:-1]])
    state, parts = model.initial_state(1), []
    for read, told in zip(inputs.split(_SEGMENT), targets.split(_SEGMENT), strict=True):
        nats_BT, state = model.nats(read[None], told[None], state)
        parts.append(nats_BT[0])
    return torch.cat(parts).double().numpy() / math.log(2)


def measure(options: argparse.Namespace) -> None:
    """Score all models and print the table."""
    text = Path(options.text).read_bytes()[: options.bytes]
    back = distances(text)
    near, far = _BANDS
    bands = {
        "all": np.ones(len(text), bool),
        f"1–{near} back": (back > 0) & (back <= near),
        f"{near + 1}–{far:,} back": (back > near) & (back <= far),
        "further back": back > far,
        "never before": back == 0,
    }
    rows = [["share of the bytes", *(f"{chosen.mean():.1%}" for chosen in bands.values())]]
    for name in options.models:
        loaded = load_model(name)
        found = bits(loaded.model, text, loaded.tokenizer.start_token)
        means = (f"{found[band].mean():.4f}" if band.any() else "-" for band in bands.values())
        rows.append([Path(name).name, *means])
    report = Report(options.title, torch.device("cpu"), options.results)
    report.table(f"Bits per byte of {len(text):,} bytes", ["", *bands], rows)
    report.save()


def main() -> None:
    """Parse and measure."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", required=True)
    parser.add_argument("--bytes", type=int, default=500_000)
    parser.add_argument("--title", default="Where a head pays", help="of the section of results")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
