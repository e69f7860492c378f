from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharnn.kernels import build
from sharnn.kernels.table import Kernel, built_variants

pytestmark = pytest.mark.skipif(
    os.name != "posix" or build.find_compiler() is None, reason="needs a C++ compiler"
)

_SOURCE = '#include "answer.h"\nextern "C" int answer() { return ANSWER + OFFSET; }\n'
_VARIANT = built_variants()[0]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / "answer.h").write_text("#define OFFSET 2\n")
    (tmp_path / "answer.cpp").write_text(_SOURCE)
    return Kernel(tmp_path / "answer.cpp", ("ANSWER=40",))


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def use(kernel: Kernel, tmp_path: Path, expression: str, **variables: str) -> tuple[str, str]:
    """Return standard output and error of a process of its own that loads the kernel."""
    code = (
        "from pathlib import Path; from sharnn import kernels\n"
        f"library = kernels.load(Path({str(kernel.source)!r}), *{kernel.definitions!r})\n"
        f"print({expression})"
    )
    cache = {"SHARNN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | cache | variables,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_a_kernel_is_compiled_once(kernel: Kernel, tmp_path: Path) -> None:
    counting = script(tmp_path / "counting", f'echo "$*" >> {tmp_path}/calls\nexec g++ "$@"')
    for _ in range(2):
        assert use(kernel, tmp_path, "library.answer()", CXX=counting) == ("42", "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("answer.cpp" in call for call in calls) == 1
    assert [file.suffix for file in (tmp_path / "cache" / "native").iterdir()] == [".so"]


def test_names_change_with_all_that_goes_in(kernel: Kernel) -> None:
    def name(kernel: Kernel = kernel, openmp: bool = True, version: str = "") -> str:
        return build.file_name(kernel, _VARIANT, openmp, version)

    names = {name(), name(openmp=False), name(version="g++ 15"), name(Kernel(kernel.source))}
    (kernel.source.parent / "answer.h").write_text("#define OFFSET 3\n")
    names.add(name())
    kernel.source.write_text(_SOURCE + "\n")
    names.add(name())
    assert len(names) == 6
    assert len({build.file_name(kernel, v, True) for v in built_variants()}) == len(
        built_variants()
    )


def test_processes_that_build_together_find_whole_libraries(kernel: Kernel, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from sharnn import kernels; "
        f"print(kernels.load(Path({str(kernel.source)!r}), 'ANSWER=40').answer())"
    )
    environment = os.environ | {"SHARNN_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == [b"42\n"] * 3
    assert len(list((tmp_path / "cache" / "native").iterdir())) == 1


def test_a_planted_library_is_replaced(kernel: Kernel, tmp_path: Path) -> None:
    assert use(kernel, tmp_path, "library.answer()")[0] == "42"
    (library,) = (tmp_path / "cache" / "native").iterdir()
    library.chmod(0o777)
    out, told = use(kernel, tmp_path, "library.answer()")
    assert out == "42"
    assert f"sharnn: {library} is not a file that only this user writes" in told
    assert library.stat().st_mode & 0o777 == 0o755


def test_a_compiler_that_fails_is_told_once(kernel: Kernel, tmp_path: Path) -> None:
    failing = script(
        tmp_path / "failing",
        '[ "$1" = --version ] && exit\necho "x.cpp: error: no disk" >&2; exit 3',
    )
    load_twice = f"(library, kernels.load(Path({str(kernel.source)!r}), 'ANSWER=1'))"
    out, told = use(kernel, tmp_path, load_twice, CXX=failing)
    assert out == "(None, None)"
    assert told == (
        "sharnn: cannot compile answer.cpp: failing failed with 3 x.cpp: error: no disk; "
        "continuing without it, more slowly\n"
    )


def test_a_compiler_that_hangs_is_told_once_and_ended(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = script(tmp_path / "hanging", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(build, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(build, "VERSION_SECONDS", 0.5)
    build.compiler_version.cache_clear()
    with pytest.raises(build.CompilerHangsError, match=r"hanging did not end in 0\.5 seconds"):
        build.compiler_version(hanging)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rsplit(")")[-1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the compiler started still runs")


def test_a_compiler_that_hangs_is_asked_once(kernel: Kernel, tmp_path: Path) -> None:
    hanging = script(tmp_path / "hanging", f"echo >> {tmp_path}/calls; sleep 600")
    expression = f"[kernels.load(Path({str(kernel.source)!r}), f'ANSWER={{i}}') for i in range(5)]"
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "from sharnn.kernels import build; build.TIMEOUT_SECONDS = build.VERSION_SECONDS = 0.5\n"
    )
    path = os.pathsep.join([str(patch), *filter(None, [os.environ.get("PYTHONPATH")])])
    out, told = use(kernel, tmp_path, expression, CXX=hanging, PYTHONPATH=path)
    assert out == str([None] * 5)
    assert told.count("\n") == 1
    assert "hanging did not end in 0.5 seconds; continuing without it, more slowly" in told
    assert (tmp_path / "calls").read_text() == "\n"


def test_no_kernels_are_compiled_where_that_is_not_wanted(kernel: Kernel, tmp_path: Path) -> None:
    assert use(kernel, tmp_path, "library", SHARNN_NATIVE="0") == ("None", "")
    assert use(kernel, tmp_path, "library", PATH=str(tmp_path), CXX="") == ("None", "")
    assert not (tmp_path / "cache").exists()


def test_compiling_is_announced_on_a_terminal(kernel: Kernel, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    code = (
        "from pathlib import Path; from sharnn import kernels\n"
        f"for answer in (1, 2): kernels.load(Path({str(kernel.source)!r}), f'ANSWER={{answer}}')"
    )
    environment = os.environ | {"SHARNN_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, stderr=child, check=True)
    os.close(child)
    told = os.read(parent, 10_000).decode()
    os.close(parent)
    assert told.count("sharnn: compiling kernels for ") == 1
    assert told.strip().endswith("(only once, some seconds)")
