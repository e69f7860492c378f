"""What a processor can do, what a level allows of it, and how many threads may compute."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sharnn import machine
from sharnn.errors import ConfigError

NEHALEM = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt"
HASWELL = f"{NEHALEM} avx f16c fma abm bmi1 bmi2 movbe avx2"
SKYLAKE_X = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
ZEN_4 = f"{SKYLAKE_X} avx512_vnni avx512_bf16"
#: Its AVX-512 is not what the level asks for.
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512cd avx512er avx512pf"

ON_X86 = pytest.mark.skipif(not machine.is_x86(), reason="needs an x86-64 processor")


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that makes this a Linux machine with such flags."""

    def become(flags: str, kind: str = "x86_64", name: str = "flags\t\t") -> None:
        cpuinfo = tmp_path / "cpuinfo"
        first = f"processor\t: 0\nmodel name\t: some\n{name}: {flags}\nbugs\t\t: none\n\n"
        cpuinfo.write_text(first + first.replace(flags, "of another core"))
        monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
        monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
        monkeypatch.setattr(machine.platform, "machine", lambda: kind)
        machine.features.cache_clear()

    monkeypatch.delenv("SHARNN_CPU", raising=False)
    yield become
    machine.features.cache_clear()


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        (NEHALEM, ("portable", "native")),
        (HASWELL, ("portable", "avx2", "native")),
        (HASWELL.replace(" movbe", ""), ("portable", "native")),
        (KNIGHTS_LANDING, ("portable", "avx2", "native")),
        (SKYLAKE_X, ("portable", "avx2", "avx512", "native")),
        (ZEN_4, ("portable", "avx2", "avx512", "native")),
        ("", ("portable", "native")),
    ],
    ids=["nehalem", "haswell", "no movbe", "knights landing", "skylake-x", "zen 4", "unknown"],
)
def test_levels_by_cpuinfo(
    processor: Callable[..., None], flags: str, levels: tuple[str, ...]
) -> None:
    processor(flags)
    assert machine.levels() == levels


def test_a_processor_that_does_not_tell_is_portable(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("whatever")
    monkeypatch.setattr(machine, "_CPUINFO", Path("/nonexistent"))
    machine.features.cache_clear()
    assert machine.features() == machine.needs("portable")
    monkeypatch.setattr(machine.platform, "system", lambda: "Plan 9")
    machine.features.cache_clear()
    assert machine.levels() == ("portable", "native")


def test_arm_has_portable_and_native(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("fp asimd bf16", kind="aarch64", name="Features\t")
    monkeypatch.delenv("SHARNN_CPU", raising=False)
    assert machine.levels() == ("portable", "native")
    assert machine.allows("asimd")
    monkeypatch.setenv("SHARNN_CPU", "avx2")
    with pytest.raises(ConfigError, match="lacks: it has portable, native"):
        machine.level()


def test_a_description_has_name_cores_instruction_set_and_level(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(ZEN_4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert machine.describe(torch.device("cpu")) == "some, 2 cores, AVX512-BF16"
    monkeypatch.setenv("SHARNN_CPU", "avx2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.describe(torch.device("cpu")) == "some, 1 core, AVX512-BF16, level avx2"


@pytest.mark.parametrize(
    ("level", "allowed", "denied"),
    [
        ("portable", "sse4_2", "avx2"),
        ("avx2", "fma", "avx512f"),
        ("avx512", "avx512bw", "avx512_vnni"),
        ("native", "avx512_bf16", "amx_tile"),
    ],
)
def test_a_level_admits_its_features_alone(
    processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    allowed: str,
    denied: str,
) -> None:
    processor(ZEN_4)
    monkeypatch.setenv("SHARNN_CPU", level)
    assert machine.allows(allowed)
    assert not machine.allows(denied)


def test_wrong_levels_are_refused_with_what_there_is(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(HASWELL)
    monkeypatch.setenv("SHARNN_CPU", "avx3")
    with pytest.raises(
        ConfigError, match="'avx3', which is not a level: this processor has portable, avx2, native"
    ):
        machine.level()
    monkeypatch.setenv("SHARNN_CPU", "avx512")
    with pytest.raises(ConfigError, match="lacks: it has portable, avx2, native"):
        machine.level()
    monkeypatch.setenv("SHARNN_CPU", "")
    assert machine.level() == "native"


def test_names_of_macos() -> None:
    told = "FPU SSE2 SSSE3 FMA SSE4.1 SSE4.2 MOVBE POPCNT AVX1.0 F16C\nBMI1 AVX2 BMI2\nLZCNT XD\n"
    assert machine.needs("avx2") <= machine._features_by_apple_names(told)
    assert not machine.needs("avx512") <= machine._features_by_apple_names(told)


@pytest.mark.parametrize(
    ("present", "level"), [({36, 38, 40, 41}, "avx2"), ({36, 38}, "portable"), (set(), None)]
)
def test_numbers_of_windows(present: set[int], level: str | None) -> None:
    found = machine._features_of_windows(present.__contains__)
    assert found == (machine.needs(level) if level else frozenset())


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = {"SHARNN_CPU", "SHARNN_NATIVE", *machine._LIBRARY_BOUNDS["portable"]}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=environment | variables, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


_PRODUCTS = """
a = torch.randn(64, 64)
a @ a
w = torch.ops.mkldnn._reorder_linear_weight(a, 64)
torch.ops.mkldnn._linear_pointwise(a, w, None, "none", [], "")
print("capability", torch.backends.cpu.get_cpu_capability())
print("variant", sharnn.kernels.variant().name)
"""


@ON_X86
@pytest.mark.parametrize("order", ["import sharnn, torch", "import torch, sharnn"])
def test_avx2_bounds_every_library(order: str) -> None:
    if "avx2" not in machine.levels():
        pytest.skip("needs AVX2")
    code = f"{order}\nimport sharnn.kernels, os{_PRODUCTS}"
    code += "print('MKL', os.environ['MKL_ENABLE_INSTRUCTIONS'])"
    done = run(code, SHARNN_CPU="avx2", ONEDNN_VERBOSE="1", MKL_VERBOSE="1")
    assert done.returncode == 0, done.stderr
    assert "capability AVX2\n" in done.stdout
    assert "variant avx2\n" in done.stdout
    assert "MKL AVX2\n" in done.stdout
    assert "cpu,isa:Intel AVX2\n" in done.stdout
    assert "avx512" not in done.stdout.lower().replace("-", "")
    assert "RuntimeWarning" not in done.stderr


@ON_X86
def test_a_bound_that_comes_too_late_is_told() -> None:
    done = run("import torch; torch.zeros(9).exp(); import sharnn", SHARNN_CPU="portable")
    if re.search(
        "DEFAULT", run("import torch; print(torch.backends.cpu.get_cpu_capability())").stdout
    ):
        pytest.skip("PyTorch has nothing better than portable here")
    assert done.returncode == 0
    assert (
        "SHARNN_CPU is 'portable', but PyTorch had computed before sharnn was imported"
        in done.stderr
    )


def test_a_wrong_level_is_refused_by_command_and_library() -> None:
    done = run(
        "import sys; from sharnn.cli.main import main; sys.exit(main(['info']))", SHARNN_CPU="x"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sharnn: error: SHARNN_CPU is 'x', which is not a level")
    assert "portable" in done.stderr
    done = run("import sharnn; sharnn.load_model", SHARNN_CPU="x")
    assert done.returncode == 1
    assert "ConfigError: SHARNN_CPU is 'x'" in done.stderr


def test_import_of_sharnn_needs_no_torch() -> None:
    done = run("import sharnn, sys; print('torch' in sys.modules)", SHARNN_CPU="portable")
    assert done.stdout == "False\n"


# ------------------------------------------------------------------------------------------ threads


VERSION_2 = "0::/box/inner\n"
VERSION_1 = "4:memory:/box\n3:cpu,cpuacct:/box/inner\n0::/\n"


@pytest.fixture
def eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the machine eight cores, and no bound on them."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_num_cores", lambda: 8)
    for variable in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC"):
        monkeypatch.delenv(variable, raising=False)


def version_1(group: str, quota: int) -> dict[str, str]:
    return {f"{group}/cpu.cfs_quota_us": str(quota), f"{group}/cpu.cfs_period_us": "100000"}


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("own", "files", "threads"),
    [
        (VERSION_2, {"box/inner/cpu.max": "150000 100000\n"}, 2),  # rounded up
        (VERSION_2, {"box/cpu.max": "100000 100000\n", "box/inner/cpu.max": "max 100000\n"}, 1),
        (VERSION_2, {"cpu.max": "20000 100000\n"}, 1),  # a container is shown its own as the root
        (VERSION_2, {"cpu.max": "3200000 100000\n"}, 8),  # time for more than there are cores
        (VERSION_2, {"box/inner/cpu.max": "max 100000\n"}, None),
        (VERSION_1, version_1("cpu/box/inner", 250_000), 3),
        (VERSION_1, version_1("cpu", 50_000), 1),
        (VERSION_1, version_1("cpu", -1), None),
        (None, {"cpu.max": "100000 100000\n"}, None),
    ],
)  # fmt: skip
def test_a_containers_quota_bounds_the_threads(
    own: str | None, files: dict[str, str], threads: int | None, tmp_path: Path
) -> None:
    if own is not None:
        write(tmp_path / "own", own)
    for name, content in files.items():
        write(tmp_path / "groups" / name, content)
    assert machine.thread_bound() == threads


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("variables", "quota", "threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, 2, None),  # as the user says
        ({"OMP_NUM_THREADS": "3,2", "OMP_THREAD_LIMIT": "2"}, 5, 2),
        ({"OMP_NUM_THREADS": "2", "OMP_THREAD_LIMIT": "4"}, 1, None),
        ({"OMP_THREAD_LIMIT": "3"}, None, 3),
        ({"OMP_THREAD_LIMIT": "3"}, 2, 2),
        ({"OMP_THREAD_LIMIT": "100"}, None, 8),
        ({"OMP_NUM_THREADS": "many", "OMP_THREAD_LIMIT": ""}, 4, 4),
        ({}, None, None),
    ],
)
def test_what_the_user_says_counts_most(
    variables: dict[str, str], quota: int | None, threads: int | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write(tmp_path / "own", VERSION_2)
    if quota is not None:
        write(tmp_path / "groups" / "cpu.max", f"{quota}00000 100000")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.thread_bound() == threads


@pytest.mark.usefixtures("eight_cores")
def test_the_bound_is_set_for_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "2")
    monkeypatch.setenv("OMP_DYNAMIC", "TRUE")
    assert machine.threads_vary()
    machine.bound_threads()  # torch is here already
    assert os.environ["OMP_NUM_THREADS"] == "6"
    assert machine.threads_vary()
    monkeypatch.delitem(sys.modules, "torch")
    machine.bound_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert not machine.threads_vary()
