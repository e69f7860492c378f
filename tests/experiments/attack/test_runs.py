"""All models are scored on the same words, and a stopped experiment continues."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.attack.small import SMALL, Done
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.experiments.attack import runs
from sharnn.experiments.attack.plan import AttackSettings
from sharnn.experiments.attack.runs import read_text, run_attack
from sharnn.text import load_tokenizer


def attack(settings: AttackSettings, text: Path, out: Path) -> list[dict[str, Any]]:
    return run_attack(settings, str(text), out, "cpu", "a command", Console(quiet=True))


def test_all_are_scored_on_the_same_words(done: Done) -> None:
    text, out, results = done
    assert len(results) == 6
    scored = read_text(str(text), SMALL.score_bytes).scored
    assert scored.endswith(b" \n")
    for result in results:
        assert result["scored_bytes"] == len(scored) <= 600
        assert result["scored_words"] == len(scored.split())
        inside = result["within_words"]
        assert inside["summed"]["mean"] <= inside["best"]["mean"] + 1e-9
        assert inside["best"]["mean"] <= inside["forced"]["mean"] + 1e-9
        tokens = sum(group["count"] for group in result["by_place"])
        nats = sum(g["count"] * g["mean"] for g in result["by_place"] if g["count"])
        assert nats == pytest.approx(result["nats_per_word"] * result["scored_words"])
        assert tokens == result["scored_tokens"]
        (file,) = (out / "tokenizers").glob(f"{result['tokenization']}-*.json")
        made = load_tokenizer(file)
        trained = prepare([str(text)], tokenizer=made).split("train")
        assert result["bytes_per_token"] == trained.num_bytes / trained.num_tokens
        assert bool(result["perturbed"]) == (result["tokenization"] == "bpe-280")
    words = [r for r in results if r["tokenization"] == "word"]
    assert all(r["within_words"]["benefit"]["mean"] == pytest.approx(0, abs=1e-4) for r in words)


def test_what_is_done_is_not_done_again(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    text, out, results = done
    monkeypatch.setattr("sharnn.experiments.comparison.runner.Runner.measure", None)
    assert attack(SMALL, text, out) == results
    fewer = dataclasses.replace(SMALL, architectures=["lstm"])
    assert len(attack(fewer, text, out)) == 3


def test_arithmetic_stays_equal_when_an_experiment_goes_on(tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("The cat sat.\nThe dog ran.\n" * 300)
    few = dataclasses.replace(SMALL, matchings=["compute"], tokenizations=["byte"])
    more = dataclasses.replace(few, architectures=["transformer", "lstm"])
    (lstm,) = attack(dataclasses.replace(few, architectures=["lstm"]), text, out)
    transformer, again = attack(more, text, out)
    assert again == lstm
    assert transformer["train_flops"] == pytest.approx(lstm["train_flops"])


def test_results_of_something_else_are_not_written_over(tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("The cat sat.\n" * 300)
    out.mkdir()
    (out / "results.json").write_text("{}")
    with pytest.raises(DataError, match="holds no runs"):
        attack(SMALL, text, out)
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_an_experiment_of_an_earlier_version_is_left_as_it_is(tmp_path: Path) -> None:
    for name in ("attack.json", "results.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"earlier version of sharnn \(attack\.json\)"):
        attack(SMALL, tmp_path / "a.txt", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attack.json", "results.json"]


def test_a_text_in_one_line_is_scored(tmp_path: Path) -> None:
    text = tmp_path / "line.txt"
    text.write_text("the cat sat " * 500 + "\n")
    assert read_text(str(text), 200).scored.split()


def test_experiments_with_other_texts_and_words_share_a_folder(tmp_path: Path) -> None:
    text, other, out = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "out"
    text.write_text("The cat sat.\nThe dog ran.\n" * 300)
    other.write_text("Een hond liep.\nEen kat zat.\n" * 300)
    wanted = dataclasses.replace(SMALL, architectures=["lstm"], tokenizations=["bpe-264"])
    with pytest.raises(ConfigError, match="leave the largest vocabularies out"):
        attack(dataclasses.replace(wanted, num_parameters=10), other, out)
    (one,) = attack(wanted, text, out)
    fewer = dataclasses.replace(wanted, words=2)
    (two,) = attack(fewer, text, out)
    assert one["within_words"]["forced"]["count"] == 6
    assert two["within_words"]["forced"]["count"] == 2
    assert one["bits_per_byte"] == two["bits_per_byte"]
    assert attack(wanted, text, out) == [one]
    # Each text has a vocabulary of its own.
    digest = read_text(str(text), 100).corpus.digest[:8]
    pieces = load_tokenizer(out / "tokenizers" / f"bpe-264-{digest}.json")
    assert all(pieces.token_bytes(token) in text.read_bytes() for token in range(256, 264))


def test_a_text_of_another_form_goes_without_closed_words(tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("The cat sat.\nThe dog ran.\n" * 200)
    said: list[str] = []
    read = read_text(str(text), 300)
    made = runs.make_tokenizers(["byte", "word"], read, tmp_path / "t", said.append)
    assert list(made) == ["byte"]
    assert "word is left out" in said[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [(" \n\t \n" * 300, "no word in its test split"), ("", "is empty")],
)
def test_texts_without_words_are_refused(tmp_path: Path, content: str, message: str) -> None:
    text = tmp_path / "white.txt"
    text.write_text(content)
    with pytest.raises(DataError, match=message):
        read_text(str(text), 100)


def test_a_text_of_one_word_has_one(tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("x" * 5_000)
    assert read_text(str(text), 100).scored == b"x" * 100
