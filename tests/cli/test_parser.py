"""Options in any order, and values of the wrong kind."""

from __future__ import annotations

import pytest

from sharnn.cli.common import make_parser
from sharnn.cli.main import main


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ["--"]),
        (["a", "b"], ["--", "a", "b"]),
        (["a", "--json", "b"], ["--json", "--", "a", "b"]),
        (["a", "--size", "3", "b", "--size=4"], ["--size", "3", "--size=4", "--", "a", "b"]),
        (["--size", "-1", "-"], ["--size", "-1", "--", "-"]),
        (["a", "--", "--size", "--"], ["--", "a", "--size", "--"]),
        (["a", "--size"], ["--size", "--", "a"]),
        ([""], ["--", ""]),
    ],
)
def test_options_stand_first(argv: list[str], expected: list[str]) -> None:
    parser = make_parser("verb", "", "", "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int)
    assert parser.options_first(argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "x", "--cache", "1.5"], "--cache is '1.5': give a whole number"),
        (["evaluate", "x", "--cache-weight", "nan"], "--cache-weight is 'nan': give a number"),
        (["evaluate", "x", "--protocol", "y"], "--protocol is 'y': give one of 'strict', 'paper'"),
        (["generate", "--seed", "x"], "--seed is 'x': give a whole number"),
        (["train", "x", "--model.residual", "2"], "--model.residual is '2': give true or false"),
        (["train", "x", "--optim.decay", "y"], "--optim.decay is 'y': give one of 'constant'"),
    ],
)
def test_values_of_the_wrong_kind_are_told_in_a_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
