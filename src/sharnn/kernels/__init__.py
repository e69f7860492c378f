"""Small C++ kernels, built for each instruction set; everything also works without them."""

from sharnn.kernels.loading import NONE, at, load, origin, variant, variants

__all__ = ["NONE", "at", "load", "origin", "variant", "variants"]
