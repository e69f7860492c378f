"""What is equal in the tokenization attack is equal, and a stopped experiment goes on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sharnn.config import to_dict
from sharnn.data.prepare import prepare
from sharnn.errors import ConfigError, DataError
from sharnn.experiments import attack_run
from sharnn.experiments.attack import (
    ARCHITECTURES,
    AttackSettings,
    Tokenization,
    equal_flops,
    make_plans,
    tokenizer_of,
)
from sharnn.experiments.attack_report import PAGE, RESULTS, TABLES, tell
from sharnn.experiments.attack_run import read_text, run_attack
from sharnn.files import read_json
from sharnn.model import count_parameters
from sharnn.text import load_tokenizer
from sharnn.train.estimate import flops_per_token

BYTE = Tokenization("byte", "byte", 256, 1.0)
BPE = Tokenization("bpe-1024", "byte", 1_024, 2.5)
WORDS = Tokenization("word", "byte", 8_000, 5.0)
SETTINGS = AttackSettings(seeds=2, num_parameters=400_000)
QUIET = Console(quiet=True)


@functools.cache
def plans() -> list[Any]:
    flops = equal_flops(SETTINGS, BYTE, "my.txt", "cpu")
    return make_plans(SETTINGS, [BYTE, BPE, WORDS], "my.txt", "cpu", flops)


def test_every_architecture_and_tokenization_is_trained_in_both_ways_with_every_seed() -> None:
    names = [plan.name for plan in plans()]
    assert len(names) == len(set(names)) == len(ARCHITECTURES) * 3 * 2 * 2
    half = len(names) // 2
    assert all(name.endswith("seed0") for name in names[:half])


def test_weights_are_equal_as_nearly_as_the_width_allows() -> None:
    for plan in plans():
        model = plan.recipe.model
        config = {**to_dict(model), "vocab_size": plan.tokenization.vocab_size}
        assert count_parameters(type(model)(**config)) == pytest.approx(400_000, rel=0.15), (
            plan.name
        )


def test_bytes_of_step_segment_and_window_are_equal() -> None:
    for plan in plans():
        data, size = plan.recipe.data, plan.tokenization.bytes_per_token
        assert data.num_lanes == SETTINGS.num_lanes
        assert data.segment_length * size == pytest.approx(SETTINGS.segment_bytes, rel=0.02)
        if plan.architecture in ("sha-rnn", "transformer"):
            assert plan.recipe.model.window * size == pytest.approx(SETTINGS.window_bytes, rel=0.01)


def test_either_bytes_or_arithmetic_are_equal() -> None:
    for plan in plans():
        tokens = int(plan.recipe.train.budget.removesuffix("tokens"))
        read = tokens * plan.tokenization.bytes_per_token
        assert read == pytest.approx(plan.train_bytes, rel=1e-4)
        if plan.matching == "bytes":
            assert read == pytest.approx(SETTINGS.train_bytes, rel=1e-4)
    spent = [plan.train_flops for plan in plans() if plan.matching == "compute"]
    assert spent == pytest.approx([spent[0]] * len(spent))
    first = plans()[0].recipe
    assert spent[0] == pytest.approx(flops_per_token(first) * SETTINGS.train_bytes / 4)


def test_names_mean_kinds_and_sizes() -> None:
    assert tokenizer_of("byte") == ("byte", None)
    assert tokenizer_of("spelled-4096") == ("spelled-word", 4_096)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["transformers"]}, "did you mean 'transformer'"),
        ({"architectures": []}, "name one at least"),
        ({"tokenizations": ["bpe"]}, "names 'bpe'"),
        ({"tokenizations": ["byte", "byte"]}, "none twice"),
        ({"matchings": ["time"]}, "--match names 'time'"),
        ({"words": 0}, "--words is 0"),
        ({"dropouts": [1.0]}, "each must lie between"),
        ({"compute_bytes": 0}, "--compute-bytes is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttackSettings(**settings)


def test_a_vocabulary_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave the largest vocabularies out"):
        make_plans(AttackSettings(num_parameters=20_000), [WORDS], "my.txt", "cpu", 1e12)


# ------------------------------------------------------------------------------- small and real

WORDED = "".join(
    f" the {noun} sat on the {place} and saw a {noun} \n"
    for noun in ("cat", "dog", "emu", "hen", "gnu")
    for place in ("mat", "hat", "rug", "bed")
    for _ in range(12)
)
SMALL = AttackSettings(
    architectures=["sha-rnn", "lstm"], tokenizations=["byte", "bpe-280", "word"],
    matchings=["bytes"], seeds=1, num_parameters=30_000, num_layers=1, train_bytes=6_000,
    segment_bytes=64, window_bytes=128, num_lanes=4, score_bytes=600, words=6, dropouts=[0.5],
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("attack")
    text = folder / "text.txt"
    text.write_text(WORDED)
    return text, folder / "out", run_attack(SMALL, str(text), folder / "out", "cpu", QUIET)


def test_all_are_scored_on_the_same_words(done: tuple[Path, Path, list[dict[str, Any]]]) -> None:
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
        made = load_tokenizer(out / "tokenizers" / f"{result['tokenization']}.json")
        trained = prepare([str(text)], tokenizer=made).split("train")
        assert result["bytes_per_token"] == trained.num_bytes / trained.num_tokens
        assert bool(result["perturbed"]) == (result["tokenization"] == "bpe-280")
    words = [r for r in results if r["tokenization"] == "word"]
    assert all(r["within_words"]["told"]["mean"] == pytest.approx(0, abs=1e-4) for r in words)


def test_what_is_done_is_not_done_again(
    done: tuple[Path, Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out, results = done

    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(attack_run, "train", refuse)
    assert run_attack(SMALL, str(text), out, "cpu", QUIET) == results
    fewer = AttackSettings(**{**to_dict(SMALL), "architectures": ["lstm"]})
    assert len(run_attack(fewer, str(text), out, "cpu", QUIET)) == 3


def test_another_experiment_is_refused_in_the_same_folder(
    done: tuple[Path, Path, list[dict[str, Any]]],
) -> None:
    text, out, _ = done
    other = AttackSettings(**{**to_dict(SMALL), "words": 7})
    with pytest.raises(ConfigError, match="with words = 6, this one has 7"):
        run_attack(other, str(text), out, "cpu", QUIET)


def test_arithmetic_stays_equal_when_an_experiment_goes_on(tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("The cat sat.\nThe dog ran.\n" * 300)
    few = {**to_dict(SMALL), "matchings": ["compute"], "tokenizations": ["byte"], "seeds": 1}
    first = AttackSettings(**{**few, "architectures": ["lstm"]})
    more = AttackSettings(**{**few, "architectures": ["transformer", "lstm"]})
    (lstm,) = run_attack(first, str(text), out, "cpu", QUIET)
    transformer, again = run_attack(more, str(text), out, "cpu", QUIET)
    assert again == lstm
    assert transformer["train_flops"] == pytest.approx(lstm["train_flops"])


def test_results_of_something_else_are_not_written_over(tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("The cat sat.\n" * 300)
    out.mkdir()
    (out / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="of something else"):
        run_attack(SMALL, str(text), out, "cpu", QUIET)
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_a_text_in_one_line_is_scored(tmp_path: Path) -> None:
    text = tmp_path / "line.txt"
    text.write_text("the cat sat " * 500 + "\n")
    assert read_text(str(text), 200).scored.split()


def test_an_experiment_that_cannot_be_keeps_no_folder_from_another(tmp_path: Path) -> None:
    text, other, out = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "out"
    text.write_text("The cat sat.\nThe dog ran.\n" * 300)
    other.write_text("Een hond liep.\nEen kat zat.\n" * 300)
    few = {"architectures": ["lstm"], "tokenizations": ["bpe-264"], "matchings": ["bytes"]}
    wanted = AttackSettings(**{**to_dict(SMALL), **few, "seeds": 1})
    tiny = AttackSettings(**{**to_dict(wanted), "num_parameters": 10})
    with pytest.raises(ConfigError, match="leave the largest vocabularies out"):
        run_attack(tiny, str(other), out, "cpu", QUIET)
    assert len(run_attack(wanted, str(text), out, "cpu", QUIET)) == 1
    # The vocabulary is this text's, not the one that was made in vain.
    pieces = load_tokenizer(out / "tokenizers" / "bpe-264.json")
    assert all(pieces.token_bytes(token) in text.read_bytes() for token in range(256, 264))


def test_a_text_of_another_form_goes_without_closed_words(tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("The cat sat.\nThe dog ran.\n" * 200)
    said: list[str] = []
    read = read_text(str(text), 300)
    made = attack_run.make_tokenizers(
        ["byte", "word"], read, tmp_path / "t", said.append, reuse=False
    )
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


def test_it_is_told_in_tables_pictures_and_a_page(
    done: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, _, results = done
    tables = tell(results, tmp_path, "a <small> text")
    assert [len(table.rows) for table in tables] == [6, 6]
    assert read_json(tmp_path / RESULTS)["results"] == results
    assert "| sha-rnn | bpe-280 |" in (tmp_path / TABLES).read_text()
    page = (tmp_path / PAGE).read_text()
    assert "a &lt;small&gt; text" in page
    pictures = sorted(path.stem for path in tmp_path.glob("*.png"))
    assert pictures == ["classes-bytes", "perturbed-bytes", "places-bytes", "scores", "ways-bytes"]
    assert page.count("data:image/png;base64,") == len(pictures)
