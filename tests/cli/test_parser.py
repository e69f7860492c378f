"""Options in any order, and values of the wrong kind."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentError

from sharnn.cli.common import make_parser
from sharnn.cli.main import main


@pytest.mark.parametrize(
    ("argv", "names", "size"),
    [
        ([], [], None),
        (["a", "b"], ["a", "b"], None),
        (["a", "--json", "b"], ["a", "b"], None),
        (["a", "--size", "3", "b", "--size=4"], ["a", "b"], "4"),
        (["--size", "-1m", "-"], ["-"], "-1m"),
        (["--size", "---", "a"], ["a"], "---"),
        (["a", "--", "--size", "--"], ["a", "--size", "--"], None),
        ([""], [""], None),
    ],
)
def test_options_may_stand_anywhere(argv: list[str], names: list[str], size: str | None) -> None:
    parser = make_parser("verb", "", "", "")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=str)
    options = parser.parse_scattered(argv)
    assert (options.names, options.size, options.json) == (names, size, "--json" in argv)


@pytest.mark.parametrize(
    "argv", [["a", "--size"], ["--size", "--json", "a"], ["--size", "--", "a"]]
)
def test_an_option_does_not_take_another_as_its_value(argv: list[str]) -> None:
    parser = make_parser("verb", "", "", "")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=str)
    with pytest.raises(ArgumentError, match="--size: expected one argument"):
        parser.parse_scattered(argv)


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
