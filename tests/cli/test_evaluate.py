"""`sharnn evaluate`: which argument is the model, and which are texts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from models import ship, write_model
from sharnn.cli.main import main
from texts import write_text


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a model, a run, a new run, texts, and a shipped model elsewhere."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("elsewhere/base"), seed=1, dtype="int8")
    ship(Path("elsewhere/base"), monkeypatch)
    write_model(Path("model"))
    write_model(Path("run/best"))
    Path("new").mkdir()
    Path("new/recipe.yaml").write_text("")
    write_text(tmp_path, 300, "a.txt")
    write_text(tmp_path, 500, "b.txt")
    Path("texts").mkdir()
    write_text(tmp_path / "texts", 200)


def evaluate(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    """Return the model's folder and the bytes that were scored."""
    capsys.readouterr()
    assert main(["evaluate", "--json", *argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no terminal, no word about the model
    facts = json.loads(captured.out)
    return facts["model"], facts["num_bytes"]


@pytest.mark.parametrize(
    ("argv", "model", "num_bytes"),
    [
        (["model", "a.txt"], "model", 300),
        (["run", "a.txt", "b.txt"], "run/best", 800),
        (["run/best", "texts"], "run/best", 200),
        (["base", "a.txt"], "elsewhere/base", 300),
        (["a.txt"], "elsewhere/base", 300),
        (["a.txt", "b.txt"], "elsewhere/base", 800),
        (["texts"], "elsewhere/base", 200),
        (["*.txt"], "elsewhere/base", 800),
        # Options may stand anywhere, with or without a value.
        (["model", "--window", "3", "a.txt"], "model", 300),
        (["--window=3", "a.txt", "--device", "cpu", "b.txt"], "elsewhere/base", 800),
        (["--device", "cpu", "--", "model", "a.txt"], "model", 300),
    ],
)
def test_the_first_that_is_a_model_is_the_model(
    argv: list[str], model: str, num_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(argv, capsys) == (model, num_bytes)


def test_a_model_folder_called_base_goes_first_where_base_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_model(Path("base"))
    assert evaluate(["base", "a.txt"], capsys) == ("base", 300)
    assert evaluate(["a.txt"], capsys) == ("elsewhere/base", 300)


@pytest.mark.parametrize(("argv", "model"), [(["-"], "elsewhere/base"), (["model", "-"], "model")])
def test_texts_come_through_a_pipe(
    argv: list[str], model: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a text from a pipe")))
    assert evaluate(argv, capsys) == (model, 18)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "there is no TEXT to score"),
        (["base"], 2, "base is a model, and there is no TEXT to score with it"),
        (["run"], 2, "run is a model, and there is no TEXT to score with it"),
        (["typo", "a.txt"], 1, "there is neither a model nor a text at typo"),
        (["typo"], 1, "there is neither a model nor a text at typo"),
        (["enwik"], 1, "did you mean 'enwik8'"),
        (["new", "a.txt"], 1, "the run new has no checkpoint yet"),
        (["a.txt", "run"], 2, "run is a model and stands behind a text: MODEL goes first"),
        (["a.txt", "typo"], 1, "there is no text at typo"),
        (["model", "typo"], 1, "there is no text at typo"),
        (["*.md"], 1, "the pattern *.md matches no file"),
        (["a.txt", "--window"], 2, "--window"),
        (["a.txt", "--windwo", "3"], 2, "did you mean '--window'"),
    ],
)
def test_wrong_calls(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *argv]) == code
    assert message in capsys.readouterr().err


def test_without_a_shipped_model_one_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ship(None, monkeypatch)
    assert main(["evaluate", "a.txt"]) == 1
    assert "comes without the model 'base'" in capsys.readouterr().err
    assert evaluate(["model", "a.txt"], capsys) == ("model", 300)
