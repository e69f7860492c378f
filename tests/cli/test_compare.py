"""`sharnn compare`: real trainings of a few steps, gone on with, and calls that cannot be meant."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli.stopping import read, stop_in_training
from sharnn.cli.main import main
from sharnn.experiments.comparison.published import PUBLISHED
from texts import write_text

TINY = """
model: {embed_dim: 64, num_layers: 2, window: 20, num_heads: 2, architecture: transformer}
data: {num_lanes: 8, segment_length: 16}
optim: {warmup: 800steps}
"""
EQUAL = [
    "--budget",
    "6steps",
    "--seeds",
    "1",
    "--scale",
    "0.25",
    "--threads",
    "1",
    "--device",
    "cpu",
]


def call(recipes: list[str], *options: str, text: str = "text.txt") -> int:
    return main(["compare", *recipes, text, *EQUAL, *options])


def runs_in(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())["runs"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, 12_000)
    Path("tiny.yaml").write_text(TINY)
    Path("broken.yaml").write_text("data: {num_lanes: 999999}\n")
    # The paper's recipe with fewer layers and a name that figures were published of.
    Path("paper-enwik8-one.yaml").write_text(
        "model: {embed_dim: 64, boom_dim: 128, num_layers: 2, reach: segment, window: 40,"
        " overparam_value_gate: true}\ndata: {num_lanes: 4, segment_length: 16}\n"
    )
    return tmp_path


def test_a_comparison_trains_scores_and_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ["paper-enwik8-one.yaml"]
    assert call([*first, "broken.yaml"]) == 1
    said = capsys.readouterr()
    assert "too few for" in said.err
    (one,) = runs_in(here / "comparison")
    assert "| paper-enwik8-one | " in (here / "comparison" / "results.md").read_text()

    assert call([*first, "tiny.yaml"], "--keep") == 0
    said = capsys.readouterr()
    assert "1 of 2 runs are in comparison/results.json already" in said.err
    runs = runs_in(here / "comparison")
    assert runs[0] == one  # it was not trained again
    assert [run["contender"] for run in runs] == ["paper-enwik8-one", "tiny"]
    for run in runs:
        check_run(run)
    # The over-parameterised gate of the one head is 2D² + 2D weights more, at the scaled D.
    assert one["parameters"] - one["folded_parameters"] == 2 * 16**2 + 2 * 16
    assert runs[1]["parameters"] == runs[1]["folded_parameters"]
    check_files(here / "comparison", said.out)
    kept = here / "comparison" / "runs" / "tiny-6steps-seed0"
    assert (kept / "best" / "model.safetensors").is_file()

    # Nothing is left to do, and the same table comes again.
    monkeypatch.setattr("sharnn.experiments.comparison.runner.Runner.measure", None)
    assert call([*first, "tiny.yaml"]) == 0
    assert capsys.readouterr().out == said.out
    assert runs_in(here / "comparison") == runs


def check_run(run: dict[str, Any]) -> None:
    """All sizes are a quarter, and a quarter of each split was scored, each byte once."""
    settings = run["settings"]
    assert settings["model"]["embed_dim"] == 16
    assert settings["data"]["num_lanes"] in (1, 2)
    assert settings["data"]["max_train_tokens"] == run["epoch_tokens"] == 10_800 // 4
    assert run["scale"] == 0.25
    assert run["score"]["num_bytes"] == run["test_score"]["num_bytes"] == 600 // 4
    assert run["score"]["unscored_bytes"] == 0
    assert run["steps"] == 6
    for key in ("bits_per_byte", "test_bits_per_byte"):
        assert 2 < run[key] < 9


def check_files(folder: Path, printed: str) -> None:
    published = PUBLISHED["paper-enwik8-one"]
    page, markdown = (folder / "report.html").read_text(), (folder / "results.md").read_text()
    for text in (page, markdown, printed):
        assert published.system in text
        assert "800steps → 0.568%" in text
        assert "64 → 16" in text
        assert "150 bytes of valid and 150 of test" in text
    assert "http" not in page
    assert page.count("<details>") == 2
    assert "](results.png)" in markdown
    assert (folder / "results.png").stat().st_size > 10_000


def test_contenders_may_have_names_and_budgets_be_several(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = "wide=tiny.yaml --model.embed_dim 128"
    assert call(["tiny.yaml", wide], "--budget", "2steps,4steps") == 0
    printed = capsys.readouterr().out
    assert "Measured: 2steps of training" in printed
    assert "Measured: 4steps of training" in printed
    found = {(run["contender"], run["steps"]): run for run in runs_in(here / "comparison")}
    assert set(found) == {(name, steps) for name in ("tiny", "wide") for steps in (2, 4)}
    assert found["wide", 2]["settings"]["model"]["embed_dim"] == 32


def test_a_stopped_comparison_goes_on_with_the_run_it_was_in(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_of = ["compare", "tiny.yaml", "text.txt", *EQUAL, "--budget", "400steps", "--out"]
    stop_in_training([*call_of, "stopped"], here / "stopped" / "runs" / "tiny-400steps-seed0")
    assert sorted(path.name for path in (here / "stopped" / "runs").iterdir()) == [
        "tiny-400steps-seed0", "tiny-400steps-seed0.log", "tiny-400steps-seed0.stopped.json",
    ]  # fmt: skip

    assert main([*call_of, "stopped"]) == main([*call_of, "whole"]) == 0
    (stopped,), (whole,) = runs_in(here / "stopped"), runs_in(here / "whole")
    assert stopped["steps"] == whole["steps"] == 400
    assert stopped["bits_per_byte"] == whole["bits_per_byte"]
    assert len(stopped["valid_curve"]) == len(whole["valid_curve"])
    assert not (here / "stopped" / "runs").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_sigterm_while_modules_are_imported_leaves_nothing(here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sharnn", "compare", "tiny.yaml", "text.txt", *EQUAL],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        while not handles(process.pid, signal.SIGTERM):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read().startswith("sharnn: stopped; the same command ")
    # Python itself exits by SIGINT if the interruption was in code that it compiled from a string.
    assert process.returncode in (130, -signal.SIGINT)
    assert not (here / "comparison").exists()


def handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    status = dict(line.split(":", 1) for line in read(Path(f"/proc/{pid}/status")).splitlines())
    return bool(int(status.get("SigCgt", "0"), 16) & 1 << (number - 1))


def test_a_stopped_comparison_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sharnn.experiments.comparison.runner.Runner.measure", interrupted)
    assert call(["tiny.yaml"]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_budget_in_tokens_is_no_budget_for_different_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bpe = ["tokenizer", "train", "text.txt", "--kind", "bpe", "--vocab-size", "270"]
    assert main([*bpe, "--out", "bpe.json"]) == 0
    Path("other.yaml").write_text(TINY.replace("{num_lanes", "{tokenizer: bpe.json, num_lanes"))
    assert call(["tiny.yaml", "other.yaml"]) == 2
    assert "(bpe.json, byte)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "there is nothing to compare"),
        (["text.txt"], 2, "there is no recipe to train on text.txt"),
        (["text.txt", "tiny.yaml"], 2, "tiny.yaml is a recipe, and there is no TEXT"),
        (["demo", "transformer"], 2, "transformer is a recipe, and there is no TEXT"),
        (["demo", "wide=demo"], 2, "wide=demo is a recipe, and there is no TEXT"),
        (["demo", "text.txt", "--out", "text.txt"], 2, "--out text.txt is a file"),
        (["transfomer", "text.txt"], 2, "did you mean 'transformer'"),
        (["text.txt", "text.txt"], 2, "recipe text.txt"),
        (["demo", "demo", "text.txt"], 2, "two recipes called 'demo'"),
        (["tuned.yaml", "text.txt"], 2, "starts from the weights of base"),
        (["demo", "nothing.txt"], 1, "there is no text at nothing.txt"),
        (["demo", "-"], 2, "text is -"),
        (["demo", "text.txt", "--scale", "2"], 2, "--scale is 2"),
        (["demo", "text.txt", "--scale", "0.001"], 1, "its valid split has nothing to score"),
        (["demo", "text.txt", "--budget", "soon"], 2, "give a number and a unit"),
        (["demo", "text.txt", "--jobs", "2"], 2, "--jobs is 2"),
        (["demo", "text.txt", "--seeds", "0"], 2, "--seeds is 0"),
        (["demo", "text.txt", "--sacle", "0.5"], 2, "did you mean '--scale'"),
        (["demo", "text.txt", "--out", "damaged"], 1, "damaged/results.json holds no runs"),
    ],
)
def test_wrong_calls(
    here: Path, argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tuned.yaml").write_text("train: {init_from: base}\n")
    Path("damaged").mkdir()
    Path("damaged/results.json").write_text("{}")
    assert main(["compare", *argv]) == code
    assert message in capsys.readouterr().err
    assert not (here / "comparison").exists()


def test_a_text_in_another_encoding_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("caf\xe9 cr\xe8me\n".encode("latin-1") * 20)
    assert main(["compare", "desktop", "latin.txt", "--scale", "0.001"]) != 0  # too short to score
    assert "bytes are not UTF-8" in capsys.readouterr().err
