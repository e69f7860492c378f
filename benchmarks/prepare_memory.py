"""Peak memory and speed of preparing a large text.

python benchmarks/prepare_memory.py            2 GB of pseudo-text, prepared in a child process
python benchmarks/prepare_memory.py --gigabytes 0.2
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PROGRAM = """
import re, sys
from sharnn.data.prepare import prepare
corpus = prepare([sys.argv[1]])
print(corpus.split("all").num_bytes)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def write_text(path: Path, num_bytes: int) -> None:
    """Write words in a pseudo-random order, which a compressing file system cannot shrink much."""
    source = Path(os.__file__).read_bytes() + Path(re.__file__).read_bytes()
    words, written, state = source.split(), 0, 1
    with path.open("wb") as file:
        while written < num_bytes:
            block = bytearray()
            while len(block) < 1 << 20:
                state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
                start = (state >> 33) % (len(words) - 100)
                block += b" ".join(words[start : start + 100]) + b"\n"
            written += file.write(block[: num_bytes - written])


def main() -> None:
    """Write the text, prepare it in a child, and print the child's peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        write_text(path, int(arguments.gigabytes * 1e9))
        environment = {**os.environ, "SHARNN_CACHE": str(Path(folder) / "cache")}
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(path)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    num_bytes, peak_kib = map(int, result.stdout.split())
    print(f"text        {num_bytes / 1e9:.2f} GB")
    print(f"peak memory {peak_kib / 1024:.0f} MiB")
    print(f"speed       {num_bytes / 1e6 / seconds:.0f} MB/s")


if __name__ == "__main__":
    main()
