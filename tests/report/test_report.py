"""Reports of real and of broken run folders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sharnn.errors import CheckpointError
from sharnn.report import read_run, write_report
from sharnn.report.runs import MAX_POINTS


def make_run(folder: Path, steps: int = 50, corpus: str = "zen") -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("model:\n  embed_dim: 16  # <b>\n")
    records: list[dict[str, Any]] = [
        {"kind": "start", "step": 0, "corpus": corpus, "num_parameters": 1234, "budget": "1m",
         "device": "cpu", "dtype": "fp32", "machine": "x", "date": "2026-01-01T00:00:00Z"},
    ]  # fmt: skip
    for step in range(1, steps + 1):
        bits = None if step == 3 else 8 - 5 * step / steps
        place = {"step": step, "tokens_seen": 100 * step, "seconds": step / 2}
        records.append(
            {"kind": "train", **place, "bits_per_byte": bits, "lr": 0.01, "skipped_steps": 1,
             "grad_norm": bits and 1.0, "tokens_per_second": 1000.0 + step}
        )  # fmt: skip
        if step % 10 == 0:
            records.append({"kind": "valid", **place, "bits_per_byte": 8.5 - 5 * step / steps})
    records.append({"kind": "end", "step": steps, "reason": "budget used up"})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_one_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", corpus="<script>alert(1)</script>")
    paths = write_report([read_run(run)])
    assert (paths.html, paths.png) == (run / "report.html", run / "curves.png")
    picture = Image.open(io.BytesIO(paths.png.read_bytes()))
    assert picture.size == (1320, 1100)
    assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096)) > 20
    page = paths.html.read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script>" not in page
    assert "embed_dim: 16  # &lt;b&gt;" in page
    assert "3.5000 after" in page


def test_several_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / group / "run") for group in ("a", "b")] + [make_run(tmp_path / "c")]
    paths = write_report([read_run(run) for run in runs], tmp_path / "out")
    assert (paths.html.name, paths.png.name) == ("report.html", "compare.png")
    page = paths.html.read_text()
    assert all(f"<td>{name}</td>" in page for name in ("a/run", "b/run", "c"))


def test_long_runs_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "long", steps=10_000))
    curve = record.curves["tokens_per_second"]
    assert len(curve.rows) <= 2 * MAX_POINTS
    assert curve.column(2)[0] < 1010
    assert curve.column(2)[-1] > 10_990
    values = curve.column(2)
    assert sum(values) / len(values) == pytest.approx(1000 + 5000, rel=0.01)


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "killed")
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"kind": "train", "step": 51, "tok')
    assert read_run(run).last["step"] == 50


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "no training step yet"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "line 1 is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("\x00\n"), "line 1 is damaged"),
    ],
)
def test_broken_runs(tmp_path: Path, damage: Any, message: str) -> None:
    run = make_run(tmp_path / "run")
    damage(run)
    with pytest.raises(CheckpointError, match=message):
        read_run(run)
    with pytest.raises(CheckpointError, match="there is no run folder"):
        read_run(tmp_path / "nothing")
