"""`sharnn tokenizer`, as typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tokenizers

from sharnn.checkpoint import load_model
from sharnn.cli.main import main
from sharnn.text import load_tokenizer
from texts import write_text

KINDS = {"bpe": 400, "wordpiece": 700, "unigram": 400, "spelled-word": 300}


@pytest.fixture
def text(tmp_path: Path) -> str:
    return str(write_text(tmp_path, 9_000))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["tokenizer", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fact(out: str, name: str) -> str:
    found = re.search(rf"^{name}\s+(.*)$", out, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_train_then_info(text: str, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    out = str(Path(text).with_name("made.json"))
    size = str(KINDS[kind])
    code, said, _ = run(capsys, "train", text, "--kind", kind, "--vocab-size", size, "--out", out)
    assert code == 0
    assert out in said
    code, said, _ = run(capsys, "info", out, text)
    assert code == 0
    assert (fact(said, "kind"), fact(said, "tokens")) == (kind, size)
    data = Path(text).read_bytes()
    tokens, words = len(load_tokenizer(Path(out)).encode(data)), len(data.split())
    # Two cuts between the splits may divide a unit.
    assert float(fact(said, "bytes a token")) == pytest.approx(len(data) / tokens, rel=0.01)
    assert float(fact(said, "tokens a word")) == pytest.approx(tokens / words, rel=0.01)
    assert fact(said, "round trip") == "every byte came back"
    assert "text" not in run(capsys, "info", out)[1]


def test_the_longest_tokens_are_shown_with_their_spaces(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(text).write_bytes(b"  extraordinarily long words \n" * 30 + b"\xff\xff\n" * 10)
    out = str(Path(text).with_name("made.json"))
    run(capsys, "train", text, "--kind", "spelled-word", "--vocab-size", "259", "--out", out)
    shown = fact(run(capsys, "info", out)[1], "longest")
    assert shown.split("  ")[:2] == ["␣extraordinarily", "␣words"]


def test_a_closed_vocabulary(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(text).write_bytes(b" the cat \n" * 30)
    out = str(Path(text).with_name("made.json"))
    assert run(capsys, "train", text, "--kind", "word", "--out", out)[0] == 0
    assert fact(run(capsys, "info", out, text)[1], "tokens a word") == "1.500"


def test_a_model_trained_with_a_tokenizer_file_scores_and_writes(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, folder = str(tmp_path / "bpe.json"), str(tmp_path / "run")
    run(capsys, "train", text, "--kind", "bpe", "--vocab-size", "300", "--out", out)
    tiny = (
        "--model.embed_dim 16 --model.num_layers 2 --data.num_lanes 4 --data.segment_length 16 "
        "--budget 2steps --train.validate_every 2steps"
    )
    given = ["--data.tokenizer", out, "--out", folder, *tiny.split()]
    assert main(["train", text, *given]) == 0
    assert load_model(folder).tokenizer.vocab_size == 300
    assert main(["data", "prepare", text, "--tokenizer", out]) == 0
    assert "subword tokens, vocabulary of 300" in capsys.readouterr().out
    assert main(["evaluate", folder, text]) == 0
    assert "scored  9,000 bytes" in capsys.readouterr().out
    assert main(["generate", folder, "--prompt", "The ", "--max-bytes", "20"]) == 0


def test_import(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    library = tokenizers.ByteLevelBPETokenizer()
    library.train([text], vocab_size=400, show_progress=False)
    library.save(str(tmp_path / "library.json"))
    out = str(tmp_path / "made.json")
    code, said, _ = run(capsys, "import", str(tmp_path / "library.json"), "--out", out)
    assert (code, fact(said, "tokens")) == (0, "400")
    code, said, _ = run(capsys, "info", out, text)
    assert (code, fact(said, "round trip")) == (0, "every byte came back")
    code, _, err = run(capsys, "info", str(tmp_path / "library.json"))
    assert code == 1
    assert "sharnn tokenizer import" in err
    lower = tokenizers.ByteLevelBPETokenizer(lowercase=True)
    lower.train([text], vocab_size=400, show_progress=False)
    lower.save(str(tmp_path / "lower.json"))
    code, _, err = run(capsys, "import", str(tmp_path / "lower.json"), "--out", f"{out}.json")
    assert code == 1
    assert "the first is 0x54 (b'T') at offset 0" in err
    assert not Path(f"{out}.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "did you mean 'train'?"),
        (["train", "--kind", "bpe", "--vocab-size", "300", "--out", "X.json"], 2, "required"),
        (["train", "TEXT", "--vocab-size", "300", "--out", "X.json"], 2, "--kind is missing"),
        (["train", "TEXT", "--kind", "bep", "--out", "X.json"], 2, "did you mean 'bpe'?"),
        (["train", "TEXT", "--kind", "bpe", "--out", "X.json"], 2, "--vocab-size is missing"),
        (["train", "TEXT", "--kind", "bpe", "--vocab-size", "300"], 2, "--out is missing"),
        (["train", "TEXT", "--kind", "bpe", "--vocab-size", "300", "--out", "X"], 2, "--out is X"),
        (
            ["train", "TEXT", "--kind", "word", "--vocab-size", "300", "--out", "X.json"],
            2,
            "--vocab-size does nothing",
        ),
        (
            ["train", "TEXT", "--kind", "bpe", "--vocab-size", "9", "--out", "X.json"],
            2,
            "is too small",
        ),
        (
            ["train", "TEXT", "--kind", "bpe", "--vocab-size", "99999", "--out", "X.json"],
            1,
            "is more than this text fills",
        ),
        (
            ["train", "TEXT", "--kind", "bpe", "--vocab-size", "300", "--out", "there.json"],
            2,
            "exists already",
        ),
        (["train", "TEXT", "--vocabsize", "300"], 2, "did you mean '--vocab-size'?"),
        (
            ["train", "no.txt", "--kind", "bpe", "--vocab-size", "300", "--out", "X.json"],
            1,
            "no text",
        ),
        (["info", "no.json"], 1, "no such file"),
        (["info", "there.json", "TEXT"], 1, "no known kind"),
        (["import", "there.json", "--out", "X.json"], 1, "is not a tokenizer of the library"),
    ],
)
def test_bad_calls(
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(Path(text).parent)
    Path("there.json").write_text("{}")
    found, _, err = run(capsys, *(text if part == "TEXT" else part for part in arguments))
    assert (found, message in err) == (code, True), err
    assert not Path("X.json").exists()
    assert Path("there.json").read_text() == "{}"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert all(kind in out for kind in (*KINDS, "word"))
    for verb in ("train", "import", "info"):
        with pytest.raises(SystemExit) as left:
            main(["tokenizer", verb, "--help"])
        assert left.value.code == 0
        assert "examples:" in capsys.readouterr().out
