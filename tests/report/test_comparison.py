"""The picture of a comparison, and its tables, from figures that no training was needed for."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sharnn.report import Table, draw_comparison


def make_run(seed: int, bits: float, budget: int = 1_000, tokens: bool = True) -> dict[str, Any]:
    curve = [
        [budget * n // 10 if tokens else None, n + seed / 10, bits + 1 - n / 10]
        for n in range(1, 11)
    ]
    return {"seed": seed, "seconds": 10.0, "tokens_seen": budget, "bits_per_byte": bits,
            "valid_curve": curve, "train_curve": curve if tokens else []}  # fmt: skip


def legends(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_contenders_are_told_best_first_with_their_spread() -> None:
    contenders = {
        "worse": [[make_run(0, 3.0), make_run(1, 3.2)]],
        "better": [[make_run(0, 2.0)], [make_run(0, 1.5, budget=4_000)]],
    }
    figure = draw_comparison(contenders, "title", "tokens")
    assert legends(figure)[:2] == ["better  1.500", "worse  3.100 ± 0.141"]
    assert "lowest to highest seed" in legends(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "tokens of training"
    (band,) = axes.collections[:1]
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (pytest.approx(3.0), pytest.approx(4.1))
    bottom, top = axes.get_ylim()
    assert bottom < 1.5
    assert top > 4.1


def test_seeds_that_stand_at_other_places_are_read_where_all_are() -> None:
    contenders = {"x": [[make_run(seed, 2.0, tokens=False) for seed in range(3)]]}
    figure = draw_comparison(contenders, "title", "seconds")
    (axes,) = figure.axes
    mean = next(line for line in axes.lines if len(line.get_xdata()) > 100)
    assert mean.get_xdata()[0] == pytest.approx(1.2)
    assert mean.get_xdata()[-1] == pytest.approx(10.0)
    assert "lowest to highest seed" in legends(figure)
    alone = draw_comparison({"x": [[make_run(0, 2.0)]]}, "title", "seconds")
    assert "lowest to highest seed" not in legends(alone)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("axis", "first"), [("seconds", 1.0), ("tokens", 100)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_what_a_fine_tuned_model_begins_with_is_left_out(
    axis: Any, first: float, seeds: int
) -> None:
    runs = [make_run(seed, 2.0) for seed in range(seeds)]
    for run in runs:
        run["valid_curve"] = [[0, 0.0, 3.5], *run["valid_curve"]]
    (axes,) = draw_comparison({"x": [runs]}, "title", axis).axes
    assert axes.get_xlim()[0] == pytest.approx(0.8 * first)
    assert axes.get_ylim()[1] < 3.5
    drawn = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 1]
    assert drawn
    assert min(places[0] for places in drawn) >= first


def test_a_table_says_the_same_everywhere() -> None:
    table = Table("a < b", ["name", "what", "score"], [["x", "<b> & [b]", "1.5"]], texts=["what"])
    assert table.to_markdown().splitlines()[2:] == [
        "| name | what | score |", "| --- | --- | ---: |", "| x | <b> & [b] | 1.5 |",
    ]  # fmt: skip
    page = table.to_html()
    assert "<caption>a &lt; b</caption>" in page
    assert '<td>&lt;b&gt; &amp; [b]</td><td class="number">1.5</td>' in page
    shown = io.StringIO()
    Console(file=shown, width=80).print(table.to_rich())
    assert "<b> & [b]" in shown.getvalue()
