"""Builds the C++ kernels into wheels; pyproject.toml says all else.

A wheel carries binaries for one platform, which no Python's ABI concerns. Without a compiler, or under
`SHARNN_NATIVE=0`, it carries none and fits every platform.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "src"))

from sharnn.kernels import build
from sharnn.kernels.table import built_variants


class BuildWithKernels(build_py):
    """Copies the package and builds its kernels; a checkout builds them on first use."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "sharnn" / "kernels" / "prebuilt"
            build.prebuild(folder, built_variants())


class PlatformWheel(bdist_wheel):
    """A wheel for any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return tags of Python, ABI and platform, "any" without kernels."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A package for this platform where it carries kernels."""

    def has_ext_modules(self) -> bool:
        """Whether it holds binaries."""
        return build.find_compiler() is not None


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel},
)
