"""Run all benchmarks that fit in ten minutes; each writes its section into the machine's results file.

python benchmarks/run_all.py
SHARNN_CPU=avx2 python benchmarks/run_all.py     at a level, into a separate file
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

#: Scripts and their arguments, in the order of the sections.
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
    """Run all of them in turn; command-line arguments are passed to each."""
    folder, started = Path(__file__).parent, time.monotonic()
    for script, *arguments in RUNS:
        print(f"\n{script} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, folder / script, *arguments, *sys.argv[1:]], check=True)
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
