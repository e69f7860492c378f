"""The list of kernels and of the instruction sets that each is built for.

This module needs only the standard library, because wheels are built without PyTorch.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

from sharnn import machine

#: Keys of n-grams are polynomials modulo a prime below 2³¹, so that every product fits into 64 bits.
PRIME = 2_147_483_647
MULTIPLIER = 1_000_003_019
#: Bits of a token in a slot of recall. A slot holds, from its lowest bits up, two tokens (each plus 1)
#: and the key of the n-gram without its lowest `PLACE_BITS` bits. The latter distinguishes n-grams that
#: share the slot.
TOKEN_BITS = 20
#: A table has at least 2 ** PLACE_BITS slots, so the slot's index and the stored bits give the whole key.
PLACE_BITS = 8

#: Definitions for kernels that include `ngrams.h`.
NGRAM_DEFINITIONS = (
    f"PRIME={PRIME}",
    f"MULTIPLIER={MULTIPLIER}",
    f"TOKEN_BITS={TOKEN_BITS}",
    f"PLACE_BITS={PLACE_BITS}",
)


class Kernel(NamedTuple):
    """A C++ file and the macros of its build, as `NAME=VALUE`."""

    source: Path
    definitions: tuple[str, ...] = ()


class Variant(NamedTuple):
    """A build for an instruction set.

    Attributes:
        name: Name in file names and results.
        features: Processor features that it needs, named as in /proc/cpuinfo.
        flags: Compiler flags.
    """

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


_PACKAGE = Path(__file__).parents[1]
#: All kernels; a wheel contains each of them.
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
#: In order of increasing requirements.
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
    """Return the variants for this kind of processor, in order of increasing requirements."""
    if machine.is_x86():
        return X86_VARIANTS
    return ARM_VARIANTS if platform.machine() in ("aarch64", "arm64") else _OTHER_VARIANTS
