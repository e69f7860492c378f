"""Starting and resuming runs, from scratch and from the weights of a model."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from models import ship, write_model
from sharnn.checkpoint import VALID_UTF8, RunFolder, load_model
from sharnn.config import Recipe
from sharnn.data.corpus import MANIFEST, corpus_folder
from sharnn.data.prepare import train_tokenizer
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.recipe import FREE_MODEL_SETTINGS, load_recipe_settings, recipe_from_settings
from sharnn.text import WordTokenizer, save_tokenizer
from sharnn.train.launch import resume_run, start_run
from sharnn.train.trainer import Trainer
from sharnn.train.validation import ValidationText
from texts import write_text
from train.runs import losses, tiny_recipe

CONSOLE = Console(quiet=True)
WORDS = ["<eos>", "the", "cat", "dog", "sat", "on", "mat"]


class Killed(Exception):
    """Simulates a kill: nothing is saved when it is raised."""


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    take_step = Trainer.step

    def step_or_die(trainer: Trainer) -> None:
        if trainer.counters.step == step:
            raise Killed
        take_step(trainer)

    patch.setattr(Trainer, "step", step_or_die)


def tuning_recipe(model: Path | str, text: Path, **train: Any) -> Recipe:
    """Return a recipe that fine-tunes, with another dropout and window than the model has."""
    recipe = tiny_recipe(data={"texts": [str(text)]}, train={"init_from": str(model), **train})
    own = load_model(model).model.config
    free = {name: getattr(recipe.model, name) for name in FREE_MODEL_SETTINGS}
    return dataclasses.replace(recipe, model=dataclasses.replace(own, **free))


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_run_begins_with_the_weights_it_is_given(tmp_path: Path, dtype: str) -> None:
    write_model(tmp_path / "model", dtype=dtype)
    initial = load_model(tmp_path / "model")
    recipe = tuning_recipe(tmp_path / "model", write_text(tmp_path, 3_000), budget="2steps")
    recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, lr=1e-12))
    start_run(recipe, tmp_path / "run", CONSOLE)
    tuned = load_model(tmp_path / "run" / "last")
    for name, tensor in initial.model.state_dict().items():
        torch.testing.assert_close(tuned.model.state_dict()[name], tensor, atol=1e-8, rtol=0)
    assert tuned.model.config.window == 24 != initial.model.config.window
    assert tuned.model.config.hidden_dropout == 0.1
    assert tuned.dtype == "fp32"


def test_a_run_says_where_it_came_from(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    recipe = tuning_recipe(tmp_path / "model", write_text(tmp_path, 3_000), budget="2steps")
    start_run(recipe, tmp_path / "run", CONSOLE)
    origin, digest = str(tmp_path / "model"), load_model(tmp_path / "model").digest
    saved = load_recipe_settings(str(tmp_path / "run" / "recipe.yaml"))["train"]
    assert saved["init_from"] == origin
    facts = RunFolder.open(tmp_path / "run").facts()
    assert facts.initial_digest == digest
    (start,) = records(tmp_path / "run", "start")
    assert (start["init_from"], start["init_digest"]) == (origin, digest)
    card = load_model(tmp_path / "run").card
    assert (card["fine-tuned from"], card["initial weights"]) == (origin, digest)


def test_a_run_from_scratch_has_no_origin(tmp_path: Path) -> None:
    text = str(write_text(tmp_path, 3_000))
    recipe = tiny_recipe(data={"texts": [text]}, train={"budget": "2steps"})
    start_run(recipe, tmp_path / "run", CONSOLE)
    (start,) = records(tmp_path / "run", "start")
    assert start["init_from"] is None
    assert "fine-tuned from" not in load_model(tmp_path / "run").card
    assert records(tmp_path / "run", "valid")[0]["step"] > 0


@pytest.mark.parametrize("average", [0.0, 0.2])
def test_the_initial_model_may_stay_the_best(tmp_path: Path, average: float) -> None:
    text = write_text(tmp_path, 3_000)
    recipe = tiny_recipe(
        model={"residual": True}, data={"texts": [str(text)]}, train={"budget": "60steps"}
    )
    start_run(recipe, tmp_path / "first", CONSOLE)
    ruinous = tuning_recipe(tmp_path / "first", text, budget="4steps")
    optim = dataclasses.replace(ruinous.optim, lr=10.0, average=average)
    ruinous = dataclasses.replace(ruinous, optim=optim)
    outcome = start_run(ruinous, tmp_path / "second", CONSOLE)
    assert outcome.counters.best_step == 0
    assert records(tmp_path / "second", "valid")[0]["step"] == 0
    before, after = (load_model(tmp_path / name).model for name in ("first", "second"))
    assert torch.equal(before.embedding.weight, after.embedding.weight)


@pytest.mark.parametrize("step", [0, 2, 7])
def test_a_killed_run_resumes_exactly_without_the_initial_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write_model(tmp_path / "model")
    recipe = tuning_recipe(tmp_path / "model", write_text(tmp_path, 1_500), budget="12steps")
    start_run(recipe, tmp_path / "whole", CONSOLE)
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            start_run(recipe, tmp_path / "killed", CONSOLE)
    shutil.rmtree(tmp_path / "model")
    resume_run(tmp_path / "killed", CONSOLE)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for kind in ("valid", "train"):
        whole, killed = (
            [(r["step"], r["bits_per_byte"]) for r in records(tmp_path / name, kind)]
            for name in ("whole", "killed")
        )
        assert whole == killed


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_model_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    recipe = tuning_recipe(tmp_path / "model", write_text(tmp_path, 1_500), budget="6steps")
    start_run(recipe, tmp_path / "whole", CONSOLE)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ValidationText, "score", die)
        with pytest.raises(Killed):
            start_run(recipe, tmp_path / "killed", CONSOLE)
    write_model(tmp_path / "model", seed=1)
    with pytest.raises(CheckpointError, match="is not the model that this run began with"):
        resume_run(tmp_path / "killed", CONSOLE)
    write_model(tmp_path / "model")
    resume_run(tmp_path / "killed", CONSOLE)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(records(tmp_path / "killed", "start")) == 1


def test_a_saved_recipe_makes_the_same_run_again(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    recipe = tuning_recipe(tmp_path / "model", write_text(tmp_path, 1_500), budget="6steps")
    start_run(recipe, tmp_path / "one", CONSOLE)
    saved = load_recipe_settings(str(tmp_path / "one" / "recipe.yaml"))
    start_run(recipe_from_settings(saved), tmp_path / "two", CONSOLE)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    write_model(tmp_path / "model", seed=1)
    start_run(recipe_from_settings(saved), tmp_path / "three", CONSOLE)
    assert losses(tmp_path / "one") != losses(tmp_path / "three")
    one, three = (RunFolder.open(tmp_path / name).facts() for name in ("one", "three"))
    assert one.initial_digest != three.initial_digest


def test_a_run_can_start_from_the_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "shipped", dtype="int8")
    ship(tmp_path / "shipped", monkeypatch)
    recipe = tuning_recipe("base", write_text(tmp_path, 1_500), budget="2steps")
    start_run(recipe, tmp_path / "run", CONSOLE)
    assert load_model(tmp_path / "run").card["fine-tuned from"] == "base"


def test_texts_are_read_with_the_models_own_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they are prepared again on resume: the text alone has fewer words."""
    write_model(tmp_path / "model", tokenizer=WordTokenizer(WORDS))
    text = tmp_path / "text.txt"
    text.write_text(" the cat sat \n the mat \n" * 80)
    recipe = tuning_recipe(tmp_path / "model", text, budget="4steps")
    start_run(recipe, tmp_path / "run", CONSOLE)
    tokenizer = load_model(tmp_path / "run").tokenizer
    assert isinstance(tokenizer, WordTokenizer)
    assert tokenizer.words == WORDS
    shutil.rmtree(tmp_path / "model")
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "new cache"))
    assert resume_run(tmp_path / "run", CONSOLE, "6steps").counters.step == 6

    write_model(tmp_path / "model", tokenizer=WordTokenizer(WORDS))
    text.write_text(" the bird sat \n" * 80)
    with pytest.raises(DataError, match="'bird' is not in the vocabulary"):
        start_run(recipe, tmp_path / "other", CONSOLE)


def write_bpe(path: Path, text: Path, vocab_size: int) -> None:
    save_tokenizer(train_tokenizer([str(text)], "bpe", vocab_size), path)


@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_run_keeps_the_tokenizer_that_its_file_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """With and without a checkpoint, when the corpus is no longer in the cache."""
    text, file = write_text(tmp_path, 9_000), tmp_path / "bpe.json"
    write_bpe(file, text, 300)
    recipe = tiny_recipe(
        data={"texts": [str(text)], "tokenizer": str(file)},
        train={"budget": "12steps", "checkpoint_every": "5steps"},
    )
    start_run(recipe, tmp_path / "whole", CONSOLE)
    with monkeypatch.context() as patch:
        kill_at(killed_at, patch)
        with pytest.raises(Killed):
            start_run(recipe, tmp_path / "run", CONSOLE)
    original = file.read_text()
    write_bpe(file, text, 280)
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "new cache"))
    assert resume_run(tmp_path / "run", CONSOLE).counters.step == 12
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    loaded = load_model(tmp_path / "run")
    assert loaded.model.config.vocab_size == 300
    assert loaded.tokenizer.to_json() == json.loads(original)


def test_a_run_whose_copy_of_the_tokenizer_was_altered_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, file = write_text(tmp_path, 9_000), tmp_path / "bpe.json"
    write_bpe(file, text, 300)
    recipe = tiny_recipe(data={"texts": [str(text)], "tokenizer": str(file)})
    with monkeypatch.context() as patch:
        kill_at(2, patch)
        with pytest.raises(Killed):
            start_run(recipe, tmp_path / "run", CONSOLE)
    write_bpe(tmp_path / "run" / "tokenizer.json", text, 280)
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "new cache"))
    with pytest.raises(DataError, match=r"the run's copy of .*bpe\.json, changed since the run"):
        resume_run(tmp_path / "run", CONSOLE)


def test_a_tokenizer_file_is_refused_with_an_initial_model(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    text = write_text(tmp_path, 1_500)
    recipe = tuning_recipe(tmp_path / "model", text)
    data = dataclasses.replace(recipe.data, tokenizer="bpe.json")
    with pytest.raises(ConfigError, match=r"data\.tokenizer is 'bpe\.json'.*leave it out"):
        start_run(dataclasses.replace(recipe, data=data), tmp_path / "run", CONSOLE)
    with pytest.raises(ConfigError, match=r"no tokenizer 'bpe' .*byte, word, or a tokenizer file"):
        dataclasses.replace(recipe.data, tokenizer="bpe")


def test_models_that_a_run_cannot_start_from(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    recipe, out = tuning_recipe(tmp_path / "model", write_text(tmp_path, 1_500)), tmp_path / "run"
    wider = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, embed_dim=24))
    with pytest.raises(ConfigError, match=r"model\.embed_dim is 24, but .* was made with 16"):
        start_run(wider, out, CONSOLE)
    words = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, tokenizer="word"))
    with pytest.raises(ConfigError, match=r"data\.tokenizer is 'word', but .* reads 'byte' tokens"):
        start_run(words, out, CONSOLE)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not match"):
        start_run(recipe, out, CONSOLE)
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(CheckpointError, match="there is no model at"):
        start_run(recipe, out, CONSOLE)
    assert not out.exists()


def test_a_new_budget_renews_the_patience_of_early_stop(tmp_path: Path) -> None:
    text, out = write_text(tmp_path, 6_000), tmp_path / "run"
    steady = {"budget": "90steps", "validate_every": "2steps", "early_stop": 1}
    recipe = tiny_recipe(data={"texts": [str(text)]}, optim={"lr": 1.0}, train=steady)
    stopped = start_run(recipe, out, CONSOLE)
    assert stopped.reason == "no improvement in 1 validations"
    step = stopped.counters.step
    assert resume_run(out, CONSOLE).counters.step == step
    assert resume_run(out, CONSOLE, "100steps").counters.step > step


def test_standard_input_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(write_text(tmp_path, 6_000).read_bytes()))
    monkeypatch.setattr("sys.stdin", text)
    start_run(tiny_recipe(data={"texts": ["-"]}), tmp_path / "run", CONSOLE)
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="read standard input"):
        resume_run(tmp_path / "run", CONSOLE, "40steps")
    kept = str(write_text(tmp_path, 6_000))
    assert resume_run(tmp_path / "run", CONSOLE, "40steps", texts=[kept]).counters.step == 40


def test_a_raised_budget_is_kept_and_what_is_used_is_told(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        data={"texts": [str(write_text(tmp_path, 3_000))]}, train={"budget": "4steps"}
    )
    run, output = tmp_path / "run", io.StringIO()
    start_run(recipe, run, CONSOLE)
    console = Console(file=output, width=300)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(6, patch)
        with pytest.raises(Killed):
            resume_run(run, console, "8steps", device="cpu")
    assert resume_run(run, console).counters.step == 8
    resume_run(run, console)
    told = output.getvalue()
    assert "at step 4, 50% of 8steps used" in told
    assert "100% of 8steps used; a budget counts from the beginning of the run" in told


def test_a_text_that_moved_is_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, run = write_text(tmp_path, 3_000), tmp_path / "run"
    recipe = tiny_recipe(data={"texts": [str(text)]}, train={"budget": "4steps"})
    start_run(recipe, run, CONSOLE)
    moved = tmp_path / "moved.txt"
    text.rename(moved)
    assert resume_run(run, CONSOLE, "5steps").counters.step == 5  # from the cache
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="if the run's text has moved, give its new place too"):
        resume_run(run, CONSOLE, "6steps")
    assert resume_run(run, CONSOLE, "6steps", texts=[str(moved)]).counters.step == 6
    assert load_recipe_settings(str(run / "recipe.yaml"))["data"]["texts"] == [str(moved)]
    other = str(write_text(tmp_path, 2_000, "other.txt"))
    with pytest.raises(DataError, match="is not the text that the run"):
        resume_run(run, CONSOLE, "7steps", texts=[other])


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    """Its recipe has the digests that `run.json` has now."""
    write_model(tmp_path / "model")
    text = write_text(tmp_path, 1_500)
    recipe = tuning_recipe(tmp_path / "model", text, budget="6steps")
    start_run(recipe, tmp_path / "old", CONSOLE)
    run = RunFolder.open(tmp_path / "old")
    facts, settings = run.facts(), yaml.safe_load(run.recipe_path.read_text())
    settings["data"]["digest"] = facts.corpus_digest
    settings["train"]["init_digest"] = facts.initial_digest
    run.recipe_path.write_text(yaml.safe_dump(settings))
    run.facts_path.unlink()
    assert run.facts().corpus_digest == facts.corpus_digest
    assert run.facts().initial_digest == facts.initial_digest
    resume_run(run.path, CONSOLE, "8steps")
    assert len(losses(run.path)) == 8
    assert run.facts().corpus_digest == facts.corpus_digest  # now in run.json
    run.facts_path.write_text('{"corpus": "x"}')
    with pytest.raises(CheckpointError, match=r"run\.json does not contain the facts of a run"):
        resume_run(run.path, CONSOLE, "9steps")


def test_texts_are_read_again_as_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the run's encoding and patterns; what was read is said each time it is read."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_bytes("la façade à côté du café\n".encode("latin-1") * 100)
    (folder / "b.txt").write_text("no\n")
    data = {"texts": [str(folder)], "encoding": "latin-1", "include": ["*.md"]}
    console = Console(file=io.StringIO(), width=1000)
    start_run(tiny_recipe(data=data, train={"budget": "2steps"}), tmp_path / "run", console)
    assert not load_model(tmp_path / "run").card.get(VALID_UTF8)
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "empty"))
    resume_run(tmp_path / "run", console, "4steps")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("1 file, 3,000 bytes, latin-1; left out 1 file by data.include") == 2


def test_a_run_knows_whether_its_text_was_utf8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("la façade à côté du café\n".encode("latin-1") * 100)
    recipe = tiny_recipe(data={"texts": [str(tmp_path / "text")]}, train={"budget": "2steps"})
    start_run(recipe, tmp_path / "run", CONSOLE)
    assert not load_model(tmp_path / "run").writes_utf8
    # A corpus of an earlier version does not say so, and is read all the same.
    manifest = corpus_folder(RunFolder.open(tmp_path / "run").facts().corpus_digest) / MANIFEST
    facts = json.loads(manifest.read_text())
    del facts["read"]
    manifest.write_text(json.dumps(facts))
    (tmp_path / "text").unlink()
    resume_run(tmp_path / "run", CONSOLE, "4steps")
    assert len(losses(tmp_path / "run")) == 4


def test_a_run_records_what_it_chose(tmp_path: Path) -> None:
    text = write_text(tmp_path, 1_500)
    fit = ["data.num_lanes", "model.hidden_dropout"]
    recipe = tiny_recipe(
        data={"texts": [str(text)], "num_lanes": 64}, train={"budget": "2steps", "fit": fit}
    )
    start_run(recipe, tmp_path / "run", CONSOLE)
    run = RunFolder.open(tmp_path / "run")
    saved = load_recipe_settings(str(run.recipe_path))
    assert run.facts().chosen == {
        "data.num_lanes": saved["data"]["num_lanes"],
        "model.hidden_dropout": saved["model"]["hidden_dropout"],
    }
    assert saved["data"]["num_lanes"] < 64
    assert saved["train"]["fit"] == []
