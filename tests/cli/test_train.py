"""`sharnn train`: begins, goes on, also from what a model has learnt, and refuses what cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.calls import LANES, MODEL, QUICK, TINY, fails
from models import ship, write_model
from sharnn.checkpoint import load_model
from sharnn.cli.main import main
from sharnn.recipe import load_recipe_settings
from sharnn.train.trainer import Trainer
from texts import write_text
from train.runs import losses

# Without recall, by which the end of a text costs less than its beginning, whatever was learnt.
FORGETFUL = [*MODEL, "--model.recall_orders", "[]"]


@pytest.fixture(scope="module")
def text(tiny_text: Path) -> str:
    return str(tiny_text)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    """A run that has learnt something of the text."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    call = ["train", text, "--out", str(folder), "--budget", "150steps", *FORGETFUL, *LANES, *QUICK]
    assert main(call) == 0
    return folder


def printed_recipe(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    capsys.readouterr()
    assert main(["train", *argv, "--print-recipe"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_options_say_how_texts_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--encoding", "latin-1", "--include", "*.md", "--exclude", "a", "--exclude", "b/*"]
    data = printed_recipe(["x", *options], capsys)["data"]
    assert (data["encoding"], data["include"], data["exclude"]) == (
        "latin-1",
        ["*.md"],
        ["a", "b/*"],
    )
    assert main(["train", "x", "--encoding", "latn1", "--print-recipe"]) == 2
    assert "there is no encoding 'latn1' (did you mean 'latin1'?)" in capsys.readouterr().err


def test_it_goes_on_from_what_was_learnt(
    tmp_path: Path, text: str, learnt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    call = ["train", "--from", str(learnt), text, "--out", str(out), "--budget", "3steps"]
    assert main([*call, *QUICK, *LANES]) == 0
    assert f"of {learnt} on {text}" in capsys.readouterr().err.replace("\n", " ")
    (_, first), (_, untrained) = losses(out)[0], losses(learnt)[0]
    assert first < untrained - 1.5
    assert first < losses(learnt)[-1][1] + 0.5
    assert main(["evaluate", str(out), text, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["bits_per_byte"] < 5


def test_settings_are_the_models_and_the_recipes(
    learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = load_model(learnt).model.config
    finetune = load_recipe_settings("finetune")
    assert "model" not in finetune
    recipe = printed_recipe(["--from", str(learnt)], capsys)
    assert recipe["model"]["embed_dim"] == own.embed_dim == 16
    assert recipe["model"]["window"] == own.window == 16
    assert recipe["train"]["init_from"] == str(learnt)
    for section, values in finetune.items():
        assert {key: recipe[section][key] for key in values} == values

    # Another recipe's model means nothing here, the rest of it does.
    recipe = printed_recipe(["--recipe", "paper-enwik8-one", f"--from={learnt}"], capsys)
    assert (recipe["model"]["embed_dim"], recipe["model"]["hidden_dropout"]) == (16, 0.0)
    assert (recipe["optim"]["name"], recipe["data"]["texts"]) == ("lamb", ["enwik8"])

    free = ["--model.window", "99", "--model.hidden_dropout", "0.25", "--optim.lr", "0.5"]
    recipe = printed_recipe(["--from", str(learnt), *free], capsys)
    assert (recipe["model"]["window"], recipe["model"]["hidden_dropout"]) == (99, 0.25)
    assert recipe["optim"]["lr"] == 0.5

    # A recipe that names its model itself is a run's own, and keeps what that run has chosen.
    saved = tmp_path / "recipe.yaml"
    saved.write_text(yaml.safe_dump(recipe))
    assert printed_recipe(["--recipe", str(saved)], capsys) == recipe
    again = printed_recipe(["--recipe", str(saved), "--from", str(learnt / "last")], capsys)
    assert again["model"]["window"] == 16
    option = ["--train.init_from", str(learnt / "last")]
    assert printed_recipe(["--recipe", str(saved), *option], capsys) == again


def test_resume_is_exact_and_needs_no_model(
    tmp_path: Path, text: str, learnt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(learnt, tmp_path / "model", symlinks=True)
    call = [
        "train", "--from", str(tmp_path / "model"), text, "--budget", "12steps", *QUICK, *LANES,
        "--model.hidden_dropout", "0.2", "--train.checkpoint_every", "4steps",
        "--train.validate_every", "5steps",
    ]  # fmt: skip
    assert main([*call, "--out", str(tmp_path / "whole")]) == 0
    take_step = Trainer.step

    def step_or_die(trainer: Trainer) -> None:
        if trainer.counters.step == 7:
            raise MemoryError
        take_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_or_die)
        assert main([*call, "--out", str(tmp_path / "killed")]) == 1
    shutil.rmtree(tmp_path / "model")
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_the_shipped_model_can_be_tuned(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "shipped", dtype="int8")
    ship(tmp_path / "shipped", monkeypatch)
    call = ["train", "--from", "base", text, "--out", "tuned", "--budget", "2steps"]
    assert main([*call, *QUICK, *LANES]) == 0
    assert load_model("tuned").card["fine-tuned from"] == "base"
    assert (
        main(["train", "--from", "tuned", text, "--out", "again", *call[-2:], *QUICK, *LANES]) == 0
    )
    assert load_model("again").card["fine-tuned from"] == "tuned"


@pytest.mark.parametrize(("budget", "rate"), [("1steps", 0.0), ("13epochs", 0.1)])
def test_fine_tuning_drops_out_what_is_read_often(
    learnt: Path, tmp_path: Path, budget: str, rate: float
) -> None:
    (tmp_path / "short.txt").write_text("Read again and again. " * 40)
    call = ["train", "--from", str(learnt), str(tmp_path / "short.txt"), "--budget", budget]
    assert main([*call, "--out", str(tmp_path / "run"), *QUICK]) == 0
    recipe = load_recipe_settings(str(tmp_path / "run" / "recipe.yaml"))
    names = ("input_dropout", "hidden_dropout", "output_dropout")
    assert [recipe["model"][name] for name in names] == [rate] * 3
    assert recipe["data"]["num_lanes"] < load_recipe_settings("finetune")["data"]["num_lanes"]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--model.embed_dim", "32"], 2, "model.embed_dim would not fit the weights of"),
        (["--model.num_layers=2"], 2, "model.num_layers would not fit the weights of"),
        (["--model.architecture", "lstm"], 2, "model.architecture would not fit"),
        (["--model.vocab_size", "99"], 2, "model.vocab_size would not fit"),
        (["--model.hidden_dropout", "2"], 2, "model.hidden_dropout is 2.0"),
        (["--data.tokenizer", "word"], 2, "data.tokenizer is 'word'"),
        (["--resume", "x"], 2, "--from would do nothing"),
        (["--train.init_digest", "abc"], 2, "init_digest"),
        (["--form", "x"], 2, "did you mean '--from'"),
    ],
)
def test_what_would_not_fit_is_refused(
    argv: list[str], code: int, message: str, text: str, learnt: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    new = [] if "--resume" in argv else [text, "--out", str(tmp_path / "out")]
    assert main(["train", "--from", str(learnt), *new, *argv]) == code
    error = capsys.readouterr().err
    assert message in error, error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_models_that_are_not_there_are_told(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ship(None, monkeypatch)
    for origin, message in {
        "nothing": "there is no model at nothing",
        "base": "comes without the model 'base'",
        text: "is a file",
    }.items():
        assert main(["train", "--from", origin, text, "--out", "out"]) == 1
        assert message in capsys.readouterr().err
    write_model(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"")
    assert main(["train", "--from", "cut", text, "--out", "out"]) == 1
    assert "model.safetensors does not match config.json" in capsys.readouterr().err
    assert not Path("out").exists()


def test_another_optimiser_is_not_given_what_the_recipes_own_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("adamw", "lamb"):
        assert main(["train", "x", "--optim.name", name, "--print-recipe"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["optim"]["matrix_lr"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train.fit", "[model.embed_dim]", "--model.embed_dim", "64"], "give one of the two"),
        (["--model.boom_dim", "1024"], "model.boom_dim depends on the width"),
        (["--model.architecture", "transformer", "--model.num_heads=8"], "give model.embed_dim"),
        (["--train.seed", str(1 << 63)], "train.seed is"),
        (["--train.validation_tokens", "1"], "at least 2"),
    ],
)
def test_options_that_the_run_would_undo_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "x", *options, "--print-recipe"]) == 2
    assert message in capsys.readouterr().err


def test_options_are_not_chosen_by_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def left_to_choose(*options: str) -> list[str]:
        assert main(["train", "x", *options, "--print-recipe"]) == 0
        return yaml.safe_load(capsys.readouterr().out)["train"]["fit"]

    every = left_to_choose()
    assert "model.embed_dim" in every
    assert left_to_choose("--model.hidden_dropout", "0.2") == [
        name for name in every if name != "model.hidden_dropout"
    ]
    assert "model.num_layers" in left_to_choose("--model.attention_layers", "all")
    placed = left_to_choose("--model.attention_layers", "[1]")
    assert "model.embed_dim" in placed
    assert "model.num_layers" not in placed
    sized = left_to_choose("--model.embed_dim=64")
    assert not {"model.embed_dim", "model.num_layers"} & set(sized)
    assert "data.num_lanes" in sized


def test_texts_may_stand_in_several_places(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "a.txt", "--recipe", "demo", "b.txt", "--print-recipe"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["texts"] == ["a.txt", "b.txt"]


# --------------------------------------------------------------- without --from


def test_resume_after_the_end_goes_on_with_a_new_budget(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run", symlinks=True)
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
        (["train", "--model.embed_dmi", "3"], "did you mean '--model.embed_dim'"),
        (["train", "--bugdet", "3s"], "did you mean '--budget'"),
        (["train", "--model.embed_dim", "many"], "model.embed_dim"),
        (["train", "--model.embed_dim", "0"], "model.embed_dim is 0"),
        (["train", "--model.hidden_dropout", "1.5"], "model.hidden_dropout is 1.5"),
        (["train", "--recipe", "desktpo"], "did you mean 'desktop'"),
        (["train", "--budget", "10 parsecs"], "give a number and a unit"),
        (["train", "--budget", "-1m"], "train.budget is '-1m': give a number and a unit"),
        (["train", "--recipe", "x" * 300], "there is no recipe 'xxx"),
        (["train", "--out", "x" * 300], "the name is too long: give a shorter one"),
        (["train", "--budget", "0s"], "more than 0"),
        (["train", "--device", "tpu"], "give auto, cpu, cuda or cuda:N"),
        (["train", "--train.dtype", "int8"], "train.dtype"),
        (["train", "--model.architecture", "lstm", "--model.window", "9"], "does nothing with model"),
        (["train", "--optim.min_trust", "0.1"], "does nothing with optim.name 'muon'"),
        (["train", "--train.grad_accum_steps", "7"], "must be a multiple"),
        (["train", "--resume", "x", "--optim.lr", "1"], "--optim.lr would do nothing"),
        (["train", "--resume", "x", "--from", "base"], "--from would do nothing"),
    ],
)  # fmt: skip
def test_wrong_calls_exit_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(argv, 2, message, capsys)


def test_failures_exit_with_1(
    tiny_run: Path, tmp_path: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    fails(["train", "no-such-file", "--out", out], 1, "no text at no-such-file", capsys)
    (tmp_path / "empty").touch()
    fails(["train", str(tmp_path / "empty"), "--out", out], 1, "is empty", capsys)
    (tmp_path / "one").write_bytes(b"x")
    fails(["train", str(tmp_path / "one"), "--out", out, *TINY], 1, "too few for 4 lanes", capsys)
    assert not Path(out).exists()  # nothing is begun that cannot go on
    fails(
        ["train", str(tiny_text), "--out", str(tiny_run), *TINY],
        2,
        "already contains a run",
        capsys,
    )
    fails(["train", "--resume", str(tmp_path)], 1, "is not a run folder", capsys)
    call = ["train", str(tiny_text), "--out", out, *TINY]
    fails([*call, "--model.vocab_size", "99"], 2, "leave it out", capsys)
    fails([*call, "--data.tokenizer", "word"], 1, "be lost", capsys)
    huge = ["--model.embed_dim", "20000", "--model.num_layers", "90"]
    fails([*call, *huge], 1, "GiB are free", capsys)


def test_unwritable_folders_are_told(
    tmp_path: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "run")
    call = ["train", str(tiny_text), "--out", out, "--budget", "2steps", *TINY]
    fails(call, 1, "cannot write", capsys)


def test_train_from_standard_input_with_tensorboard(tmp_path: Path, tiny_text: Path) -> None:
    out = tmp_path / "piped"
    command = [sys.executable, "-m", "sharnn", "train", "-", "--out", str(out), *TINY]
    subprocess.run(
        [*command, "--budget", "3steps", "--train.tensorboard", "true"],
        input=tiny_text.read_bytes(),
        check=True,
        capture_output=True,
    )
    assert list((out / "tensorboard").glob("events*"))
    assert main(["train", "--resume", str(out), "--budget", "5steps"]) == 0
