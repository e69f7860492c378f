"""Gain and cost of adapting to a text while it is scored: dynamic evaluation and the continuous cache.

    python benchmarks/adaptive_evaluation.py                   first trains the recipe demo for --budget
    python benchmarks/adaptive_evaluation.py runs/mine my.txt
    python benchmarks/adaptive_evaluation.py runs/mine my.txt --ideal

TEXT is the text that the model was trained on. Gradient statistics come from its train split. The first
--tune-bytes of its valid split choose the settings; the bytes from there to --num-bytes are scored. With
--ideal they are scored in ideal sliding windows of the model's window instead.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import Report, make_parser, trained
from sharnn.checkpoint import LoadedModel, load_model
from sharnn.data.corpus import Corpus, Split
from sharnn.data.prepare import prepare
from sharnn.evaluate import (
    ContinuousCache,
    DynamicRule,
    RmsRule,
    Score,
    SgdRule,
    evaluate_dynamic,
    evaluate_ideal,
    evaluate_static,
    gather_statistics,
)
from sharnn.train import resolve_device

SGD = {"lr": [0.03, 0.06, 0.12], "decay": [0.003, 0.01]}
RMS = {"lr": [0.0005, 0.001, 0.002], "decay": [0.003, 0.01]}
CACHE = {"weight": [0.1, 0.2, 0.3, 0.4], "flatness": [0.1, 0.2, 0.3, 0.4]}
COLUMNS = ["", "bits per byte", "against static", "tokens/s"]

#: Scores a part of the text.
Scorer = Callable[[Split], Score]


def settings_of(grid: dict[str, list[float]]) -> list[dict[str, float]]:
    """Return every combination of a grid of two settings; the second setting varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def tuned(
    report: Report, title: str, grid: dict[str, list[float]], part: Split,
    scorer: Callable[..., Scorer],
) -> dict[str, float]:  # fmt: skip
    """Score every combination of a grid, add the table, and return the best combination."""
    bits: list[tuple[float, dict[str, float]]] = []
    for settings in settings_of(grid):
        bits.append((scorer(**settings)(part).bits_per_byte, settings))
    (first, firsts), (second, seconds) = grid.items()
    scores = iter(f"{value:.4f}" for value, _ in bits)
    report.table(
        f"{title}: bits per byte of the first {part.num_bytes:,} bytes",
        [f"{first} ↓ {second} →", *map(str, seconds)],
        [[str(value), *itertools.islice(scores, len(seconds))] for value in firsts],
    )
    return min(bits, key=lambda scored: scored[0])[1]


def adaptations(
    options: argparse.Namespace, report: Report, loaded: LoadedModel, corpus: Corpus, part: Split
) -> dict[str, Scorer]:
    """Choose settings on a part of the text; return the scorers with these settings by name."""
    model, tokenizer, length = loaded.model, loaded.tokenizer, options.segment_length
    statistics = gather_statistics(
        model, tokenizer, corpus.split("train"),
        num_tokens=options.statistics_tokens, segment_length=length,
    )  # fmt: skip

    def dynamic(rule: DynamicRule, cache: ContinuousCache | None = None) -> Scorer:
        gathered = statistics if isinstance(rule, RmsRule) else None
        return lambda split: evaluate_dynamic(
            model, tokenizer, split, rule,
            statistics=gathered, segment_length=length, cache=cache,
        )  # fmt: skip

    def static(cache: ContinuousCache | None = None) -> Scorer:
        return lambda split: evaluate_static(model, tokenizer, split, cache=cache)

    sgd = SgdRule(**tuned(report, "dynamic, sgd", SGD, part, lambda **s: dynamic(SgdRule(**s))))
    rms = RmsRule(**tuned(report, "dynamic, rms", RMS, part, lambda **s: dynamic(RmsRule(**s))))
    cached = functools.partial(ContinuousCache, options.cache)
    title = f"cache of {options.cache:,}"
    cache = cached(**tuned(report, title, CACHE, part, lambda **s: static(cached(**s))))
    return {
        "static": static(),
        f"dynamic, sgd: lr {sgd.lr}, decay {sgd.decay}": dynamic(sgd),
        f"dynamic, rms: lr {rms.lr}, decay {rms.decay}": dynamic(rms),
        f"{title}: weight {cache.weight}, flatness {cache.flatness}": static(cache),
        "both, sgd": dynamic(sgd, cache),
        "both, rms": dynamic(rms, cache),
    }


def windows(options: argparse.Namespace, loaded: LoadedModel) -> dict[str, Scorer]:
    """Return the scorers by name: strict, and in ideal windows as long as the model's window."""
    model, tokenizer, context = loaded.model, loaded.tokenizer, loaded.config.window
    if not context:
        raise SystemExit("--ideal uses the model's window as context, but this model has no window")

    def ideal(stride: int) -> Scorer:
        return lambda split: evaluate_ideal(model, tokenizer, split, context=context, stride=stride)

    strides = [stride for stride in options.strides if stride <= context]
    return {
        "static": lambda split: evaluate_static(model, tokenizer, split),
        **{f"ideal, context {context}, stride {s}": ideal(s) for s in strides},
    }


def compare(report: Report, title: str, scorers: dict[str, Scorer], part: Split) -> None:
    """Score a part of the text with every scorer and add the table."""
    scores = {name: score(part) for name, score in scorers.items()}
    static = scores["static"].bits_per_byte
    report.table(
        f"{title}: {part.num_bytes:,} bytes",
        COLUMNS,
        [
            [name, f"{s.bits_per_byte:.4f}", f"{s.bits_per_byte - static:+.4f}",
             f"{s.tokens_per_second:,.0f}"]
            for name, s in scores.items()
        ],
    )  # fmt: skip


def measure(options: argparse.Namespace) -> None:
    """Choose settings on one part of the valid split, score the other, and write the section."""
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        run = options.model or trained(options.budget, options.device, Path(folder))
        loaded = load_model(run, device)
    corpus = prepare([str(options.text or "python-stdlib")], tokenizer=loaded.tokenizer)
    valid = corpus.split("valid")
    chosen_on = valid.part(loaded.tokenizer, 0, options.tune_bytes)
    rest = valid.part(loaded.tokenizer, options.tune_bytes, options.num_bytes)
    size = f"{loaded.config.architecture}, D {loaded.config.embed_dim} × {loaded.config.num_layers}"
    if options.ideal:
        report = Report("Ideal sliding window", device, options.results)
        compare(report, size, windows(options, loaded), rest)
    else:
        report = Report("Adaptive evaluation", device, options.results)
        report.say(
            f"Dynamic evaluation in segments of {options.segment_length} tokens, gradient statistics of "
            f"{options.statistics_tokens:,}."
        )
        scorers = adaptations(options, report, loaded, corpus, chosen_on)
        compare(report, f"{size}, the bytes after those", scorers, rest)
    report.save()


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, repeats=False)
    parser.add_argument("model", type=Path, nargs="?", help="model or run folder, fp32 or bf16")
    parser.add_argument("text", type=Path, nargs="?", help="the text that it was trained on")
    parser.add_argument("--budget", default="90s", help="training budget, without MODEL")
    parser.add_argument("--ideal", action="store_true", help="score in ideal sliding windows")
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 16, 64, 256, 512])
    parser.add_argument("--num-bytes", type=int, default=60_000)
    parser.add_argument("--tune-bytes", type=int, default=20_000)
    parser.add_argument("--segment-length", type=int, default=32)
    parser.add_argument("--statistics-tokens", type=int, default=1 << 16)
    parser.add_argument("--cache", type=int, default=2_000)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
