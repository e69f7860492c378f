"""Finished runs are found again, and only those that are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.comparison.comparisons import make_plan, make_run
from sharnn.errors import DataError
from sharnn.experiments.comparison.run_store import Store


def test_a_run_is_found_by_what_makes_its_figures(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.json", {"machine": "this"})
    plan = make_plan()
    store.add(make_run(plan))
    found = store.find(dataclasses.replace(plan, name="renamed", facts={"about": "it"}))
    assert found is not None
    assert (found["contender"], found["about"]) == ("renamed", "it")
    others = [make_plan(seed=1), make_plan(budget="11steps"), make_plan(embed_dim=32)]
    for condition in ({"scale": 0.5}, {"conditions": {"words": 3}}):
        others.append(dataclasses.replace(plan, key={**plan.key, **condition}))
    assert store.find_all([*others, plan]) == [*[None] * 5, store.find(plan)]


def test_a_run_takes_the_place_of_its_older_self(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.json", {"machine": "this"})
    for bits in (3.0, 2.0):
        store.add(make_run(make_plan(), bits))
    store.add(make_run(make_plan(seed=1), 4.0))
    assert [run["bits_per_byte"] for run in store.runs()] == [2.0, 4.0]
    content = json.loads(store.path.read_text())
    assert list(content) == ["machine", "runs"]
    shown = store.shown([make_plan(seed=1), make_plan(), make_plan(seed=7)])
    ((by_name),) = shown.values()
    assert [run["seed"] for run in by_name["a"]] == [1, 0]


def test_a_setting_that_is_new_makes_no_old_run_another(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.json", {"machine": "this"})
    run = make_run(make_plan())
    del run["settings"]["data"]["max_train_tokens"]
    run["settings"]["data"]["digest"] = None  # a setting of earlier versions
    store.add(run)
    assert store.find(make_plan()) is not None


@pytest.mark.parametrize("content", ["[]", "{}", '{"runs": [1]}', '{"runs": [{}]}', '{"runs": ['])
def test_damaged_results_are_refused_and_left(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path / "results.json", {"machine": "this"})
    store.path.write_text(content)
    with pytest.raises(DataError, match=r"results\.json"):
        store.find(make_plan())
    with pytest.raises(DataError, match=r"results\.json"):
        store.add(make_run(make_plan()))
    assert store.path.read_text() == content
