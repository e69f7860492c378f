"""How many threads a process may compute in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharnn import machine
from sharnn.cli.main import main

VERSION_2 = "0::/box/inner\n"
VERSION_1 = "4:memory:/box\n3:cpu,cpuacct:/box/inner\n0::/\n"


@pytest.fixture(autouse=True)
def _eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("option", [["--threads", "1"], ["--threads=1"]])
def test_every_verb_takes_threads(option: list[str]) -> None:
    program = (
        "import sys\nfrom sharnn.cli.main import main\ncode = main(sys.argv[1:])\n"
        "import torch\nprint(torch.get_num_threads())\nraise SystemExit(code)\n"
    )
    command = [sys.executable, "-c", program, "data", *option, "list"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize("number", ["", "0", "-1", "all"])
def test_a_number_of_threads_is_checked(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--threads", number]) == 2
    assert f"--threads is '{number}'" in capsys.readouterr().err
