"""The results of an experiment as tables, pictures and a page."""

from __future__ import annotations

from pathlib import Path

from experiments.attack.small import Done
from sharnn.experiments.attack.report import PAGE, TABLES, write_report


def test_tables_pictures_and_a_page_are_written(done: Done, tmp_path: Path) -> None:
    _, _, runs = done
    tables = write_report(runs, tmp_path, "a <small> text")
    assert [len(table.rows) for table in tables] == [6, 6]
    assert "| sha-rnn | bpe-280 |" in (tmp_path / TABLES).read_text()
    page = (tmp_path / PAGE).read_text()
    assert "a &lt;small&gt; text" in page
    pictures = sorted(path.stem for path in tmp_path.glob("*.png"))
    assert pictures == ["classes-bytes", "perturbed-bytes", "places-bytes", "scores", "ways-bytes"]
    assert page.count("data:image/png;base64,") == len(pictures)
