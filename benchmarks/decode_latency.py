"""Speed of the decoder compared with the original's way of sampling: one lane, many lanes, a prompt.

    python benchmarks/decode_latency.py
    python benchmarks/decode_latency.py --embed-dim 256

"eager" is the model's forward pass with the original's structure, one token at a time, as the 2019 code
samples: it concatenates and gates the whole memory for every token. Memories are full. The logits of all
contenders are compared before timing. GB/s counts each weight and each memory row once per step; the
memory bandwidth is measured by reading a gigabyte, in turn with the contenders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench import BYTES, EAGER, Contender, Report, full_state, make_parser, memory_ceiling, race
from sharnn.config import ModelConfig
from sharnn.generation import RingDecoder
from sharnn.machine import keep_freed_memory
from sharnn.model import LanguageModel
from sharnn.ops import FAST
from sharnn.train.precision import resolve_device

#: Tokens of a prompt that the eager path reads at once; with more it is slower.
EAGER_SEGMENT = 512
EAGER_NAME = "eager fp32"
#: Largest difference of logits that rounding explains, as a share of their norm.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.1}


def make_model(dim: int, window: int, device: str) -> LanguageModel:
    """Return a byte-level SHA-RNN with the paper's proportions and an embedding of unit variance."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(embed_dim=dim, window=window), EAGER).eval()
    with torch.no_grad():
        model.embedding.weight.normal_()
    return model.to(resolve_device(device))


def eager_steps(dim: int, window: int, device: str, count: int) -> Callable[[], None]:
    """Return a function that reads tokens one by one."""
    model = make_model(dim, window, device)
    state = full_state(model, 1, max(window - 1, 0), torch.float32)

    @torch.no_grad()
    def read() -> None:
        after = state
        for token in range(count):
            logits, after = model(torch.tensor([[token]], device=model.device), after)
            logits.argmax().item()  # sampling needs the logits of every step

    return read


def decoder_steps(
    dim: int,
    window: int,
    device: str,
    count: int,
    dtype: str,
    lanes: int,
    memory: str | None = None,
) -> Callable[[], None]:
    """Return a function that reads `count` tokens in each lane, all lanes together."""
    model = make_model(dim, window, device)
    decoder = RingDecoder(model, lanes, dtype, memory)
    state = full_state(model, 1, max(window - 1, 0), torch.float32)
    decoder.load(state.expand(lanes))

    def read() -> None:
        for token in range(count):
            decoder.step(torch.full((lanes,), token, device=model.device)).argmax().item()

    return read


def eager_prompt(dim: int, window: int, device: str, count: int) -> Callable[[], None]:
    """Return a function that reads a prompt with the forward pass, in segments."""
    model = make_model(dim, window, device)
    tokens_BT = torch.arange(count, device=model.device)[None] % 256

    @torch.no_grad()
    def read() -> None:
        state = model.initial_state(1)
        for part in tokens_BT.split(EAGER_SEGMENT, dim=1):
            out_BTD, state = model.hidden(part, state)
        model.softmax.logits(out_BTD[:, -1:], model.embedding.weight).argmax().item()

    return read


def decoder_prompt(
    dim: int, window: int, device: str, count: int, dtype: str
) -> Callable[[], None]:
    """Return a function that reads a prompt with the decoder."""
    model = make_model(dim, window, device)
    model.ops = FAST
    decoder = RingDecoder(model, 1, dtype)
    tokens_BT = torch.arange(count, device=model.device)[None] % 256

    def read() -> None:
        decoder.load(model.initial_state(1))
        decoder.prefill(tokens_BT).argmax().item()

    return read


@torch.no_grad()
def check_logits(dim: int, window: int, device: str) -> None:
    """Compare the decoder with the eager forward pass over a few tokens.

    Raises:
        SystemExit: They differ by more than rounding.
    """
    model = make_model(dim, window, device)
    state = full_state(model, 1, max(window - 1, 0), torch.float32)
    tokens_BT = torch.randint(256, (1, 4), device=model.device)
    expected, _ = model(tokens_BT, state)
    for dtype, limit in TOLERANCE.items():
        decoder = RingDecoder(model, 1, dtype)
        decoder.load(state)
        for token_B in tokens_BT.unbind(1):
            logits = decoder.step(token_B)
        difference = float((logits - expected[:, -1]).norm() / expected[:, -1].norm())
        if not difference < limit:
            raise SystemExit(f"{dtype}: the decoder's logits differ by {difference:.2g}")


def measure(options: argparse.Namespace) -> None:
    """Time all contenders and write the section."""
    device, dim, window = resolve_device(options.device), options.embed_dim, options.window
    place = {"dim": dim, "window": window, "device": options.device}
    check_logits(**place)
    report = Report(f"Decoding, D {dim} × 4, window {window:,}", device, options.results)
    step = {**place, "count": 1}
    contenders = {EAGER_NAME: Contender(eager_steps, step, 1, options.seconds)}
    for lanes in (1, options.lanes):
        for dtype in TOLERANCE:
            settings = {**step, "dtype": dtype, "lanes": lanes}
            contenders[named(dtype, lanes)] = Contender(
                decoder_steps, settings, lanes, options.seconds
            )
    limit = {"ceiling": memory_ceiling(options.device)}
    timings, rows = race({**contenders, **limit}, options.repeats), []
    ceiling = timings.pop("ceiling").rate / 1e9
    weights = LanguageModel(ModelConfig(embed_dim=dim, window=window)).fold().num_parameters()
    eager = timings[EAGER_NAME].rate
    for name, timing in timings.items():
        of = contenders[name].settings
        lanes, dtype = of.get("lanes", 1), of.get("dtype", "fp32")
        read = (weights + lanes * window * dim) * BYTES[dtype]
        gigabytes = timing.rate / lanes * read / 1e9
        rows.append([
            name, f"{timing.rate:,.0f}", timing.spread, f"{timing.rate / eager:.1f}",
            f"{gigabytes:.1f}", f"{gigabytes / ceiling:.0%}",
            f"{timing.peak_bytes / 2**20:,.0f}",
        ])  # fmt: skip
    columns = ["", "tokens/s", "slowest … quickest", "ratio", "GB/s", "share of memory bandwidth",
               "peak MiB"]  # fmt: skip
    report.table(
        f"Decoding, all lanes together, median of {options.repeats} in turn", columns, rows
    )
    many = named("int8", options.lanes)
    report.say(f"{many} / one eager lane: {timings[many].rate / eager:.1f}")
    report.say(
        f"Memory bandwidth: {ceiling:.1f} GB/s; data in the last-level cache is read faster."
    )
    prompts(options, place, report)
    report.save()


def named(dtype: str, lanes: int) -> str:
    """Return a contender's name."""
    return f"{dtype}, {lanes} lane{'s' * (lanes > 1)}"


def prompts(options: argparse.Namespace, place: dict[str, object], report: Report) -> None:
    """Time the reading of a prompt from an empty memory."""
    count = options.prompt
    contenders = {EAGER_NAME: Contender(eager_prompt, {**place, "count": count}, count)}
    for dtype in TOLERANCE:
        settings = {**place, "count": count, "dtype": dtype}
        contenders[dtype] = Contender(decoder_prompt, settings, count)
    timings = race(contenders, options.repeats)
    eager = timings[EAGER_NAME].rate
    rows = [
        [name, f"{t.rate:,.0f}", t.spread, f"{t.rate / eager:.1f}", f"{t.peak_bytes / 2**20:,.0f}"]
        for name, t in timings.items()
    ]
    columns = ["", "tokens/s", "slowest … quickest", "ratio", "peak MiB"]
    report.table(f"Reading a prompt of {count:,} bytes, one lane", columns, rows)


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--embed-dim", type=int, default=1024)
    parser.add_argument("--window", type=int, default=5000)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.5, help="least duration of a timed run")
    parser.add_argument("--prompt", type=int, default=5000, help="bytes of the prompt")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
