"""`sharnn attention`: files, numbers, and refusals before any work."""

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
    monkeypatch.chdir(tmp_path)
    write_model(Path("elsewhere/base"), seed=1, dtype="int8")
    ship(Path("elsewhere/base"), monkeypatch)
    write_model(Path("model"), attention_layers="all")
    write_text(tmp_path, 400, "a.txt")
    write_text(tmp_path, 700, "b.txt")
    Path("one").write_bytes(b"x")


def attention(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main(["attention", *argv, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_numbers_agree_with_the_files_and_with_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    facts = attention(["model", "a.txt", "--out", "look", "--window", "30"], capsys)
    assert facts == json.loads(Path("look/attention.json").read_text())
    assert (facts["model"], facts["text"], facts["window"]) == ("model", "a.txt", 30)
    assert [head["layer"] for head in facts["heads"]] == [0, 1]
    names = {"attention.html", "attention.json", "attention-0.png", "attention-1.png"}
    assert {path.name for path in Path("look").iterdir()} == names
    assert main(["evaluate", "model", "a.txt", "--window", "30", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert facts["bits_per_byte"] == pytest.approx(score["bits_per_byte"], rel=1e-6)
    assert facts["corpus_digest"] == score["corpus_digest"]


def test_without_a_model_it_is_the_shipped_one(capsys: pytest.CaptureFixture[str]) -> None:
    facts = attention(["a.txt", "--max-bytes", "50"], capsys)
    assert facts["model"] == "elsewhere/base"
    assert facts["num_tokens"] == 400  # the numbers are of all of it
    assert Path("attention/attention.html").read_text().count("</i>") == 50
    assert main(["attention", "a.txt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "base on a.txt · window 8 · 400 tokens"
    assert any(line.startswith("entropy (bits)") for line in lines)
    assert lines[-3].split() == ["page", "attention/attention.html"]


def test_a_text_may_come_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"to be or not to be")))
    assert main(["attention", "-", "--out", "zen"]) == 0
    assert capsys.readouterr().out.startswith("base on standard input · window 8 · 18 tokens\n")
    assert Path("zen/attention.png").is_file()


def test_context_is_read_and_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    alone = attention(["model", "a.txt", "--layer", "1"], capsys)
    after = attention(
        ["model", "--context", "b.txt", "a.txt", "--layer", "1", "--context", "a.txt"], capsys
    )
    assert alone["num_tokens"] == after["num_tokens"] == 400
    assert after["context"] == "b.txt + a.txt"
    assert after["nats"] != alone["nats"]
    # All of the window lies behind the first token, as it does behind the others.
    assert after["heads"][0]["even"]["entropy_bits"] == pytest.approx(3)
    assert alone["heads"][0]["even"]["entropy_bits"] < 3


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "there is no TEXT to read: sharnn attention [MODEL] TEXT…"),
        (["model"], 2, "there is no TEXT to read with it"),
        (["typo"], 1, "there is neither a model nor a text at typo"),
        (["a.txt", "model"], 2, "MODEL goes first"),
        (["lstm", "typo"], 2, "an lstm, which does not attend"),  # before the text is looked for
        (["transformer", "a.txt"], 2, "a transformer with 2 heads in every block"),
        (["a.txt", "--layer", "1"], 2, "those that attend are 0"),
        (["a.txt", "--window", "0"], 2, "the window is 0 rows"),
        (["a.txt", "--window", "-1"], 2, "a window of -1 rows"),
        (["a.txt", "--max-bytes", "0"], 2, "--max-bytes is 0"),
        (["a.txt", "--max-bytes", "1000000"], 2, "a page shows 1 to 20,000 bytes"),
        (["a.txt", "--context", "typo"], 1, "there is no text at typo"),
        (["one"], 1, "the text has 1 token"),
        (["a.txt", "--layre", "0"], 2, "did you mean '--layer'"),
        (["a.txt", "--out", "a.txt"], 2, "--out a.txt is a file"),
    ],
)
def test_wrong_calls(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if argv[:1] == ["lstm"]:
        write_model(Path("lstm"), architecture="lstm", window=None)
    if argv[:1] == ["transformer"]:
        write_model(Path("transformer"), architecture="transformer", num_heads=2)
    assert main(["attention", *argv]) == code
    assert message in capsys.readouterr().err
    assert not Path("attention").exists()
