"""All benchmarks that fit in ten minutes; each writes its section into the machine's file of results.

python benchmarks/run_all.py
SHARNN_CPU=avx2 python benchmarks/run_all.py     at a level, into a file of its own
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

#: Arguments of each script; the order is that of the file of results.
RUNS = [
    ["train_throughput.py", "--embed-dim", "1024", "--repeats", "3"],
    ["train_throughput.py", "--embed-dim", "256"],
    ["recipe_speed.py", "--budget", "90s"],
    ["decode_latency.py", "--prompt", "2048", "--repeats", "3"],
    ["decode_shipped.py"],
    ["score_speed.py", "--repeats", "3"],
    ["long_memory.py"],
    ["quantization_cost.py", "--budget", "45s"],
]


def main() -> int:
    """Run them one after the other; arguments go to each."""
    folder, started = Path(__file__).parent, time.monotonic()
    for script, *arguments in RUNS:
        print(f"\n{script} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, folder / script, *arguments, *sys.argv[1:]], check=True)
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
