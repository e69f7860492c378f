"""Small real texts that every Python carries."""

from __future__ import annotations

import pydoc_data.topics
import this
from pathlib import Path


def zen() -> str:
    """The Zen of Python, 856 characters."""
    return "".join(this.d.get(c, c) for c in this.s)


def reference_text(num_bytes: int) -> bytes:
    """The beginning of the language reference."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return text.encode()[:num_bytes]


def write_text(folder: Path, num_bytes: int = 20_000, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(reference_text(num_bytes))
    return path
