"""On a GPU everything gives what it gives on a CPU; where there is none, nothing here runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import know_ngrams, stir
from models import make_model as small_model
from sharnn.config import ModelConfig
from sharnn.generation import Session
from sharnn.model import LanguageModel
from sharnn.ops import FAST, REFERENCE
from sharnn.text import ByteTokenizer
from texts import write_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LOOK_UPS = {"longest_ngram": 4, "ngram_rows": 60, "recall_orders": [1, 2, 4], "recall_slots": 256}
CONFIGS: dict[str, dict[str, Any]] = {
    "paper": {"attention_layers": "all"},
    "residual": {"residual": True, "forget_bias": 1.0, **LOOK_UPS},
    "reads-next": {"residual": True, "reads_next": True},
    "segment": {"reach": "segment"},
    "lstm": {"architecture": "lstm", "window": None, "boom_dim": None},
    "transformer": {"architecture": "transformer", "num_heads": 2, **LOOK_UPS},
}


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Let float32 be float32: what TF32 rounds away would hide an error."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


def make_model(name: str, ops: Any = FAST) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "embed_dim": 32, "num_layers": 3, "boom_dim": 80, "window": 20}
    return stir(know_ngrams(LanguageModel(ModelConfig(**{**sizes, **CONFIGS[name]}), ops)))


def read(
    model: LanguageModel, tokens_BT: torch.Tensor, cuts: list[int], dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Return the nats of a text read in segments, and the gradients of their weighted sum."""
    state, parts = model.initial_state(tokens_BT.shape[0]), []
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        for segment in tokens_BT.tensor_split(cuts, dim=1):
            nats, state = model.nats(segment, segment.flip(1), state)
            parts.append(nats)
    nats_BT = torch.cat(parts, dim=1)
    weight_BT = torch.linspace(-1, 1, nats_BT.numel(), device=nats_BT.device).view(nats_BT.shape)
    (nats_BT * weight_BT).sum().backward()
    return {"nats": nats_BT.detach()} | {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "limit"), [(None, 3e-4), (torch.bfloat16, 0.15)])
def test_nats_and_gradients_are_those_of_the_definition(
    name: str, dtype: torch.dtype | None, limit: float
) -> None:
    tokens_BT = torch.randint(11, (3, 60), generator=torch.Generator().manual_seed(1))
    exact = read(make_model(name, REFERENCE).double(), tokens_BT, [13, 40])
    ours = read(make_model(name).cuda(), tokens_BT.cuda(), [13, 40], dtype)
    assert ours.keys() == exact.keys()
    whole = torch.cat([x.flatten() for x in exact.values()])
    difference = torch.cat([(ours[key].cpu().double() - exact[key]).flatten() for key in exact])
    assert difference.norm() < limit * whole.norm()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "segment"])
@torch.no_grad()
def test_any_split_equals_one_forward(name: str) -> None:
    model, tokens_BT = make_model(name).cuda().eval(), torch.arange(66).view(2, 33).cuda() % 11
    whole, _ = model(tokens_BT, model.initial_state(2))
    state, parts = model.initial_state(2), []
    for segment in tokens_BT.tensor_split([1, 9, 10, 30], dim=1):
        logits, state = model(segment, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_dropout_goes_backward_through_the_mask_it_went_forward() -> None:
    """With the same mask drawn each time, the gradient tells the slope along any direction."""
    x, weight, bias = (torch.randn(shape, device="cuda") for shape in ((2, 9, 32), (64, 32), (64,)))
    rows, gate, step = torch.randn(2, 30, 32).cuda(), torch.ones(32).cuda(), 1e-2
    for op in (
        lambda x: FAST.boom(x, weight, bias, 0.4),
        lambda x: FAST.attention(x, rows, rows[:, -9:], gate, gate, 20, None, 0.4),
        lambda x: FAST.dropout(x, 0.4),
    ):

        def seeded(x: torch.Tensor, op: Any = op) -> torch.Tensor:
            torch.manual_seed(3)
            return op(x)

        leaf, direction = x.clone().requires_grad_(), torch.randn_like(x)
        (gradient,) = torch.autograd.grad(seeded(leaf).square().sum(), leaf)
        ahead, behind = (
            seeded(x + sign * step * direction).square().double().sum() for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * step)
        assert abs((gradient * direction).sum() - slope) < 0.02 * abs(slope) + 0.05


def sharnn(*arguments: object) -> str:
    command = [sys.executable, "-m", "sharnn", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("recipe", ["demo", "gpu-20min", "paper-enwik8-one", "transformer"])
def test_a_run_trains_goes_on_and_is_used(tmp_path: Path, recipe: str) -> None:
    text, run = write_text(tmp_path, 60_000), tmp_path / "run"
    heads = ["--model.num_heads", 2] if recipe == "transformer" else []
    sizes = ["--model.embed_dim", 64, "--model.boom_dim", 256, "--model.num_layers", 2, *heads,
             "--data.num_lanes", 4, "--data.segment_length", 64]  # fmt: skip
    fitted = [] if "paper" in recipe or recipe == "transformer" else ["--train.fit", "[]"]
    sharnn("train", text, "--recipe", recipe, "--device", "cuda", *sizes, *fitted,
           "--budget", "60steps", "--optim.warmup", "5%", "--train.validate_every", "30steps",
           "--out", run)  # fmt: skip
    sharnn("train", "--resume", run, "--budget", "80steps")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    nats = [record["nats"] for record in records if record["kind"] == "train"]
    assert len(nats) == 80
    assert nats[-1] < 0.8 * nats[0]
    scores = [
        json.loads(sharnn("evaluate", run, text, "--device", device, "--json"))["bits_per_byte"]
        for device in ("cuda", "cpu")
    ]
    assert abs(scores[0] - scores[1]) < 0.01
    drawn = ["generate", run, "--device", "cuda", "--prompt", "The", "--max-bytes", 40, "--seed", 1]
    assert sharnn(*drawn) == sharnn(*drawn)


def test_a_session_reads_on_the_gpu_as_on_the_cpu() -> None:
    logits = []
    for device in ("cpu", "cuda"):
        model = small_model(residual=True, recall_orders=[1, 2, 4]).eval().to(device)
        logits.append(Session(model, ByteTokenizer()).prefill("what is said is said twice").cpu())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
