"""`sharnn generate` as a program: exact prompts, clean output, quiet ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sharnn
from cli.calls import fails
from models import ship, write_model
from sharnn.checkpoint import VALID_UTF8, save_model
from sharnn.cli.generate import run
from sharnn.cli.main import main
from sharnn.config import ModelConfig
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.generation import Sampling
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer, WordTokenizer

Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(embed_dim=16, num_layers=2, window=12)).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1)
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, model, ByteTokenizer(), {})
    return str(path)


def program(*argv: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sharnn", "generate", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def objects(capture: Capture) -> list[dict[str, object]]:
    return [json.loads(line) for line in capture.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "text", ["The ", "123", "{", "[1, 2]", "null", "~", "- a", "--- a", "'q", "a: b\n", "#", "é"]
)
def test_texts_arrive_as_typed(folder: str, text: str, capfdbinary: Capture) -> None:
    assert run([folder, "-p", text, "--stop", text, "-n", "4", "--json"]) == 0
    assert objects(capfdbinary)[0]["prompt"] == text


def test_a_sample_is_the_same_whatever_their_number(folder: str, capfdbinary: Capture) -> None:
    call = [folder, "--prompt", "x", "--max-bytes", "30", "--temperature", "1.5", "--json"]
    assert run([*call, "--num-samples", "3", "--seed", "5"]) == 0
    three = objects(capfdbinary)
    assert run([*call, "--seed", "7"]) == 0
    (alone,) = objects(capfdbinary)
    assert three[2]["text"] == alone["text"] != three[0]["text"]
    assert [sample["seed"] for sample in three] == [5, 6, 7]
    assert all(sample["num_bytes"] == len(str(sample["text"]).encode()) for sample in three)


def test_samples_stand_in_order_whenever_they_end(
    folder: str, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more are wanted than are drawn together."""
    call = [folder, "--prompt", "x", "--temperature", "1.5", "--stop", "e", "--stop", "0"]
    alone = []
    for seed in range(5):
        assert run([*call, "--seed", str(seed)]) == 0
        alone.append(capfdbinary.readouterr().out)
    assert len({len(text) for text in alone}) > 2
    assert run([*call, "--num-samples", "5"]) == 0
    expected = (b"\n" + b"-" * 20 + b"\n").join(alone)
    assert capfdbinary.readouterr().out == expected
    monkeypatch.setattr("sharnn.cli.generate._TOGETHER", 2)
    assert run([*call, "--num-samples", "5"]) == 0
    assert capfdbinary.readouterr().out == expected


def test_output_is_the_prompt_and_the_text(folder: str, capfdbinary: Capture) -> None:
    call = [folder, "--prompt", "x", "--max-bytes", "30", "--temperature", "2"]
    assert run(call) == 0
    text = capfdbinary.readouterr()
    assert text.out.decode().startswith("x")
    assert text.err == b""  # no terminal, no status
    assert run([*call, "--raw"]) == 0
    assert len(capfdbinary.readouterr().out) == 31


def test_prompt_bytes_that_are_no_text(folder: str, tmp_path: Path, capfdbinary: Capture) -> None:
    cut = "日本".encode()[:-1]
    (tmp_path / "prompt").write_bytes(cut)
    assert run([folder, "--prompt-file", str(tmp_path / "prompt"), "--max-bytes", "9"]) == 0
    out = capfdbinary.readouterr().out
    assert out.startswith(cut)
    out.decode()
    assert run([folder, f"--prompt={os.fsdecode(cut)}", "--max-bytes", "9"]) == 0
    assert capfdbinary.readouterr().out == out


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_a_prompt_file_in_utf16(
    folder: str, encoding: str, tmp_path: Path, capfdbinary: Capture
) -> None:
    text = "a prompt of some length"
    (tmp_path / "prompt").write_bytes(text.encode(encoding))
    assert run([folder, "--prompt-file", str(tmp_path / "prompt"), "--max-bytes", "20"]) == 0
    out = capfdbinary.readouterr().out
    assert run([folder, "--prompt", text, "--max-bytes", "20"]) == 0
    assert capfdbinary.readouterr().out == out


def test_a_model_of_another_encoding_is_not_forced_into_utf8(
    tmp_path: Path, capfdbinary: Capture
) -> None:
    """What it draws is what it learnt, as with --raw; JSON and Python hold text."""
    model = write_model(tmp_path / "utf8")
    save_model(tmp_path / "latin", model, ByteTokenizer(), {VALID_UTF8: False})
    call = ["--prompt", "x", "--max-bytes", "60", "--temperature", "2"]
    outs = {}
    for name, options in (("utf8", []), ("latin", []), ("utf8", ["--raw"]), ("latin", ["--json"])):
        assert run([str(tmp_path / name), *call, *options]) == 0
        outs[name, *options] = capfdbinary.readouterr().out
    outs["utf8",].decode()
    assert outs["latin",] == outs["utf8", "--raw"] + b"\n"
    text = json.loads(outs["latin", "--json"])["text"]
    assert "x" + text + "\n" == outs["latin",].decode(errors="replace")
    sampling = Sampling(temperature=2)
    made = sharnn.load_model(tmp_path / "latin").generate("x", 60, sampling=sampling)
    assert made == text


def test_window_changes_the_text(folder: str, capfdbinary: Capture) -> None:
    call = [folder, "--prompt", "a text longer than a window", "--temperature", "0", "--json"]
    for window in ("12", "0"):
        assert run([*call, "--window", window]) == 0
    with_memory, without = objects(capfdbinary)
    assert with_memory["text"] != without["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-samples", "2", "--temperature", "0"], "all would be the same"),
        (["--num-samples", "0"], "--num-samples is 0"),
        (["--raw", "--json"], "--raw and --json"),
        (["--prompt", "a", "--prompt", "b"], "more than once"),
        (["--prompt", "a", "--prompt-file", "b"], "leave one out"),
        (["--stop", ""], "stop string is empty"),
        (["--top-q", "1"], "no option '--top-q'"),
        (["--window", "-1"], "window of -1"),
        (["--window", str(10**12)], "a memory of 1,000,000,000,000 rows takes"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_wrong_calls(folder: str, options: list[str], message: str) -> None:
    prompt = [] if "--prompt" in options else ["--prompt", "a"]
    with pytest.raises(ConfigError, match=message):
        run([folder, *([] if "--prompt-file" in options else prompt), *options])


def test_missing_files(folder: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at"):
        run([str(tmp_path / "none"), "--prompt", "a"])
    with pytest.raises(DataError, match="no such file"):
        run([folder, "--prompt-file", str(tmp_path / "none")])


def test_without_a_model_the_shipped_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("shipped"), dtype="int8")
    write_model(Path("base"), seed=1)  # which only its name reaches
    ship(Path("shipped"), monkeypatch)
    call = ["--prompt", "The history of", "--temperature", "2", "--max-bytes", "30"]
    texts = []
    for argv in (call, ["shipped", *call], ["base", *call]):
        assert main(["generate", *argv]) == 0
        captured = capfdbinary.readouterr()
        assert captured.err == b""
        texts.append(captured.out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith(b"The history of")
    assert main(["info", "--json"]) == 0
    facts = json.loads(capfdbinary.readouterr().out)
    assert (facts["folder"], facts["weights on disk"]) == ("shipped", "int8")


def test_without_any_model_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture
) -> None:
    ship(None, monkeypatch)
    for call in (["generate", "--prompt", "a"], ["info"]):
        assert main(call) == 1
        assert b"comes without the model 'base'" in capfdbinary.readouterr().err
    assert main(["generate", "Once upon a time"]) == 1
    assert b"a text to continue goes after --prompt" in capfdbinary.readouterr().err


def test_a_word_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    model = LanguageModel(ModelConfig(vocab_size=3, embed_dim=16, num_layers=1, window=4))
    save_model(tmp_path / "words", model, WordTokenizer(["<eos>", "the", "cat"]), {})
    with pytest.raises(DataError, match="'dog' is not in the vocabulary"):
        run([str(tmp_path / "words"), "--prompt", " the dog \n"])


@pytest.mark.parametrize("count", ["1", "3"])
def test_a_reader_that_leaves_ends_it_quietly(folder: str, count: str) -> None:
    call = [folder, "--prompt", "a", "--max-bytes", "1000000"]
    process = program(*call, "--num-samples", count)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


@pytest.mark.parametrize("count", ["1", "3"])
def test_an_interrupt_leaves_what_was_written(folder: str, count: str) -> None:
    call = [folder, "--prompt", "abc", "--max-bytes", "1000000"]
    process = program(*call, "--num-samples", count)
    assert process.stdout is not None
    assert process.stdout.read(8)[:3] == b"abc"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
    assert out.endswith(b"\n")


def test_generate_is_the_same_for_the_same_seed(
    tiny_run: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call = ["generate", str(tiny_run), "--prompt", "The ", "--max-bytes", "60"]
    outputs = []
    for seed in ("3", "3", "4"):
        assert main([*call, "--seed", seed]) == 0
        outputs.append(capfdbinary.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0].startswith(b"The ")
    assert len(outputs[0].rstrip(b"\n")) <= 64
    assert main([*call, "--num-samples", "2", "--seed", "3", "--json"]) == 0
    first, second = (json.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    assert b"The " + first["text"].encode() == outputs[0].removesuffix(b"\n")
    assert second["seed"] == 4


@pytest.mark.parametrize("prompt", ["007", "null", "{", "a: b", "-x", "", "日本"])
def test_prompts_arrive_as_typed(
    tiny_run: Path, prompt: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert (
        main(["generate", str(tiny_run), f"--prompt={prompt}", "--max-bytes", "5", "--json"]) == 0
    )
    assert json.loads(capfdbinary.readouterr().out)["prompt"] == prompt


def test_a_character_that_the_prompt_begins_is_in_the_text(
    tiny_run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "prompt").write_bytes(b"abc\xf0\x9f")
    call = [
        "generate",
        str(tiny_run),
        "--prompt-file",
        str(tmp_path / "prompt"),
        "--max-bytes",
        "20",
    ]
    assert main(call) == 0
    plain = capfdbinary.readouterr().out.decode().removesuffix("\n")
    assert main([*call, "--json"]) == 0
    facts = json.loads(capfdbinary.readouterr().out)
    assert facts["prompt"] == "abc"
    assert facts["prompt"] + facts["text"] == plain


def test_prompts_from_files_and_pipes(
    tiny_run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: object
) -> None:
    (tmp_path / "prompt").write_text("from a file")
    call = ["generate", str(tiny_run), "--max-bytes", "4", "--json"]
    assert main([*call, "--prompt-file", str(tmp_path / "prompt")]) == 0
    assert json.loads(capfdbinary.readouterr().out)["prompt"] == "from a file"
    result = subprocess.run(
        [sys.executable, "-m", "sharnn", *call],
        input=b"from a pipe",
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["prompt"] == "from a pipe"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "x", "--top-k", "0"], "--top-k is 0"),
        (["generate", "x", "--temperature", "0", "--top-p", "0.5"], "--top-p does nothing"),
        (["generate", "x", "--max-bytes", "-1"], "--max-bytes is -1"),
        (["generate", "x", "--prompt"], "--prompt needs a value"),
    ],
)  # fmt: skip
def test_wrong_calls_exit_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(argv, 2, message, capsys)


@pytest.mark.usefixtures("terminal")
def test_failures_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no = str(tmp_path / "no")
    fails(["generate", no], 1, "a text to continue goes after --prompt", capsys)
