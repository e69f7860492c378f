"""What becomes of a run's folder when it is copied, killed, or used by two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sharnn.config import Recipe
from sharnn.errors import CheckpointError, ConfigError
from sharnn.train import RunFolder, resume_run, start_run
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


def test_a_copy_without_links_goes_on(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    os.remove(copy / "last")
    os.remove(copy / "best")
    assert steps_after(copy, "14steps") == [13, 14]
    assert losses(copy)[:12] == losses(run)


def test_a_checkpoint_that_is_gone_is_told_and_nothing_is_lost(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    metrics = (run / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="step-00000012, which is gone"):
        resume_run(run, CONSOLE, "14steps")
    assert (run / "metrics.jsonl").read_text() == metrics


def test_a_run_has_one_process_at_a_time(run: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom sharnn.train import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="is in training already"):
            resume_run(run, CONSOLE, "14steps")
        other.kill()
    assert steps_after(run, "14steps") == [13, 14]


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path, recipe: Recipe) -> None:
    def fails(*_: object) -> None:
        raise ConfigError("no such thing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", fails)
        with pytest.raises(ConfigError):
            start_run(recipe, tmp_path / "run", CONSOLE)
    assert not (tmp_path / "run").exists()


def test_a_kill_between_the_links_leaves_the_better_model_as_best(tmp_path: Path) -> None:
    recipe, corpus = tiny_recipe(train={"budget": "4steps"}), tiny_corpus(tmp_path)
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    trainer.step()
    trainer.save(best=True)
    trainer.step()

    def killed(link: Path, target: str) -> None:
        if link.name == "last":
            raise KeyboardInterrupt
        os.remove(link)
        link.symlink_to(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharnn.train.run_folder.link_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.save(best=True)
    run = RunFolder.open(tmp_path / "run")
    run.mend()
    assert (run.path / "best").resolve().name == "step-00000002"
    assert (run.path / "last").resolve().name == "step-00000001"


def test_a_checkpoint_knows_the_validation_after_it(tmp_path: Path) -> None:
    recipe, corpus = tiny_recipe(train={"budget": "4steps"}), tiny_corpus(tmp_path)
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    trainer.step()
    trainer.save()
    bits = trainer.validate()
    state = json.loads((tmp_path / "run" / "last" / "trainer.json").read_text())["state"]
    assert state["counters"]["best_bits_per_byte"] == bits
    assert f"{bits:.4f}" in (tmp_path / "run" / "best" / "README.md").read_text()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
