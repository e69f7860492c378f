"""Which kernels there are, and the instruction sets that each is built for.

Nothing here needs more than the standard library: a wheel is built where there is no PyTorch.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

from sharnn import machine

#: Keys of n-grams are polynomials modulo a prime below 2³¹, so that no product leaves 64 bits anywhere.
PRIME = 2_147_483_647
MULTIPLIER = 1_000_003_019
#: A slot of recall holds, from its lowest bits up, two tokens plus 1 and what tells n-grams apart that
#: share the slot: their key without the bits that say which slot it is.
TOKEN_BITS = 20
#: Slots of a table are a power of two from this on, so that place and rest say the whole key.
PLACE_BITS = 8

#: What kernels that include `ngrams.h` are built with.
NGRAM_DEFINITIONS = (
    f"PRIME={PRIME}",
    f"MULTIPLIER={MULTIPLIER}",
    f"TOKEN_BITS={TOKEN_BITS}",
    f"PLACE_BITS={PLACE_BITS}",
)


class Kernel(NamedTuple):
    """A C++ file and the macros that it is built with, as `NAME=VALUE`."""

    source: Path
    definitions: tuple[str, ...] = ()


class Variant(NamedTuple):
    """A build for an instruction set.

    Attributes:
        name: Told in file names and results.
        features: What it needs, by the names of /proc/cpuinfo.
        flags: What the compiler is told.
    """

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


_PACKAGE = Path(__file__).parents[1]
#: All kernels that there are: what a wheel carries.
KERNELS = (
    *(
        Kernel(_PACKAGE / "ops" / "kernels.cpp", (f"STORED={stored}",))
        for stored in ("float", "double", "bfloat16")
    ),
    *(
        Kernel(_PACKAGE / "ops" / "recurrence.cpp", (f"STORED={stored}",))
        for stored in ("float", "bfloat16")
    ),
    Kernel(_PACKAGE / "ops" / "recall.cpp", NGRAM_DEFINITIONS),
    Kernel(_PACKAGE / "generation" / "step.cpp"),
    Kernel(_PACKAGE / "generation" / "embed.cpp", NGRAM_DEFINITIONS),
)

_V4, _WIDE = machine.needs("avx512"), ("-march=x86-64-v4", "-mprefer-vector-width=512")
#: By rising demands.
X86_VARIANTS = (
    Variant("portable", machine.needs("portable"), ("-march=x86-64-v2",)),
    Variant("avx2", machine.needs("avx2"), ("-march=x86-64-v3",)),
    Variant("avx512", _V4, _WIDE),
    Variant("avx512-vnni", _V4 | {"avx512_vnni"}, (*_WIDE, "-mavx512vnni")),
    Variant(
        "avx512-bf16",
        _V4 | {"avx512_vnni", "avx512_bf16"},
        (*_WIDE, "-mavx512vnni", "-mavx512bf16"),
    ),
)
ARM_VARIANTS = (Variant("neon", frozenset(), ("-march=armv8-a",)),)
_OTHER_VARIANTS = (Variant("portable", frozenset(), ()),)


def built_variants() -> tuple[Variant, ...]:
    """Return the variants that are built on this kind of processor, by rising demands."""
    if machine.is_x86():
        return X86_VARIANTS
    return ARM_VARIANTS if platform.machine() in ("aarch64", "arm64") else _OTHER_VARIANTS
