"""The training loop learns, resumes exactly, and skips steps that are not finite."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sharnn.checkpoint import RunFolder, load_model
from sharnn.errors import CheckpointError, DataError, TrainingError
from sharnn.evaluate.score import smoothed
from sharnn.report import read_run
from sharnn.train import resume_run, start_run
from sharnn.train.learner import Learner
from sharnn.train.trainer import Trainer
from train.runs import losses, make_trainer, tiny_corpus, tiny_recipe


def test_it_learns(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        model={"embed_dim": 32, "residual": True, "hidden_dropout": 0.0, "attention_dropout": 0.0},
        train={"budget": "120steps"},
    )
    outcome = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path)).run()
    assert outcome.reason == "budget used up"
    steps = losses(tmp_path / "run")
    assert [step for step, _ in steps] == list(range(1, 121))
    assert steps[0][1] == pytest.approx(5.545, abs=0.2)  # ln 256: a fresh model knows nothing
    assert steps[-1][1] < 3.2
    assert outcome.counters.best_bits_per_byte < 5.0
    for name in ("best", "last"):
        assert (tmp_path / "run" / name / "model.safetensors").is_file()


@pytest.mark.parametrize("architecture", ["sha-rnn", "lstm", "transformer"])
def test_activation_checkpointing_changes_no_bit(tmp_path: Path, architecture: str) -> None:
    settings = {
        "sha-rnn": {},
        "lstm": {"architecture": "lstm", "window": None, "attention_dropout": 0.0},
        "transformer": {"architecture": "transformer", "num_heads": 2},
    }[architecture]
    corpus, runs = tiny_corpus(tmp_path, 1_500), []
    for checkpointing in (False, True):
        recipe = tiny_recipe(
            model=settings, train={"budget": "9steps", "activation_checkpointing": checkpointing}
        )
        trainer = make_trainer(tmp_path / str(checkpointing), recipe, corpus)
        trainer.run()
        runs.append((losses(trainer.run_folder.path), list(trainer.model.parameters())))
    (plain, weights), (again, weights_again) = runs
    assert plain == again
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))


@pytest.mark.parametrize("optimizer", ["lamb", "adamw", "muon"])
@pytest.mark.parametrize("average", [0.0, 0.2])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"architecture": "transformer", "num_heads": 2},
        {"recall_orders": [1, 3], "recall_slots": 256, "longest_ngram": 3, "ngram_min_count": 2},
    ],
    ids=["sha-rnn", "transformer", "recall"],
)
def test_resume_is_exact(
    tmp_path: Path, optimizer: str, model: dict[str, object], average: float
) -> None:
    """After a resume at any step, every loss equals that of an uninterrupted run, bit for bit."""
    recipe = tiny_recipe(
        model=model,
        optim={"name": optimizer, "weight_decay": 0.01, "warmup": "5steps", "average": average},
        train={"budget": "24steps", "grad_accum_steps": 2},
    )
    corpus = tiny_corpus(tmp_path, 1_500)  # short, so that the lanes start again in between
    make_trainer(tmp_path / "whole", recipe, corpus).run()
    expected = losses(tmp_path / "whole")

    trainer = make_trainer(tmp_path / "parts", recipe, corpus)
    for _ in range(4):
        for _ in range(5):
            trainer.step()
        trainer.save()
        trainer = make_trainer(tmp_path / "parts", recipe, corpus, resume=True)
    trainer.run()
    assert losses(tmp_path / "parts") == expected
    for state in ("model.safetensors", "trainer.safetensors"):
        whole, parts = (tmp_path / name / "last" / state for name in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_training_lanes_have_fewer_slots_than_the_saved_model(tmp_path: Path) -> None:
    """Checkpoints contain the tables of the lanes; the saved model has the slots of the recipe."""
    recipe = tiny_recipe(model={"recall_orders": [2]}, train={"budget": "2steps"})
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path))
    trainer.run()
    (state,) = trainer.states
    assert state.slots.shape == (4, 1, 16_384)
    loaded = load_model(tmp_path / "run" / "last").model
    assert loaded.initial_state(1).slots.shape == (1, 1, 65_536)


def poison(trainer: Trainer, steps: set[int]) -> None:
    """Make the loss infinite at some steps."""
    nats = trainer.model.nats

    def poisoned(*args: torch.Tensor, **options: bool) -> object:
        loss, state = nats(*args, **options)
        bad = trainer.counters.step + 1 in steps
        return (loss * float("inf") if bad else loss), state

    trainer.model.nats = poisoned


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    recipe = tiny_recipe(train={"budget": "6steps", "validate_every": "100steps"})
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path))
    poison(trainer, {2, 3})
    trainer.step()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    states = trainer.states
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.states is states
    trainer.step()
    trainer.step()
    assert trainer.counters.skipped_steps == 2
    assert trainer.counters.skipped_in_a_row == 0
    assert [nats is None for _, nats in losses(tmp_path / "run")] == [False, True, True, False]


def test_it_stops_if_no_step_is_finite(tmp_path: Path) -> None:
    recipe = tiny_recipe(train={"max_skipped_steps": 3})
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path))
    poison(trainer, set(range(5, 100)))
    with pytest.raises(TrainingError, match=r"3 steps in a row .* lower optim\.lr"):
        trainer.run()
    assert (tmp_path / "run" / "last" / "trainer.json").is_file()


def test_early_stop(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        optim={"lr": 1e-9},
        train={"budget": "500steps", "validate_every": "2steps", "early_stop": 3},
    )
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path))
    trainer.validation_text.score = lambda *_: (5.0 + trainer.counters.step, 0)
    outcome = trainer.run()
    assert outcome.reason == "no improvement in 3 validations"
    assert outcome.counters.step < 500


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", tiny_recipe(), tiny_corpus(tmp_path))
    trainer.step()
    trainer.validation_text.score = lambda *_: (float("nan"), 0)
    trainer.validate()
    trainer.save()
    assert trainer.counters.best_bits_per_byte is None
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not (tmp_path / "run" / "best").exists()
    trainer.validation_text.score = lambda *_: (5.0, 0)
    trainer.validate()
    assert trainer.counters.best_bits_per_byte == 5.0


@pytest.mark.parametrize("budget", ["2epochs", "2ktokens", "1s", "12steps"])
def test_budgets_in_every_unit(tmp_path: Path, budget: str) -> None:
    recipe = tiny_recipe(train={"budget": budget})
    outcome = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path, 2_000)).run()
    assert outcome.reason == "budget used up"
    records = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [r["lr"] for r in records if r["kind"] == "train"]
    assert rates[0] == pytest.approx(0.01, rel=0.02)
    assert rates[-1] < 0.004  # the cosine follows the budget's own unit to its end


def test_another_corpus_or_shape_is_refused(tmp_path: Path) -> None:
    recipe, corpus = tiny_recipe(train={"budget": "4steps"}), tiny_corpus(tmp_path)
    make_trainer(tmp_path / "run", recipe, corpus).run()
    other = tiny_corpus(tmp_path / "other", 5_000)
    with pytest.raises(DataError, match="another text"):
        make_trainer(tmp_path / "run", recipe, other, resume=True)
    wider = tiny_recipe(model={"embed_dim": 24})
    with pytest.raises(CheckpointError, match="does not fit"):
        make_trainer(tmp_path / "run", wider, corpus, resume=True)
    more_lanes = tiny_recipe(data={"num_lanes": 8})
    with pytest.raises(DataError, match="num_lanes"):
        make_trainer(tmp_path / "run", more_lanes, corpus, resume=True)


def test_a_text_shorter_than_its_lanes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few for 4 lanes"):
        make_trainer(tmp_path / "run", tiny_recipe(), tiny_corpus(tmp_path, 4))


def test_a_text_too_short_to_validate_can_be_trained_on(tmp_path: Path) -> None:
    recipe = tiny_recipe(train={"budget": "3steps", "validate_every": "1steps"})
    outcome = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path, 30)).run()
    assert outcome.counters.step == 3
    assert outcome.counters.best_bits_per_byte is None
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "best").exists()


# ------------------------------------------------------------------ the beginning of a text

BEGINNING = {"max_train_tokens": 401}  # 4 lanes of 100 tokens, and the last one's successor


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    recipe = tiny_recipe(
        model={"longest_ngram": 2, "ngram_min_count": 1, "ngram_rows": 64},
        data={**BEGINNING, "random_segments": False},
    )
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    assert trainer.lanes.lane_length == 100
    segments = [trainer.lanes.next_segment() for _ in range(9)]
    assert segments[-1].epoch == 1
    read = np.concatenate([segment.inputs for segment in segments], axis=1)
    assert np.array_equal(read.reshape(-1), corpus.split("train").tokens[:400])
    other = make_trainer(
        tmp_path / "other",
        tiny_recipe(data={"max_train_tokens": 10**9}),
        corpus,
    )
    assert other.lanes.lane_length == (corpus.split("train").num_tokens - 1) // 4


def test_ngrams_are_counted_in_the_beginning(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    ngrams = {"longest_ngram": 2, "ngram_min_count": 2, "ngram_rows": 4_096}
    rows = []
    for limit in (401, 0):
        recipe = tiny_recipe(model=ngrams, data={"max_train_tokens": limit})
        model = make_trainer(tmp_path / str(limit), recipe, corpus).model
        assert model.ngrams is not None
        rows.append(int((model.ngrams.keys_NR != model.ngrams.keys_NR.max()).sum()))
    assert 0 < rows[0] < rows[1]


def test_a_resume_stays_in_the_beginning(tmp_path: Path) -> None:
    """Also where its lanes have begun again; the limit is the run's, not the command line's."""
    corpus = tiny_corpus(tmp_path)
    settings = {**BEGINNING, "texts": [str(tmp_path / "text.txt")]}
    whole, half = (
        tiny_recipe(data=settings, optim={"decay": "constant"}, train={"budget": budget})
        for budget in ("30steps", "13steps")
    )
    make_trainer(tmp_path / "whole", whole, corpus).run()
    said = io.StringIO()
    console = Console(file=said, width=200)
    start_run(half, tmp_path / "parts", console)
    assert ": the first 401 tokens of " in said.getvalue()
    outcome = resume_run(tmp_path / "parts", console, budget="30steps")
    assert outcome.counters.epoch > 2
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_signal_interrupts_a_validation_which_stays_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(train={"budget": "12steps", "validate_every": "5steps"})
    corpus = tiny_corpus(tmp_path)
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    score = trainer.validation_text.score

    def signalled(learner: Learner, lengths: Iterator[int]) -> tuple[float, int]:
        signal.raise_signal(signal.SIGINT)
        bits, rows = score(learner, lengths)
        assert rows == 0
        return bits, rows

    monkeypatch.setattr(trainer.validation_text, "score", signalled)
    outcome = trainer.run()
    assert outcome.interrupted
    assert outcome.counters.step == 5
    assert outcome.counters.best_bits_per_byte is None
    resumed = make_trainer(tmp_path / "run", recipe, corpus, resume=True)
    counters = resumed.run().counters
    assert counters.step == 12
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 13))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [record["step"] for record in lines if record["kind"] == "valid"] == [6, 10, 12]


def test_the_smoothed_score_is_one_number(tmp_path: Path) -> None:
    """Of the terminal, the metrics and the report, also over a restart."""
    recipe, corpus = tiny_recipe(train={"budget": "20steps"}), tiny_corpus(tmp_path)
    trainer = make_trainer(tmp_path / "run", recipe, corpus)
    for _ in range(10):
        trainer.step()
    trainer.save()
    resumed = make_trainer(tmp_path / "run", recipe, corpus, resume=True)
    counters = resumed.run().counters
    smooth = None
    for record in RunFolder.open(tmp_path / "run").read_metrics():
        if record["kind"] == "train":
            smooth = smoothed(smooth, record["bits_per_byte"], record["step"])
            assert record["smooth"] == smooth
    assert counters.smooth == smooth == read_run(tmp_path / "run").last["smooth"]
