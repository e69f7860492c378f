"""What becomes of a run's folder when it is copied, killed, or used by two."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sharnn.checkpoint import RunFolder, load_model
from sharnn.config import Recipe
from sharnn.errors import CheckpointError, ConfigError
from sharnn.train import resume_run, start_run
from sharnn.train.trainer import Trainer
from texts import write_text
from train.runs import losses, make_trainer, tiny_corpus, tiny_recipe

CONSOLE = Console(quiet=True)
BUDGET = "12steps"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    text = str(write_text(tmp_path, 6_000))
    return tiny_recipe(data={"texts": [text]}, train={"budget": BUDGET, "validate_every": "5steps"})


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe) -> Path:
    """Return a run of 12 steps."""
    start_run(recipe, tmp_path / "run", CONSOLE)
    assert (tmp_path / "run" / "last").resolve().name == "step-00000012"
    return tmp_path / "run"


def steps_after(run: Path, budget: str) -> list[int]:
    seen = len(losses(run))
    resume_run(run, CONSOLE, budget)
    return [step for step, _ in losses(run)[seen:]]


def test_a_copy_whose_links_became_folders_goes_on(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)  # follows links
    assert not (copy / "last").is_symlink()
    assert steps_after(copy, "14steps") == [13, 14]
    assert (copy / "last").is_symlink()
    assert (copy / "best").is_symlink()
    assert losses(copy)[:12] == losses(run)


def test_a_copy_without_links_is_read_and_goes_on(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    os.remove(copy / "last")
    os.remove(copy / "best")
    assert load_model(copy).digest == load_model(run / "best").digest
    assert steps_after(copy, "14steps") == [13, 14]
    assert losses(copy)[:12] == losses(run)


def test_a_disk_without_symbolic_links_has_files_in_their_place(
    run: Path, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.symlink", refused)
    other = tmp_path / "other"
    start_run(recipe, other, CONSOLE)
    assert (other / "last").read_text() == "checkpoints/step-00000012"
    for name in ("", "best", "last"):
        assert load_model(other / name).digest == load_model(run / name).digest
    assert folders(other) == folders(run)
    assert steps_after(other, "14steps") == [13, 14]
    assert losses(other)[:12] == losses(run)
    shutil.rmtree(other / "checkpoints")
    with pytest.raises(CheckpointError, match="there is no model at"):
        load_model(other / "gone")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        load_model(other)


@pytest.mark.parametrize("content", [b"", b"\xff\x00" * 300, b"elsewhere", b"\n"])
def test_a_damaged_link_file_is_as_a_lost_link(run: Path, content: bytes) -> None:
    digest = load_model(run).digest
    for name in ("best", "last"):
        os.remove(run / name)
        (run / name).write_bytes(content)
    assert load_model(run).digest == digest
    assert steps_after(run, "14steps") == [13, 14]


def test_damaged_facts_and_records_are_told(run: Path) -> None:
    facts = (run / "run.json").read_text()
    (run / "run.json").write_text(
        facts.replace('"corpus_digest": "', '"corpus_digest": null, "x": "')
    )
    with pytest.raises(CheckpointError, match="does not contain the facts of a run"):
        RunFolder(run).facts()
    (run / "run.json").write_text('{"corpus": null, "corpus_digest": null}')
    with pytest.raises(CheckpointError, match="does not contain the facts of a run"):
        RunFolder(run).facts()
    os.remove(run / "run.json")
    with pytest.raises(CheckpointError, match=r"run\.json is missing"):
        resume_run(run, CONSOLE, "14steps")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(CheckpointError, match=r"line \d+ is damaged"):
        list(RunFolder(run).read_metrics())


def test_a_checkpoint_that_is_gone_is_told_and_nothing_is_lost(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    metrics = (run / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="step-00000012, which is gone"):
        resume_run(run, CONSOLE, "14steps")
    assert (run / "metrics.jsonl").read_text() == metrics


def test_a_run_has_one_process_at_a_time(run: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom sharnn.checkpoint import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="another process is training"):
            resume_run(run, CONSOLE, "14steps")
        other.kill()
    assert steps_after(run, "14steps") == [13, 14]


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path, recipe: Recipe) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConfigError("no such thing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", fails)
        with pytest.raises(ConfigError):
            start_run(recipe, tmp_path / "run", CONSOLE)
    assert not (tmp_path / "run").exists()


def validated(trainer: Trainer, bits: float) -> None:
    """Take a step and validate it as if the model were so good."""
    trainer.step()
    trainer.validation_text.score = lambda *_: (bits, 0)
    trainer.validate()


def folders(run: Path) -> list[str]:
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def test_after_a_kill_best_is_the_best_that_the_last_checkpoint_knows(tmp_path: Path) -> None:
    """Better ones came after it, in steps that are taken again."""
    recipe, corpus = tiny_recipe(train={"budget": "9steps"}), tiny_corpus(tmp_path)
    run = tmp_path / "run"
    trainer = make_trainer(run, recipe, corpus)
    validated(trainer, 5.0)
    assert not (run / "last").exists()
    trainer.save()
    for bits in (4.0, 3.0):
        validated(trainer, bits)
        assert (run / "best").resolve().name == f"best-{trainer.counters.step:08d}"
    assert folders(run) == ["best-00000001", "best-00000003", "step-00000001"]
    RunFolder.open(run).mend()
    assert (run / "best").resolve().name == "best-00000001"
    trainer = make_trainer(run, recipe, corpus, resume=True)
    validated(trainer, 4.5)
    trainer.save()
    assert folders(run) == ["best-00000002", "step-00000002"]
    assert (run / "best").resolve().name == "best-00000002"


def test_a_best_model_before_the_first_checkpoint_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    validated(make_trainer(run, tiny_recipe(), tiny_corpus(tmp_path)), 5.0)
    RunFolder.open(run).mend()
    assert load_model(run).card["steps"] == 1


def test_the_best_model_is_a_model_alone_that_shares_its_files(run: Path) -> None:
    names = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    best, last = run / "best", run / "last"
    assert {path.name for path in best.iterdir()} == names
    assert {path.name for path in last.iterdir()} > names
    assert load_model(best).card["steps"] == load_model(last).card["steps"] == 12
    assert (best / "model.safetensors").samefile(last / "model.safetensors")


def test_files_are_copied_where_none_can_have_two_names(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refused)
    start_run(recipe, tmp_path / "run", CONSOLE)
    best, last = (tmp_path / "run" / name for name in ("best", "last"))
    assert load_model(best).digest == load_model(last).digest
    assert not (best / "model.safetensors").samefile(last / "model.safetensors")


@pytest.mark.parametrize("links", ["kept", "followed", "lost"])
def test_a_run_whose_best_model_is_a_checkpoint_goes_on(
    run: Path, tmp_path: Path, links: str
) -> None:
    """As runs of earlier versions have it, with no plan and no times in it."""
    checkpoints, old = run / "checkpoints", "step-00000012"
    shutil.rmtree(checkpoints / "best-00000012")
    os.remove(run / "best")
    (run / "best").symlink_to(f"checkpoints/{old}")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=links != "followed")
    if links == "lost":
        os.remove(copy / "best")
    RunFolder.open(copy).mend()
    assert (copy / "best").resolve() == copy / "checkpoints" / old
    trainer = make_trainer(
        copy, tiny_recipe(train={"budget": "14steps"}), tiny_corpus(tmp_path), True
    )
    validated(trainer, 9.0)
    trainer.save()
    assert folders(copy) == [old, "step-00000013"]
    validated(trainer, 0.1)
    trainer.save()
    assert folders(copy) == ["best-00000014", "step-00000014"]


def test_a_checkpoint_knows_the_validation_after_it(tmp_path: Path) -> None:
    recipe, corpus = tiny_recipe(train={"budget": "4steps"}), tiny_corpus(tmp_path)
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    trainer.step()
    trainer.save()
    bits = trainer.validate()
    trainer.save()
    state = json.loads((tmp_path / "run" / "last" / "trainer.json").read_text())["state"]
    assert state["counters"]["best_bits_per_byte"] == bits
    assert f"{bits:.4f}" in (tmp_path / "run" / "best" / "README.md").read_text()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
