"""The command line as it is typed: results, exit codes, and errors without tracebacks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharnn.cli.main import VERBS, main
from texts import write_text

TINY = [
    "--recipe", "demo", "--device", "cpu", "--train.dtype", "fp32", "--model.embed_dim", "16",
    "--model.num_layers", "2", "--model.window", "16", "--data.num_lanes", "4",
    "--data.segment_length", "16", "--train.validation_tokens", "300",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"), 9_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    options = ["--budget", "25steps", "--model.overparam_value_gate", "true", *TINY]
    assert main(["train", str(text), "--out", str(folder), *options]) == 0
    return folder


class Terminal(io.StringIO):
    """Standard input that is a terminal, so that no prompt is read from it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_piped_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())


def fails(argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(argv) == code
    error = capsys.readouterr().err
    assert message in error, error
    assert "Traceback" not in error


def test_evaluate_prints_bits_per_byte(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), str(text), "--split", "test"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert 1 < float(lines["bits per byte"]) < 8
    assert main(["evaluate", str(run / "last"), str(text), "--json", "--window", "400"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_bytes"] == 9_000
    assert facts["split"] == "all"
    assert main(["evaluate", str(run), str(text), "--protocol", "paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unscored_bytes"] >= 8


def test_generate_is_the_same_for_the_same_seed(
    run: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call = ["generate", str(run), "--prompt", "The ", "--max-bytes", "60"]
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
    run: Path, prompt: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["generate", str(run), f"--prompt={prompt}", "--max-bytes", "5", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["prompt"] == prompt


def test_a_character_that_the_prompt_begins_is_in_the_text(
    run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "prompt").write_bytes(b"abc\xf0\x9f")
    call = ["generate", str(run), "--prompt-file", str(tmp_path / "prompt"), "--max-bytes", "20"]
    assert main(call) == 0
    plain = capfdbinary.readouterr().out.decode().removesuffix("\n")
    assert main([*call, "--json"]) == 0
    facts = json.loads(capfdbinary.readouterr().out)
    assert facts["prompt"] == "abc"
    assert facts["prompt"] + facts["text"] == plain


def test_prompts_from_files_and_pipes(
    run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: object
) -> None:
    (tmp_path / "prompt").write_text("from a file")
    call = ["generate", str(run), "--max-bytes", "4", "--json"]
    assert main([*call, "--prompt-file", str(tmp_path / "prompt")]) == 0
    assert json.loads(capfdbinary.readouterr().out)["prompt"] == "from a file"
    result = subprocess.run(
        [sys.executable, "-m", "sharnn", *call],
        input=b"from a pipe",
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["prompt"] == "from a pipe"


def test_report_and_info(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["model"]["embed_dim"] == 16
    assert facts["parameters"] > facts["parameters, value gates folded"]
    assert main(["info", str(run)]) == 0
    assert "embed_dim" in capsys.readouterr().out


def test_resume_after_the_end_goes_on_with_a_new_budget(run: Path) -> None:
    assert main(["train", "--resume", str(run), "--budget", "27steps"]) == 0
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == 27


def test_a_changed_text_is_refused_at_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = write_text(tmp_path, 3_000), tmp_path / "run"
    assert main(["train", str(path), "--out", str(folder), "--budget", "2steps", *TINY]) == 0
    path.write_text("another text altogether " * 99)
    # As long as the cache holds what the run was begun with, the file is not needed.
    assert main(["train", "--resume", str(folder), "--budget", "3steps"]) == 0
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "new cache"))
    fails(["train", "--resume", str(folder), "--budget", "4steps"], 1, "changed since", capsys)
    path.unlink()
    fails(["train", "--resume", str(folder), "--budget", "4steps"], 1, "no text at", capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--model.embed_dmi", "3"], "did you mean '--model.embed_dim'"),
        (["train", "--bugdet", "3s"], "did you mean '--budget'"),
        (["train", "--model.embed_dim", "many"], "model.embed_dim"),
        (["train", "--model.embed_dim", "0"], "model.embed_dim is 0"),
        (["train", "--model.hidden_dropout", "1.5"], "model.hidden_dropout is 1.5"),
        (["train", "--recipe", "desktpo"], "did you mean 'desktop'"),
        (["train", "--budget", "10 parsecs"], "give a number and a unit"),
        (["train", "--budget", "0s"], "more than 0"),
        (["train", "--device", "tpu"], "give auto, cpu, cuda or cuda:N"),
        (["train", "--train.dtype", "int8"], "train.dtype"),
        (["train", "--model.architecture", "lstm", "--model.window", "9"], "does nothing with model"),
        (["train", "--optim.min_trust", "0.1"], "does nothing with optim.name 'muon'"),
        (["train", "--train.grad_accum_steps", "7"], "must be a multiple"),
        (["train", "--resume", "x", "--optim.lr", "1"], "--optim.lr would do nothing"),
        (["train", "--resume", "x", "text"], "text would do nothing"),
        (["train", "--resume", "x", "--from", "base"], "--from would do nothing"),
        (["evaluate"], "there is no TEXT to score"),
        (["evaluate", "x", "y", "--protocol", "lax"], "protocol"),
        (["generate", "x", "--top-k", "0"], "top_k is 0"),
        (["generate", "x", "--temperature", "0", "--top-p", "0.5"], "top_p does nothing"),
        (["generate", "x", "--max-bytes", "-1"], "--max-bytes is -1"),
        (["generate", "x", "--prompt"], "--prompt needs a text"),
        (["data", "prepear"], "did you mean 'prepare'"),
    ],
)  # fmt: skip
def test_wrong_calls_exit_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(argv, 2, message, capsys)


def test_failures_exit_with_1(
    run: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    fails(["train", "no-such-file", "--out", out], 1, "no text at no-such-file", capsys)
    (tmp_path / "empty").touch()
    fails(["train", str(tmp_path / "empty"), "--out", out], 1, "is empty", capsys)
    (tmp_path / "one").write_bytes(b"x")
    fails(["train", str(tmp_path / "one"), "--out", out, *TINY], 1, "too few for 4 lanes", capsys)
    assert not Path(out).exists()  # nothing is begun that cannot go on
    fails(["train", str(text), "--out", str(run), *TINY], 2, "already contains a run", capsys)
    fails(["train", "--resume", str(tmp_path)], 1, "is not a run folder", capsys)
    no = str(tmp_path / "no")
    fails(["evaluate", no, str(text)], 1, "there is neither a model nor a text at", capsys)
    fails(["generate", no], 1, "a text to continue goes after --prompt", capsys)
    fails(["info", no], 1, "there is no model at", capsys)
    fails(["report", str(tmp_path / "no")], 1, "there is no run folder", capsys)
    fails(
        ["train", str(text), "--out", out, *TINY, "--model.vocab_size", "99"],
        2,
        "leave it out",
        capsys,
    )
    fails(
        ["train", str(text), "--out", out, *TINY, "--data.tokenizer", "word"], 1, "be lost", capsys
    )
    huge = ["--model.embed_dim", "20000", "--model.num_layers", "90"]
    fails(["train", str(text), "--out", out, *TINY, *huge], 1, "GiB are free", capsys)


def test_unwritable_folders_are_told(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "run")
    fails(
        ["train", str(text), "--out", out, "--budget", "2steps", *TINY], 1, "cannot write", capsys
    )


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


def test_train_from_standard_input_with_tensorboard(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "piped"
    command = [
        sys.executable,
        "-m",
        "sharnn",
        "train",
        "-",
        "--out",
        str(out),
        "--budget",
        "3steps",
    ]
    subprocess.run(
        [*command, *TINY, "--train.tensorboard", "true"],
        input=text.read_bytes(),
        check=True,
        capture_output=True,
    )
    assert list((out / "tensorboard").glob("events*"))
    assert main(["train", "--resume", str(out), "--budget", "5steps"]) == 0


def test_demo_goes_the_whole_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--budget", "2steps"]) == 0
    printed = capfd.readouterr().out
    for expected in ("gzip -9", "bzip2 -9", "xz -9", "bits per byte  ", "def read_", "report.html"):
        assert expected in printed
    assert (out / "report.html").is_file()


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
