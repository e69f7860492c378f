"""`sharnn data`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharnn.cli.main import main
from sharnn.data.corpora import KNOWN_CORPORA
from texts import write_text


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "cache"))
    return str(write_text(tmp_path, 2000))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["data", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_names_every_corpus_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    for name, corpus in KNOWN_CORPORA.items():
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert corpus.licence in line
        assert corpus.description in line


def test_prepare_then_info(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "prepare", text)
    assert code == 0
    assert "byte tokens, vocabulary of 256" in out
    code, out, _ = run(capsys, "info", text, "--json")
    facts = json.loads(out)
    assert (code, facts["name"], facts["own_splits"]) == (0, text, False)
    assert [facts["splits"][s]["num_bytes"] for s in ("train", "valid", "test")] == [1800, 100, 100]
    code, out, _ = run(capsys, "info", facts["folder"], "--verify")
    assert code == 0
    assert "verified: all digests match" in out


def test_info_tells_a_damaged_folder(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(json.loads(run(capsys, "info", text, "--json")[1])["folder"])
    tokens = bytearray((folder / "tokens.bin").read_bytes())
    tokens[0] ^= 1
    (folder / "tokens.bin").write_bytes(tokens)
    code, _, err = run(capsys, "info", str(folder), "--verify")
    assert code == 1
    assert "'train' was altered" in err
    (folder / "manifest.json").unlink()
    code, _, err = run(capsys, "info", str(folder))
    assert code == 1
    assert "manifest.json: no such file" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prpare"], 2, "did you mean 'prepare'?"),
        (["list", "enwik8"], 2, "unrecognized arguments: enwik8"),
        (["prepare"], 2, "required"),
        (["prepare", "TEXT", "--verify"], 2, "there is no option '--verify'"),
        (["prepare", "TEXT", "--tokeniser", "byte"], 2, "did you mean '--tokenizer'?"),
        (["prepare", "TEXT", "--tokenizer", "wrod"], 2, "did you mean 'word'?"),
        (["prepare", "TEXT", "--tokenizer", "word"], 1, "text.txt, line 1, byte 1"),
        (["prepare", "TEXT", "--from", "TEXT"], 2, "is not a known corpus"),
        (["prepare", "enwik8", "--from", "TEXT"], 1, "is not enwik8: 2,000 bytes"),
        (["prepare", "enwik8", "--from", "/no/such"], 1, "there is nothing at /no/such"),
        (["prepare", "enwik7"], 1, "did you mean 'enwik8'?"),
    ],
)
def test_wrong_calls(
    text: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    found, out, err = run(capsys, *[text if word == "TEXT" else word for word in arguments])
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_argument_of_the_library_is_told_as_an_option(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(capsys, "prepare", text, "--from", text)
    assert f"--from is {text}, but {text} is not a known corpus" in err


def test_options_that_would_do_nothing_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = json.loads(run(capsys, "info", text, "--json")[1])["folder"]
    code, _, err = run(capsys, "info", folder, "--tokenizer", "word")
    assert code == 2
    assert "is prepared already" in err


@pytest.mark.parametrize("verb", [[], ["list"], ["prepare"], ["info"]])
def test_help_teaches_and_loads_nothing_heavy(verb: list[str]) -> None:
    program = (
        "import sys\nfrom sharnn.cli.main import main\n"
        f"try:\n    main(['data', *{verb!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "examples:" in result.stdout
    assert "sharnn data prepare enwik8" in result.stdout


def test_make_recall_writes_a_text_and_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recall.txt"
    arguments = ["make", "recall", "--out", str(out), "--bytes", "5000", "--pairs", "9"]
    code, told, _ = run(capsys, *arguments)
    assert code == 0
    assert f"{out.stat().st_size:,} bytes" in told
    assert "with perfect recall" in told
    written = out.read_bytes()
    assert written.count(b";") == written.count(b"=")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "exists already" in err
    assert out.read_bytes() == written
    code, _, err = run(capsys, *arguments[:2], "--out", f"{out}2", "--longest", "3")
    assert code == 2
    assert "--longest is 3 and --shortest 16" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--value-digits", "1000000"], "--bytes is 1000000, but a line has 1000006 bytes"),
        (["--store-share", "2"], "--store-share is 2.0"),
        (["--pairs", "99999999"], "--pairs is 99999999, but --key-digits 4 gives only 65536 keys"),
        (["--seed", "-1"], "--seed is -1"),
        (["--bytes", "3"], "--bytes is 3"),
        (["--out", "x" * 300], "the name is too long"),
    ],
)
def test_a_recall_text_that_cannot_be_made_is_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "new" / "recall.txt")] if "--out" not in options else []
    code, printed, err = run(capsys, "make", "recall", *out, *options)
    assert (code, printed) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_how_texts_are_read(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The options reach the library, and what was read is said on standard output."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_bytes("la façade à côté\n".encode("latin-1") * 20)
    (folder / "b.txt").write_text("other\n")
    (folder / "c.md").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, _ = run(capsys, "prepare", str(folder))
    assert code == 0
    assert f"read {folder}: 2 files, 346 bytes, 1 file in UTF-8; 80 bytes are not UTF-8" in out
    assert "80 bytes are not UTF-8 in a.md, probably latin-1: " in out
    assert "left out 1 file, not text: c.md" in out
    options = ("--encoding", "latin-1", "--include", "*.md", "--exclude", "c.*", "--exclude", "x")
    for verb in ("prepare", "info"):
        code, out, _ = run(capsys, verb, str(folder), *options)
        assert code == 0
        assert out.startswith(
            f"read {folder}: 1 file, 420 bytes, latin-1; left out 2 files by data."
        )
    facts = json.loads(run(capsys, "info", str(folder), *options, "--json")[1])
    assert facts["read"]["num_unwanted"] == 2
    code, out, _ = run(capsys, "info", facts["folder"])
    assert "1 file, 420 bytes, latin-1" in out
    code, _, err = run(capsys, "info", facts["folder"], "--encoding", "latin-1")
    assert (code, "is prepared already: leave out --tokenizer" in err) == (2, True)
    code, _, err = run(capsys, "prepare", text, "--encoding", "latn-1")
    assert (code, "there is no encoding 'latn-1'" in err) == (2, True)
