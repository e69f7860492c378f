"""However many threads OpenMP gives, results are those of one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import write_model
from texts import write_text

#: What makes OpenMP give fewer threads than it promised: `dynamic` does it by how busy the machine was.
FEWER = {
    "limit": {"OMP_NUM_THREADS": "2", "OMP_THREAD_LIMIT": "1"},
    "dynamic": {"OMP_NUM_THREADS": "2", "OMP_DYNAMIC": "true"},
}

#: Packed products and steps, in a process that imports torch before sharnn could bound anything.
LIBRARY = """
import torch
from sharnn.config import ModelConfig
from sharnn.generation.decoder import RingDecoder
from sharnn.model import LanguageModel
from sharnn.ops.matmul import product
torch.manual_seed(0)
model = LanguageModel(ModelConfig(embed_dim=64, num_layers=2, window=32)).eval()
tokens = torch.randint(256, (2, 40))
decoder = RingDecoder(model, 2)
decoder.prefill(tokens[:, :30])
for token in tokens[:, 30:].unbind(1):
    logits = decoder.step(token)
expected = model(tokens, model.initial_state(2))[0][:, -1]
assert torch.allclose(logits, expected, atol=1e-3)
for rows in (64, 2048):
    a, b = torch.randn(rows, 128), torch.randn(256, 128)
    assert torch.allclose(product(a, b), (a.double() @ b.t().double()).float(), atol=1e-3)
print(torch.get_num_threads())
"""


def call(*arguments: object, **environment: str) -> str:
    inherited = {
        name: value for name, value in os.environ.items() if name[:4] not in ("OMP_", "MKL_")
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env={**inherited, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("fewer", FEWER)
def test_products_and_steps_are_right_in_any_process(fewer: str) -> None:
    assert call("-c", LIBRARY, **FEWER[fewer]) == "2\n"


@pytest.fixture(scope="module")
def model_and_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("threads")
    write_model(folder / "model", embed_dim=64, window=64)
    return folder / "model", write_text(folder, 3_000)


@pytest.fixture(scope="module")
def nats_of_one_thread(model_and_text: tuple[Path, Path]) -> float:
    return evaluated(model_and_text, OMP_NUM_THREADS="1")["nats"]


def evaluated(names: tuple[Path, Path], **environment: str) -> dict[str, Any]:
    return json.loads(call("-m", "sharnn", "evaluate", *names, "--json", **environment))


@pytest.mark.parametrize("fewer", FEWER)
def test_scores_are_those_of_one_thread(
    fewer: str, model_and_text: tuple[Path, Path], nats_of_one_thread: float
) -> None:
    found = evaluated(model_and_text, **FEWER[fewer])["nats"]
    assert found == pytest.approx(nats_of_one_thread, rel=1e-5)


@pytest.mark.parametrize("fewer", FEWER)
def test_training_skips_no_step(fewer: str, tmp_path: Path) -> None:
    text, run = write_text(tmp_path, 12_000), tmp_path / "run"
    call(
        "-m", "sharnn", "train", text, "--out", run, "--budget", "4steps", "--train.fit", "[]",
        "--model.embed_dim", "64", "--data.num_lanes", "16", "--data.segment_length", "64",
        "--device", "cpu", **FEWER[fewer],
    )  # fmt: skip
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [record for record in records if record["kind"] == "train"]
    assert len(steps) == 4
    assert all(step["skipped_steps"] == 0 and 0 < step["bits_per_byte"] < 12 for step in steps)
