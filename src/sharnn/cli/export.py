"""`sharnn export`: write a model to a folder for sharing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sharnn.cli.common import add_model, chosen_model, error_console, make_parser
from sharnn.errors import ConfigError

HELP = "write a model to a folder for sharing"

_DESCRIPTION = """\
Write MODEL to a folder for sharing: weights, settings, tokenizer and card, without the training state.
Every verb that takes a model reads such a folder, on any machine. int8 takes a quarter of the space of
fp32, bf16 half."""

_EXAMPLES = """\
examples:
  sharnn export runs/mine --out mine
  sharnn export runs/mine --dtype int8 --out mine-int8"""


def run(argv: list[str]) -> int:
    """Parse, write the folder, and print its size."""
    usage = "[MODEL] --out FOLDER [--dtype fp32|bf16|int8]"
    parser = make_parser("export", usage, _DESCRIPTION, _EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "--to", type=Literal["model"], default="model", help="format: model, a model folder"
    )
    parser.add_options({
        "--out": (str, "folder to write, new or empty", "FOLDER"),
        "--dtype": (Literal["fp32", "bf16", "int8"], "precision on disk (default: MODEL's own)"),
    })  # fmt: skip
    options = parser.parse_args(argv)
    if not options.out:
        raise ConfigError("--out is missing: give the folder to write")
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists: give a folder that is new or empty")

    from sharnn.checkpoint import load_model, save_model

    loaded = load_model(chosen_model(options.model, error_console()))
    dtype = options.dtype or loaded.dtype
    save_model(out, loaded.model, loaded.tokenizer, loaded.card, dtype)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {loaded.model.num_parameters():,} parameters in {dtype}, {size / 2**20:.1f} MiB")
    return 0
