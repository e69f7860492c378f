"""Verbs, known and not, and the help of each."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cli.calls import fails
from sharnn.cli.main import VERBS, main


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["evaluate", "x" * 300], "the name is too long: give a shorter one"),
        (["data", "prepear"], "did you mean 'prepare'"),
    ],
)  # fmt: skip
def test_wrong_calls_exit_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(argv, 2, message, capsys)


def test_help_is_quick_and_needs_no_torch() -> None:
    program = (
        "import sys; from sharnn.cli.main import main; main({}); assert 'torch' not in sys.modules"
    )
    for argv in ([], ["--help"], *([verb, "--help"] for verb in VERBS)):
        started = time.perf_counter()
        code = program.format(argv)
        if len(argv) == 2:  # a verb's help leaves by itself
            code = (
                "import sys\nfrom sharnn.cli.main import main\n"
                f"try:\n    main({argv})\nexcept SystemExit:\n    pass\n"
                "assert 'torch' not in sys.modules"
            )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "usage: sharnn" in result.stdout
        assert time.perf_counter() - started < 5  # half a second alone; tests run side by side


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
