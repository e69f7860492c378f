"""Messages about the kernels, on stderr."""

from __future__ import annotations

import sys

_told: set[str] = set()


def tell_once(topic: str, text: str) -> None:
    """Print a line on stderr, unless this process has already printed one on this topic."""
    if topic not in _told:
        _told.add(topic)
        print(f"sharnn: {text}", file=sys.stderr, flush=True)
