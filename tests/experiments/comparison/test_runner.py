"""Which part of a text is scored, and what a stopped run leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.comparison.comparisons import make_plan
from sharnn.checkpoint import RunFacts, RunFolder
from sharnn.data.prepare import prepare
from sharnn.errors import DataError
from sharnn.experiments.comparison.processes import StoppedError
from sharnn.experiments.comparison.run_store import key_of
from sharnn.experiments.comparison.runner import Runner, beginning_of
from sharnn.files import write_json
from texts import zen


@pytest.mark.parametrize("tokenizer", ["byte", "word"])
@pytest.mark.parametrize("share", [0.3, 0.004, 1.0])
def test_a_share_of_a_split_is_its_beginning(tmp_path: Path, tokenizer: str, share: float) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f" {line} \n" for line in zen().split("\n") if line))
    corpus = prepare([str(text)], tokenizer=tokenizer)
    split = corpus.split("train")
    part = beginning_of(split, corpus.tokenizer, share)
    data = corpus.tokenizer.decode(part.tokens)
    whole = corpus.tokenizer.decode(split.tokens)
    assert whole.startswith(data)
    last = len(corpus.tokenizer.token_bytes(int(part.tokens[-1])))
    assert len(data) - last < int(share * split.num_bytes) <= len(data)
    assert (part.num_tokens, part.num_bytes) == (len(part.tokens), len(data))
    assert (part.num_chars, part.num_words) == (len(data.decode()), len(data.split()))


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(zen())
    corpus = prepare([str(text)])
    with pytest.raises(DataError, match=r"share is 0\.01"):
        beginning_of(corpus.split("valid"), corpus.tokenizer, 0.01)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_run_stopped_before_it_handles_signals_loses_no_checkpoint(
    tmp_path: Path, keeps: bool
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(zen())
    corpus, plan, folder = prepare([str(text)]), make_plan(), tmp_path / "runs"
    runner = Runner(corpus, str(text), "cpu", dict(os.environ), folder, keeps, "command")
    runner.processes.stop()

    def files() -> set[str]:
        with pytest.raises(StoppedError):
            runner.measure(plan)
        return {path.name for path in folder.iterdir()}

    assert files() == set()
    run = RunFolder.create(
        folder / "a-10steps-seed0", plan.recipe, RunFacts(corpus.name, corpus.digest)
    )
    write_json(folder / "a-10steps-seed0.stopped.json", key_of(plan.key))
    left = {"a-10steps-seed0", "a-10steps-seed0.stopped.json"}
    with run.locked():  # as the process that trains it does
        assert files() == left
    assert files() == {*left, "a-10steps-seed0.log"}
    assert run.exists()
