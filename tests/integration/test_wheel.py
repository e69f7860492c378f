"""A package that carries its kernels, where there is no compiler.

By default one build of each kernel is made and laid beside the sources. `SHARNN_TEST_WHEEL=FILE` takes a
wheel (`make wheel`) and tests every instruction set that it carries.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sharnn
from sharnn import kernels, machine
from sharnn.kernels import build
from sharnn.kernels.table import KERNELS, built_variants

WHEEL = os.environ.get("SHARNN_TEST_WHEEL")
pytestmark = pytest.mark.skipif(
    WHEEL is None and build.find_compiler() is None, reason="needs a C++ compiler"
)


def cases() -> list[str]:
    """Return the levels to test: those that choose different builds, or the quickest to build."""
    return list(machine.levels()) if WHEEL else ["portable"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package as it is installed from a wheel."""
    folder = tmp_path_factory.mktemp("site")
    if WHEEL is not None:
        with zipfile.ZipFile(WHEEL) as archive:
            archive.extractall(folder)
        return folder
    package = folder / "sharnn"
    shutil.copytree(
        Path(sharnn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    build.prebuild(package / "kernels" / "prebuilt", built_variants()[:1])
    return folder


def run(
    site: Path, tmp_path: Path, level: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line of the package there, with no program in reach and a cache of its own."""
    for_process = {
        "PYTHONPATH": str(site), "PATH": str(tmp_path), "SHARNN_CPU": level,
        "SHARNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "sharnn.cli.main", *arguments],
        env=for_process, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("level", cases())
def test_prebuilt_kernels_generate_without_a_compiler(
    site: Path, tmp_path: Path, level: str
) -> None:
    told = run(site, tmp_path, level, "info", "--json")
    assert told.returncode == 0, told.stderr
    facts = json.loads(told.stdout)
    assert Path(facts["folder"]).is_relative_to(site)
    name, origin = facts["kernels"].split(", ")
    assert origin == "prebuilt"
    by_level = machine.is_x86() and level != "native"
    assert name == (level if by_level else kernels.variants()[-1])
    done = run(site, tmp_path, level, "generate", "--prompt", "The ", "--max-bytes", "20")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > len("The ")
    assert not (tmp_path / "cache").exists()


def test_the_package_holds_a_build_of_every_kernel(site: Path) -> None:
    variants = built_variants() if WHEEL else built_variants()[:1]
    there = {file.name for file in (site / "sharnn" / "kernels" / "prebuilt").iterdir()}
    assert there == {build.file_name(k, v, openmp=True) for k in KERNELS for v in variants}


def test_builds_of_other_sources_are_not_taken(site: Path, tmp_path: Path) -> None:
    altered = tmp_path / "site"
    shutil.copytree(site, altered, symlinks=True)
    header = altered / "sharnn" / "kernels" / "numbers.h"
    header.write_text(header.read_text() + "\n")
    told = run(altered, tmp_path, "portable", "info", "--json")
    found = json.loads(told.stdout)["kernels"]
    assert found == "portable, missing: there are no prebuilt kernels and no C++ compiler in PATH"
