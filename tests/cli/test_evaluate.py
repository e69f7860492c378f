"""`sharnn evaluate`: which argument is the model, and which are texts."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch

from cli.calls import fails
from models import ship, write_model
from sharnn.checkpoint import save_model
from sharnn.cli.evaluate import word_perplexity
from sharnn.cli.main import main
from sharnn.evaluate import (
    DYNAMIC_SEGMENT_LENGTH,
    PAPER_LANES,
    ContinuousCache,
    RmsRule,
    Score,
    SgdRule,
)
from sharnn.evaluate.static import SEGMENT_LENGTH
from sharnn.text import ByteTokenizer
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
    write_text(tmp_path, 299, "a.txt").open("a").write("\n")
    write_text(tmp_path, 500, "b.txt")
    Path("texts").mkdir()
    write_text(tmp_path / "texts", 200)


def evaluate(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    """Return the model's folder and the bytes that were scored."""
    capsys.readouterr()
    assert main(["evaluate", "--json", *argv]) == 0
    captured = capsys.readouterr()
    assert "model" not in captured.err  # no terminal, no word about the model
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
        (["a.txt", "run"], 2, "run is a model, but comes after a text: MODEL goes first"),
        (["a.txt", "typo"], 1, "there is no text at typo"),
        (["model", "typo"], 1, "there is no text at typo"),
        (["*.md"], 1, "the pattern *.md matches no file"),
        (["a.txt", "--window"], 2, "--window"),
        (["a.txt", "--windwo", "3"], 2, "did you mean '--window'"),
        (["x", "y", "--protocol", "lax"], 2, "protocol"),
    ],
)
def test_wrong_calls(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["evaluate", *argv], code, message, capsys)


def test_without_a_shipped_model_one_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ship(None, monkeypatch)
    assert main(["evaluate", "a.txt"]) == 1
    assert "comes without the model 'base'" in capsys.readouterr().err
    assert evaluate(["model", "a.txt"], capsys) == ("model", 300)


def score(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return all that is printed with --json."""
    capsys.readouterr()
    assert main(["evaluate", "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


IDEAL = ["--protocol", "ideal", "--context", "40"]
RMS = ["--dynamic", "rms", "--statistics", "b.txt"]


@pytest.mark.parametrize(
    ("argv", "settings"),
    [
        ([], {"memory": {}}),
        (["--window", "3"], {"memory": {"window": 3}}),
        (["--protocol", "paper", "--lanes", "2"], {"paper": {"lanes": 2}}),
        (["--cache", "50"], {"cache": {"size": 50}}),
        (["--cache", "50", "--cache-weight", "0.3", "--cache-flatness", "0.7"],
         {"cache": {"size": 50, "weight": 0.3, "flatness": 0.7}}),
        (["--dynamic", "sgd"], {"dynamic": {"rule": "sgd", "segment_length": 32}}),
        (["--dynamic", "sgd", "--segment-length", "20", "--dynamic-lr", "0.2", "--dynamic-decay", "0.1"],
         {"dynamic": {"rule": "sgd", "segment_length": 20, "lr": 0.2, "decay": 0.1}}),
        ([*RMS, "--dynamic-lr", "0.01", "--cache", "9"],
         {"dynamic": {"rule": "rms", "lr": 0.01, "statistics_tokens": 450}, "cache": {"size": 9}}),
        (IDEAL, {"ideal": {"context": 40, "stride": 1}, "memory": {}}),
        ([*IDEAL, "--stride", "8", "--window", "4"],
         {"ideal": {"context": 40, "stride": 8}, "memory": {"window": 4}}),
    ],
)  # fmt: skip
def test_it_says_how_a_text_was_scored(
    argv: list[str], settings: dict[str, dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte once, by what was asked for, and JSON and table say what that was."""
    found = score(["model", "a.txt", *argv], capsys)
    protocol = argv[1] if "--protocol" in argv else "strict"
    assert found["protocol"] == protocol
    assert found["num_bytes"] == 300 - (2 if protocol == "paper" else 0)
    assert found["tokens_per_second"] > 0
    assert ("statistics" in found) == ("--statistics" in argv)
    memory = set() if protocol == "ideal" else {"memory"}
    assert set(found["settings"]) == set(settings) | memory
    for name, wanted in settings.items():
        assert wanted.items() <= found["settings"][name].items()
    static = score(["model", "a.txt"], capsys)
    assert (found["nats"] == static["nats"]) == (not argv)
    assert main(["evaluate", "model", "a.txt", *argv]) == 0
    table = capsys.readouterr().out
    for name, wanted in settings.items():
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name}  "))
        assert all(f"{key.replace('_', ' ')} {value}" in line for key, value in wanted.items())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--context", "9"], "--context does nothing with --protocol strict"),
        (["--stride", "2"], "--stride does nothing with --protocol strict"),
        (["--lanes", "2"], "--lanes does nothing with --protocol strict"),
        (["--protocol", "paper", "--context", "9"], "--context does nothing with --protocol paper"),
        (
            ["--protocol", "paper", "--dynamic", "sgd"],
            "--dynamic does nothing with --protocol paper",
        ),
        (["--protocol", "paper", "--cache", "9"], "--cache does nothing with --protocol paper"),
        (["--protocol", "paper", "--lanes", "0"], "--lanes is 0"),
        (["--protocol", "ideal"], "--protocol ideal needs --context N"),
        ([*IDEAL, "--dynamic", "sgd"], "--dynamic does nothing with --protocol ideal"),
        ([*IDEAL, "--cache", "9"], "--cache does nothing with --protocol ideal"),
        ([*IDEAL, "--segment-length", "9"], "--segment-length does nothing with --protocol ideal"),
        ([*IDEAL, "--lanes", "9"], "--lanes does nothing with --protocol ideal"),
        ([*IDEAL, "--window", "41"], "--window 41 reaches no further than --context 40"),
        ([*IDEAL, "--stride", "41"], "--stride is 41: it must be from 1 to --context 40"),
        (["--dynamic-lr", "0.1"], "--dynamic-lr does nothing without --dynamic"),
        (["--dynamic-decay", "0.1"], "--dynamic-decay does nothing without --dynamic"),
        (["--statistics", "b.txt"], "--statistics does nothing without --dynamic"),
        (["--cache-weight", "0.1"], "--cache-weight does nothing without --cache"),
        (["--cache-flatness", "0.1"], "--cache-flatness does nothing without --cache"),
        (["--dynamic", "rms"], "give --statistics TEXT"),
        (
            ["--dynamic", "sgd", "--statistics", "b.txt"],
            "--statistics does nothing with --dynamic sgd",
        ),
        ([*RMS[:2], "--statistics", "a.txt"], "--statistics a.txt is the text that is scored"),
        (["--dynamic", "sgd", "--dynamic-lr", "0"], "--dynamic-lr 0 makes --dynamic do nothing"),
        (["--dynamic", "sgd", "--dynamic-lr", "-1"], "--dynamic-lr is -1"),
        (["--dynamic", "sgd", "--dynamic-decay", "2"], "--dynamic-decay is 2"),
        (["--cache", "9", "--cache-weight", "0"], "--cache-weight 0 makes --cache do nothing"),
        (["--cache", "9", "--cache-weight", "1"], "--cache-weight is 1"),
        (["--cache", "0"], "--cache is 0"),
        (["--segment-length", "0"], "--segment-length is 0"),
    ],
)
def test_options_that_do_nothing_or_harm_are_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "model", "a.txt", *argv]) == 2
    assert message in capsys.readouterr().err


def test_rounded_weights_do_not_learn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "base", "a.txt", "--dynamic", "sgd"]) == 2
    assert "stored in int8, rounded to 8 bits" in capsys.readouterr().err
    assert score(["base", "a.txt", "--cache", "9"], capsys)["num_bytes"] == 300
    write_model(Path("half"), dtype="bf16")
    assert score(["half", "a.txt", "--dynamic", "sgd"], capsys)["num_bytes"] == 300


def test_more_slots_of_recall_are_taken_and_none_where_nothing_is_recalled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = write_model(Path("recalls"), recall_orders=[4], recall_slots=256)
    assert model.recall is not None
    torch.nn.init.normal_(model.recall.tokens.weight)
    save_model(Path("recalls"), model, ByteTokenizer(), {})
    write_text(Path(), 6_000, "long.txt")
    few, many = (
        score(["recalls", "long.txt", "--recall-slots", slots], capsys) for slots in ("256", "4096")
    )
    assert few["bits_per_byte"] == score(["recalls", "long.txt"], capsys)["bits_per_byte"]
    assert many["bits_per_byte"] != few["bits_per_byte"]
    for model, slots, message in (
        ("recalls", "300", "--recall-slots is 300: it must be a power of two"),
        ("model", "256", "--recall-slots does nothing with model"),
    ):
        assert main(["evaluate", model, "long.txt", "--recall-slots", slots]) == 2
        assert message in capsys.readouterr().err


def test_statistics_may_be_of_another_part_of_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    own_part = ["--dynamic", "rms", "--statistics", "a.txt", "--split", "test"]
    assert score(["model", "a.txt", *own_part], capsys)["statistics"] == "a.txt"


def test_help_knows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    sgd, rms, cache = SgdRule(), RmsRule(), ContinuousCache(1)
    assert f"learning rate (default: sgd {sgd.lr}, rms {rms.lr})" in words
    assert f"per update (default: sgd {sgd.decay}, rms {rms.decay})" in words
    assert f"below 1 (default: {cache.weight})" in words
    assert f"similar states (default: {cache.flatness})" in words
    assert f"per forward pass (default: {SEGMENT_LENGTH}, with paper 1024)" in words
    assert f"between two updates (default: {DYNAMIC_SEGMENT_LENGTH})" in words
    assert f"(default: valid {PAPER_LANES['valid']}, others {PAPER_LANES['test']})" in words


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (b"a" * 600, r"10\^\d[\d,]*\.\d"),
        (b"\x80" * 600, r"10\^\d[\d,]*\.\d"),
        (b" " * 600, "none: the text has no words"),
    ],
)
def test_a_word_perplexity_is_never_infinite(
    text: bytes, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.txt").write_bytes(text)
    assert main(["evaluate", "model", "words.txt"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^word perplexity  {row}$", printed, re.MULTILINE), printed
    assert re.search(r"\b(inf|nan)\b", printed) is None
    assert ("bits per char  none: no characters" in printed) == text.startswith(b"\x80")


@pytest.mark.parametrize(
    ("nats", "printed"), [(20.0, "54.60"), (50.0, "22,026.47"), (1e6, "10^86,858.9")]
)
def test_word_perplexities_are_readable(nats: float, printed: str) -> None:
    score = Score("strict", nats, num_tokens=30, num_bytes=30, num_chars=30, num_words=5)
    assert word_perplexity(score) == printed


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_is_not_finite_is_no_score(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(Path("diverged"))
    with torch.no_grad():
        model.embedding.weight[ord("e")] = float("nan")
    save_model(Path("nan"), model, ByteTokenizer(), {})
    assert main(["evaluate", "nan", "a.txt", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nan gives the text no finite score (nan nats)" in captured.err


def test_evaluate_prints_bits_per_byte(
    tiny_run: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tiny_run), str(tiny_text), "--split", "test"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert 1 < float(lines["bits per byte"]) < 8
    assert (
        main(["evaluate", str(tiny_run / "last"), str(tiny_text), "--json", "--window", "400"]) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_bytes"] == 9_000
    assert facts["split"] == "all"
    assert main(["evaluate", str(tiny_run), str(tiny_text), "--protocol", "paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unscored_bytes"] >= 8
