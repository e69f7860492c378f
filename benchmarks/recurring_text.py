"""Where a head helps: bits per byte by how far back the previous eight bytes occurred before.

    python benchmarks/recurring_text.py runs/none runs/next --text held-out.txt

Bytes are grouped by the distance to the last previous occurrence of the eight bytes before them. A head
whose window contains that place can read there what followed. Each text is read once, in one lane, with
carried memory.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bench import Report, make_parser
from sharnn.checkpoint import load_model
from sharnn.model import LanguageModel

_CONTEXT = 8
_SEGMENT = 1024
#: Limits of the first two bands of distances; the others are longer distances, and no earlier occurrence.
_BANDS = (128, 1024)


def distances(text: bytes) -> npt.NDArray[np.int64]:
    """Return for each byte the distance to the last occurrence of the 8 bytes before it, 0 if none."""
    found, last = np.zeros(len(text), np.int64), dict[bytes, int]()
    for at in range(_CONTEXT, len(text)):
        context = text[at - _CONTEXT : at]
        if context in last:
            found[at] = at - last[context]
        last[context] = at
    return found


@dataclass(frozen=True)
class Bands:
    """The bytes in each band of distances: a mask `[B, N]` by name, for texts of the same length."""

    chosen: dict[str, npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Bands:
        """Return the bands of texts."""
        back = np.stack([distances(text) for text in texts])
        near, far = _BANDS
        return cls({
            "all": np.ones(back.shape, bool),
            f"1–{near} back": (back > 0) & (back <= near),
            f"{near + 1}–{far:,} back": (back > near) & (back <= far),
            "further back": back > far,
            "never before": back == 0,
        })  # fmt: skip

    def shares(self) -> dict[str, float]:
        """Return the share of the bytes in each band."""
        return {name: float(chosen.mean()) for name, chosen in self.chosen.items()}

    def means(self, bits_BN: npt.NDArray[np.float64]) -> dict[str, float]:
        """Return the mean bits of each band; NaN for an empty band."""
        return {
            name: float(bits_BN[chosen].mean()) if chosen.any() else math.nan
            for name, chosen in self.chosen.items()
        }


@torch.no_grad()
def bits(model: LanguageModel, texts: Sequence[bytes], start_token: int) -> npt.NDArray[np.float64]:
    """Return the bits of each byte, `[B, N]`, of texts of the same length, with one lane for each."""
    targets = torch.stack([torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts])
    targets = targets.long()
    inputs = F.pad(targets[:, :-1], (1, 0), value=start_token)
    state, parts = model.initial_state(len(texts)), []
    for read, following in zip(inputs.split(_SEGMENT, 1), targets.split(_SEGMENT, 1), strict=True):
        nats_BT, state = model.nats(read, following, state)
        parts.append(nats_BT)
    return torch.cat(parts, 1).double().numpy() / math.log(2)


def measure(options: argparse.Namespace) -> None:
    """Score all models and write the section."""
    text = Path(options.text).read_bytes()[: options.bytes]
    bands = Bands.of([text])
    rows = [["share of the bytes", *(f"{share:.1%}" for share in bands.shares().values())]]
    for name in options.models:
        loaded = load_model(name)
        found = bands.means(bits(loaded.model, [text], loaded.tokenizer.start_token))
        rows.append([Path(name).name, *(f"{mean:.4f}" for mean in found.values())])
    report = Report(options.title, torch.device("cpu"), options.results)
    report.table(f"Bits per byte of {len(text):,} bytes", ["", *bands.chosen], rows)
    report.save()


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", required=True)
    parser.add_argument("--bytes", type=int, default=500_000)
    parser.add_argument("--title", default="Where a head pays", help="title of the section")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
