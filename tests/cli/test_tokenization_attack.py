"""The command does what is missing, prints tables and names the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.stopping import kill_in_training, stop_in_training
from sharnn.cli.main import main
from sharnn.files import read_json
from texts import write_text

SMALL = [
    "--architectures", "lstm", "--tokenizations", "byte", "--match", "bytes", "--seeds", "1",
    "--num-parameters", "20000", "--num-layers", "1", "--train-bytes", "2000", "--num-lanes", "4",
    "--segment-bytes", "32", "--score-bytes", "200", "--words", "3", "--device", "cpu",
]  # fmt: skip


def test_scores_are_printed_and_a_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = write_text(tmp_path, 8_000), tmp_path / "attack"
    call = ["tokenization-attack", str(text), *SMALL, "--out", str(out)]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "Scores, equal bytes" in printed
    assert f"report  {out / 'report.html'}" in printed
    result = read_json(out / "results.json")
    assert "tokenization-attack" in result["command"]
    assert [r["architecture"] for r in result["runs"]] == ["lstm"]
    assert "20,000 weights in 1 blocks" in (out / "report.html").read_text()
    assert main(call) == 0  # nothing is left to do
    assert capsys.readouterr().out == printed


def test_a_stopped_experiment_continues_the_run_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, 8_000)
    call = ["tokenization-attack", "text.txt", *SMALL, "--train-bytes", "60000", "--out"]
    name = "lstm-byte-bytes-60000tokens-seed0"
    stop_in_training([*call, "stopped"], tmp_path / "stopped" / "runs" / name)
    assert (tmp_path / "stopped" / "runs" / f"{name}.stopped.json").is_file()

    assert main([*call, "stopped"]) == main([*call, "whole"]) == 0
    assert [path.name for path in (tmp_path / "stopped" / "runs").iterdir() if path.is_dir()] == [
        name
    ]
    (stopped,), (whole,) = (
        read_json(tmp_path / out / "results.json")["runs"] for out in ("stopped", "whole")
    )
    assert stopped["steps"] == whole["steps"] > 100
    for key in ("bits_per_byte", "by_place", "within_words"):
        assert str(stopped[key]) == str(whole[key])


def test_a_killed_experiment_continues_in_the_folder_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, 8_000)
    call = ["tokenization-attack", "text.txt", *SMALL, "--train-bytes", "60000"]
    name = "lstm-byte-bytes-60000tokens-seed0"
    kill_in_training(call, tmp_path / "attack" / "runs" / name)
    assert main(call) == 0
    kept = sorted(path.name for path in (tmp_path / "attack" / "runs").iterdir())
    assert kept == [name, f"{name}.log"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-"], 2, "it cannot be -"),
        (["no-such-file.txt"], 1, "no-such-file.txt"),
        (["x.txt", "--architectures", "rnn"], 2, "no 'rnn' (--architectures)"),
        (["x.txt", "--match", "bytes", "bytes"], 2, "--match is bytes bytes"),
        (["x.txt", "--num-layers", "0"], 2, "--num-layers is 0"),
        (["x.txt", "--word", "3"], 2, "did you mean '--words'"),
    ],
)
def test_wrong_calls_say_what_to_do(
    options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["tokenization-attack", *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
