from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import pytest
import torch

from models import make_model
from sharnn import kernels, machine
from sharnn.errors import ConfigError
from sharnn.generation.decoder import make_decoder
from sharnn.kernels import build, cache, loading
from sharnn.kernels.table import KERNELS
from sharnn.ops import compiled

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="needs a C++ compiler")

SOURCES = Path(kernels.__file__).parents[1]


def test_every_variant_loads_and_computes(kernel_variant: str) -> None:
    x = torch.linspace(-1, 1, 32)
    assert compiled.available(x) == (kernel_variant != kernels.NONE)
    if kernel_variant == kernels.NONE:
        assert kernels.variant() is None
        return
    in_use = kernels.variant()
    assert in_use is not None
    assert in_use.name == kernel_variant
    for kernel in KERNELS:
        library = kernels.load(kernel.source, *kernel.definitions)
        assert library is not None
        assert f"-{kernel_variant}-" in library._name


def test_variants_are_different_libraries() -> None:
    kernel = KERNELS[0]
    names = set()
    for name in kernels.variants():
        with kernels.at(name):
            library = kernels.load(kernel.source, *kernel.definitions)
            assert isinstance(library, ctypes.CDLL)
            names.add(library._name)
    assert len(names) == len(kernels.variants())


def test_blocks_nest_and_end() -> None:
    before = kernels.variant()
    with kernels.at(kernels.variants()[0]):
        outer = kernels.variant()
        with contextlib.suppress(RuntimeError), kernels.at(kernels.NONE):
            assert kernels.variant() is None
            raise RuntimeError
        assert kernels.variant() is outer
    assert kernels.variant() is before


def test_an_unknown_variant_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="there are no kernels 'sse9' here: give one of portable"),
        kernels.at("sse9"),
    ):
        pass


def test_the_table_holds_every_source() -> None:
    assert {kernel.source for kernel in KERNELS} == set(SOURCES.rglob("*.cpp"))


def test_the_level_bounds_the_variants() -> None:
    allowed = machine.allowed()
    for name in kernels.variants():
        with kernels.at(name):
            in_use = kernels.variant()
            assert in_use is not None
            assert in_use.features <= allowed


def test_origin_tells_build_and_place(kernel_variant: str) -> None:
    if kernel_variant == kernels.NONE:
        assert kernels.origin() == "none: switched off"
        return
    for kernel in KERNELS:
        kernels.load(kernel.source, *kernel.definitions)
    assert kernels.origin() == f"{kernel_variant}, compiled, in {cache.folder()}"


def test_origin_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_compiler", lambda: None)
    assert kernels.origin().endswith(
        "missing: there are no prebuilt kernels and no C++ compiler in PATH"
    )
    monkeypatch.setattr(loading, "find_compiler", lambda: "/nonexistent/g++")
    assert kernels.origin().endswith("missing: g++ does not start (No such file or directory)")
    monkeypatch.setattr(loading, "_default_variant", lambda: None)
    assert kernels.origin() == "none: SHARNN_NATIVE is 0"
    monkeypatch.setattr(loading, "variants", lambda: ())
    assert kernels.origin() == "none: this processor is too old for the kernels"


def test_the_table_holds_all_that_training_and_decoding_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = set()
    load = loading._load
    monkeypatch.setattr(loading, "_load", lambda *what: asked.add(what[0]) or load(*what))
    model = make_model(
        longest_ngram=2, ngram_rows=60, recall_orders=[2], recall_slots=256, residual=True
    )
    tokens = torch.randint(model.config.vocab_size, (2, 9))
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits, _ = model(tokens, model.initial_state(2))
            logits.float().sum().backward()
    make_decoder(model.eval())
    compiled.available(torch.zeros(1, dtype=torch.float64))
    assert asked == set(KERNELS)
