"""Check the kernels' products and recurrence in every build; builds for ARM run in an emulator.

    python scripts/check_kernels.py

Builds `tests/kernels/check_products.cpp` with g++ and clang++, at -O1 and -O3, for every instruction set
of this processor, and for ARM with Debian's `g++-aarch64-linux-gnu`, run with its `qemu-user`. The
integer results of all builds must be bitwise equal.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sharnn.kernels import variants
from sharnn.kernels.build import FLAGS
from sharnn.kernels.table import ARM_VARIANTS, X86_VARIANTS, Variant

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "kernels" / "check_products.cpp"
ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
#: Debian's packages of the tools that may be missing.
PACKAGES = {
    "g++": "g++",
    "clang++": "clang",
    ARM_COMPILER: "g++-aarch64-linux-gnu",
    EMULATOR[0]: "qemu-user",
}


def check(compiler: str, variant: Variant, level: str, emulator: list[str]) -> str:
    """Build and run the program; return the digest of its integer results.

    Raises:
        SystemExit: A check failed, or the program does not build.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "check"
        include = f"-I{ROOT / 'src' / 'sharnn' / 'kernels'}"
        flags = [*FLAGS, level, *variant.flags, "-DSTORED=float", include]
        for command in (
            [compiler, *flags, str(SOURCE), "-o", str(program)],
            [*emulator, str(program)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{compiler} {level} {variant.name}: {done.stdout}{done.stderr}")
    return done.stdout.split()[-1]


def main() -> int:
    """Check all builds; return 1 if their integer results differ."""
    here = [v for v in X86_VARIANTS if v.name in variants()]
    builds: list[tuple[str, Variant, list[str]]] = [
        (c, v, []) for c, v in itertools.product(("g++", "clang++"), here)
    ]
    builds += [(ARM_COMPILER, variant, EMULATOR) for variant in ARM_VARIANTS]
    digests = set()
    for compiler, variant, emulator in builds:
        missing = [tool for tool in (compiler, *emulator[:1]) if shutil.which(tool) is None]
        if missing:
            needed = PACKAGES.get(missing[0], missing[0])
            print(
                f"{compiler} {variant.name}: skipped, there is no {missing[0]} (Debian: {needed})"
            )
            continue
        for level in ("-O1", "-O3"):
            digests.add(check(compiler, variant, level, emulator))
            print(f"{compiler} {level} {variant.name}: right", flush=True)
    print(
        f"integers are {'the same' if len(digests) == 1 else 'NOT the same'}: {', '.join(digests)}"
    )
    return int(len(digests) != 1)


if __name__ == "__main__":
    sys.exit(main())
