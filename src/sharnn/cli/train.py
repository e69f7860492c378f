"""`sharnn train`: train a model, fine-tune one, or resume a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import READING, TEXT_HELP, error_console, make_parser, progress_bar
from sharnn.errors import INTERRUPTED, ConfigError
from sharnn.recipe import (
    DEFAULT_RECIPE,
    FINETUNE_RECIPE,
    SHORT_OPTIONS,
    add_settings,
    load_recipe_settings,
    recipe_from_settings,
    resolve_settings,
    settings_to_yaml,
    shipped_recipes,
)

if TYPE_CHECKING:
    from sharnn.cli.parser import VerbParser
    from sharnn.config import ModelConfig

HELP = "train a model, fine-tune one, or resume a run"

DEFAULT_TEXT = "python-stdlib"

_DESCRIPTION = f"""\
Train a model on TEXT: a known corpus ('sharnn data list'), files, folders, globs in quotes, or - for
standard input (default: {DEFAULT_TEXT}). Settings come from a recipe and from options, which take
precedence. Ctrl-C saves the run; --resume continues it exactly where it stopped.

--from MODEL fine-tunes: training starts from the weights of MODEL, which is 'base' (it comes with
sharnn), a model folder or a run folder. The run keeps MODEL's tokenizer and model settings, of which only
dropouts and window can be changed, and the recipe is '{FINETUNE_RECIPE}' unless --recipe is given."""


def run(argv: list[str]) -> int:
    """Parse, train, and print where the model is."""
    parser = _parser()
    options = dict(parser.parse_scattered(argv, defaults=False).items())
    return _resume(options) if options.get("resume") is not None else _start(options)


def _parser() -> VerbParser:
    examples = (
        "examples:\n"
        "  sharnn train my.txt --out runs/mine --budget 10m\n"
        "  sharnn train enwik8 --recipe paper-enwik8-one --out runs/paper\n"
        "  sharnn train 'notes/**/*.md' --out runs/notes --model.embed_dim 512 --optim.lr 0.003\n"
        "  sharnn train --from base my.txt --out runs/tuned\n"
        "  sharnn train --from runs/mine other.txt --out runs/other --model.hidden_dropout 0.1\n"
        "  sharnn train --resume runs/mine --budget 1h\n\n"
        f"recipes: {', '.join(shipped_recipes())} (default {DEFAULT_RECIPE}, with --from "
        f"{FINETUNE_RECIPE}), or a YAML file"
    )
    parser = make_parser("train", "TEXT… --out RUN [options]", _DESCRIPTION, examples)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help=f"{TEXT_HELP}; several are joined")
    parser.add_options({
        "--out": (str, "folder of the run (default: runs/TEXT)", "RUN"),
        "--from": (str, "model to fine-tune: base, a model folder or a run folder", "MODEL"),
        "--resume": (str, "run folder to resume; takes only --budget, --device and a moved TEXT", "RUN"),
        "--recipe": (str, "recipe to start from, see below", "NAME|FILE"),
        "--budget": (str, "length of training: 90s, 10m, 2h, 5000steps, 3epochs or 50Mtokens "
                          "(default: the recipe's)"),
        "--device": (str, "auto, cpu, cuda or cuda:N (default: auto)"),
        **READING,
        "--print-recipe": (False, "print all settings as a recipe, and exit"),
    })  # fmt: skip
    add_settings(parser)
    parser.show_settings(
        "model.embed_dim", "model.num_layers", "model.window", "model.attention_layers",
        "model.hidden_dropout", "data.tokenizer", "data.num_lanes", "optim.name",
        "optim.lr", "train.seed", "train.dtype",
    )  # fmt: skip
    recipe = load_recipe_settings(DEFAULT_RECIPE)  # its values are only shown by --help
    for section, values in recipe.items():
        parser.set_defaults({f"{section}.{key}": value for key, value in values.items()})
    parser.chosen_settings = frozenset(recipe["train"]["fit"])
    return parser


def _start(options: dict[str, Any]) -> int:
    given = {name: value for name, value in options.items() if "." in name}
    for option, setting in SHORT_OPTIONS.items():
        if (value := options.get(option.removeprefix("--"))) is not None:
            given[setting] = value
    for name in ("include", "exclude"):
        if options.get(name) is not None:
            given[f"data.{name}"] = options[name]
    if options.get("texts"):
        given["data.texts"] = list(options["texts"])
    sections = resolve_settings(options.get("recipe"), given, _settings_of)
    data = sections.setdefault("data", {})
    data["texts"] = data.get("texts") or [DEFAULT_TEXT]
    if options.get("print_recipe"):
        print(settings_to_yaml(sections), end="")
        return 0
    recipe = recipe_from_settings(sections)
    out = Path(options["out"]) if options.get("out") else _default_out(recipe.data.texts[0])
    from sharnn.train import start_run

    console = error_console()
    with progress_bar(console) as progress:
        outcome = start_run(recipe, out, console, progress)
    return _finish(outcome, out)


def _settings_of(model: str) -> ModelConfig:
    from sharnn.checkpoint import read_model_folder

    return read_model_folder(model).config


def _resume(options: dict[str, Any]) -> int:
    texts = options.pop("texts", None) or []
    given = [f"--{_as_option(name)}" for name, value in options.items() if value is not None]
    useless = [name for name in given if name not in ("--resume", "--budget", "--device")]
    if useless:
        raise ConfigError(
            f"--resume takes all settings from the run, so {useless[0]} would do nothing: leave it out, "
            "or start a new run (only --budget, --device and the new place of a moved text can be given)"
        )
    from sharnn.train import resume_run

    out, console = Path(options["resume"]), error_console()
    with progress_bar(console) as progress:
        budget, device = options.get("budget"), options.get("device")
        outcome = resume_run(out, console, budget, device, progress, texts)
    return _finish(outcome, out)


def _as_option(name: str) -> str:
    """Return the option of a parsed name."""
    return name if "." in name else name.replace("_", "-")


def _default_out(text: str) -> Path:
    """Return the run folder runs/NAME, named after the first text."""
    stem = Path(text).name.split(".")[0] if text != "-" else "stdin"
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")
    return Path("runs") / (name or "run")


def _finish(outcome: Any, out: Path) -> int:
    counters = outcome.counters
    if outcome.interrupted:
        print(
            f"stopped and saved at step {counters.step:,}; resume with: sharnn train --resume {out}"
        )
        return INTERRUPTED
    best = counters.best_bits_per_byte
    print(f"{outcome.reason} after {counters.step:,} steps and {counters.tokens_seen:,} tokens")
    if best is not None:
        print(f"best valid bits per byte  {best:.4f}  (in lanes, at step {counters.best_step:,})")
    from sharnn.checkpoint import resolve_model_folder

    print(f"model  {resolve_model_folder(out)}")
    return 0
