"""Train the shipped model and write it to its place in the package.

    python scripts/train_base.py --train enwik8-head.txt:0.9 wikitext2/train.txt \\
        --valid enwik8-head.txt:0.9:0.95 wikitext2/valid.txt --budget 2h

The training texts are joined in order and read as one. The validation texts are only scored and choose
nothing: the shipped model is the last of the run. Each text is a file or a part of one: FILE:0.9 is its
first nine tenths, FILE:0.9:0.95 the part between these shares. A text that is given twice is read twice
as often. Weights are written to src/sharnn/weights/base as int8, with a card of all of this. --resume
continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sharnn import machine

machine.tune_process()  # before torch is imported, as the command line does

from sharnn.checkpoint import LoadedModel, RunFolder, load_model, save_model  # noqa: E402
from sharnn.checkpoint.load import SHIPPED  # noqa: E402
from sharnn.data.prepare import prepare  # noqa: E402
from sharnn.errors import ConfigError, SharnnError  # noqa: E402
from sharnn.evaluate import evaluate_static  # noqa: E402
from sharnn.recipe import resolve_recipe  # noqa: E402
from sharnn.train import resume_run, start_run  # noqa: E402

#: Share of a text without splits of its own that is its train split.
_TRAIN_SHARE = 0.9
RECIPE = Path(__file__).with_name("base.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Compose the text, train, score, save; return the exit code."""
    options = parse(argv)
    try:
        return _main(options)
    except SharnnError as error:
        print(f"train_base: error: {error}", file=sys.stderr)
        return error.exit_code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--train", nargs="+", required=True, help="texts to train on")
    parser.add_argument("--valid", nargs="+", required=True, help="texts to score")
    parser.add_argument("--recipe", default=str(RECIPE))
    parser.add_argument("--budget", default="2h")
    parser.add_argument("--run", type=Path, default=Path("runs/base"), help="run folder")
    parser.add_argument("--resume", action="store_true", help="continue the run")
    parser.add_argument(
        "--out", type=Path, default=SHIPPED, help="folder that the model is written to"
    )
    parser.add_argument("--about", default="", help="names of the texts, for the card")
    parser.add_argument("--licence", default="CC BY-SA 3.0 (the texts': Wikipedia)")
    return parser.parse_args(argv)


def _main(options: argparse.Namespace) -> int:
    texts, console = [part(name) for name in options.train], Console(stderr=True, soft_wrap=True)
    if options.resume:
        outcome = resume_run(options.run, console, options.budget)
    else:
        path = compose(options.run.with_suffix(".txt"), b"".join(texts),
                       b"".join(map(part, options.valid)))  # fmt: skip
        given = {"data.texts": [str(path)], "train.budget": options.budget}
        outcome = start_run(resolve_recipe(options.recipe, given), options.run, console)
    if outcome.interrupted:
        print(f"stopped and saved; --resume continues {options.run}", file=sys.stderr)
        return 130
    ship(options, texts)
    return 0


def part(name: str) -> bytes:
    """Return the bytes of FILE, FILE:END or FILE:START:END.

    Raises:
        ConfigError: There is no such file, or the shares are out of range.
    """
    path, *shares = name.split(":")
    try:
        data = Path(path).read_bytes()
        bounds = [float(share) for share in shares]
    except (OSError, ValueError) as failure:
        raise ConfigError(f"{name}: {failure}") from failure
    start, end = ([0.0, 1.0] if not bounds else [0.0, *bounds])[-2:]
    if not 0 <= start < end <= 1:
        raise ConfigError(f"{name}: shares must increase and be between 0 and 1")
    return data[int(len(data) * start) : int(len(data) * end)]


def compose(path: Path, train: bytes, valid: bytes) -> Path:
    """Write a text whose first nine tenths, which become the train split, are exactly `train`."""
    held_out = int(len(train) / _TRAIN_SHARE) + 1 - len(train)
    valid = (valid * (held_out // len(valid) + 1))[:held_out]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(train + valid)
    return path


def ship(options: argparse.Namespace, texts: Sequence[bytes]) -> None:
    """Score the run's last model as it will be after loading, and save it with its card."""
    trained = load_model(RunFolder(options.run).last)
    known = trained.card
    card = {
        "data": options.about or ", ".join(Path(name).name for name in options.train),
        "bytes to train on": f"{sum(map(len, texts)):,}",
        "licence": options.licence,
        "trained": f"{known['training seconds'] / 60:.0f} minutes on {known['machine']}",
        **{name: known[name] for name in ("tokens seen", "steps", "optimiser", "seed")},
    }
    model = trained.model.fold()
    with tempfile.TemporaryDirectory() as temporary:
        rounded = Path(temporary) / "model"
        save_model(rounded, model, trained.tokenizer, card, dtype="int8")
        for name in options.valid:
            bits = bits_per_byte(part(name), load_model(rounded), Path(temporary) / "valid.txt")
            card[f"bits per byte, {Path(name.split(':')[0]).name} valid"] = f"{bits:.4f}"
            print(f"{name}: {bits:.4f} bits per byte (strict)", flush=True)
    save_model(options.out, model, trained.tokenizer, card, dtype="int8")


def bits_per_byte(data: bytes, loaded: LoadedModel, path: Path) -> float:
    """Return the strict score of a text; it is written to `path` first."""
    path.write_bytes(data)
    split = prepare([str(path)], tokenizer=loaded.tokenizer).split("all")
    return evaluate_static(loaded.model, loaded.tokenizer, split).bits_per_byte


if __name__ == "__main__":
    sys.exit(main())
