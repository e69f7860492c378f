"""Small C++ kernels, built for an instruction set; everything works without them."""

from sharnn.kernels.build import load

__all__ = ["load"]
