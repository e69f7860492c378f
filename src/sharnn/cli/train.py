"""`sharnn train`: fit a model to a text, fine-tune one, or go on with a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import check_options, error_console, make_parser, prepare_bar
from sharnn.config import (
    ADAPTED,
    SIZES_OF_WEIGHTS,
    add_settings,
    build_recipe,
    load_recipe_settings,
    shipped_recipes,
    to_dict,
)
from sharnn.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "fit a model to a text, fine-tune one, or go on with a run"

DEFAULT_TEXT = "python-stdlib"
DEFAULT_RECIPE = "desktop"
FINETUNE_RECIPE = "finetune"

_DESCRIPTION = f"""\
Fit a model to TEXT: a known corpus ('sharnn data list'), files, folders, globs, or - for standard
input; without TEXT, {DEFAULT_TEXT}. Settings come from a recipe and from options, and options win
wherever they stand. Ctrl-C saves; --resume goes on, to the token.

--from MODEL fine-tunes: it begins with the weights of MODEL, which is 'base' (it comes with sharnn), a
model folder or a run folder. The model's settings and tokenizer are then MODEL's own, of which dropouts
and window alone can be changed, and the recipe is '{FINETUNE_RECIPE}' unless --recipe names another."""

#: Settings of a recipe's model that hold for every architecture.
_SHARED_SETTINGS = (
    "embed_dim", "num_layers", "input_dropout", "hidden_dropout", "output_dropout",
)  # fmt: skip

#: Settings of a recipe's optimiser that no other one has.
_SETTINGS_OF_OPTIMISERS = ("matrix_lr", "min_trust")

_OPTIONS = ("--out", "--from", "--resume", "--recipe", "--budget", "--device", "--print-recipe")


def run(argv: list[str]) -> int:
    """Parse, train, and say where the model is."""
    check_options(argv, _OPTIONS, settings=True)
    parser = _parser()
    if _value_of("--resume", argv) is not None:
        return _resume(parser.parse_args(argv), argv)
    _take_recipe(parser, argv)
    return _start(parser.parse_args(argv))


def _parser() -> ArgumentParser:
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
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to train on")
    parser.add_argument("--out", type=str | None, help="folder of the run (default runs/TEXT)")
    parser.add_argument(
        "--from",
        dest="init_from",
        type=str | None,
        metavar="MODEL",
        help="model to fine-tune: base, a model folder or a run folder",
    )
    parser.add_argument("--resume", type=str | None, metavar="RUN", help="run folder to go on with")
    parser.add_argument(
        "--recipe", type=str | None, metavar="NAME|FILE", help="settings to begin with"
    )
    parser.add_argument(
        "--budget", type=str | None, help="90s, 10m, 2h, 5000steps, 3epochs, 50Mtokens"
    )
    parser.add_argument("--device", type=str | None, help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--print-recipe", action="store_true", help="print the settings as a recipe and stop"
    )
    add_settings(parser)
    return parser


def _take_recipe(parser: ArgumentParser, argv: list[str]) -> None:
    """Make the recipe's settings the defaults, so that options win wherever they stand."""
    asked = _value_of("--from", argv) or _value_of("--train.init_from", argv)
    name = _value_of("--recipe", argv) or (FINETUNE_RECIPE if asked else DEFAULT_RECIPE)
    settings = load_recipe_settings(name)
    if asked:
        # What the recipe says of its own model, and of the weights it was run with, is not MODEL's.
        settings.pop("model", None)
        settings.get("train", {}).pop("init_digest", None)
    model = settings.get("model", {})
    origin = asked or settings.get("train", {}).get("init_from")
    architecture = _value_of("--model.architecture", argv)
    if origin is not None:
        settings["model"] = {**_settings_of(origin, argv), **model}
    elif architecture not in (None, model.get("architecture", "sha-rnn")):
        # What the recipe says of a SHA-RNN means nothing to a baseline that is asked for instead.
        settings["model"] = {key: model[key] for key in _SHARED_SETTINGS if key in model}
    optim = settings.get("optim", {})
    if _value_of("--optim.name", argv) not in (None, optim.get("name")):
        for name in _SETTINGS_OF_OPTIMISERS:  # mean nothing to another
            optim.pop(name, None)
    _leave_out_of_fit(settings, argv, sized=origin is not None)
    _leave_out_of_adapt(settings, argv)
    for section, values in settings.items():
        parser.set_defaults({f"{section}.{key}": value for key, value in values.items()})


def _leave_out_of_fit(settings: dict[str, dict[str, Any]], argv: list[str], sized: bool) -> None:
    """Let the run choose nothing that is given as an option, or by the weights it begins with.

    A given depth goes with the chosen width; but a given width is a given size, and blocks that are
    named by their place belong to a given depth.

    Raises:
        ConfigError: The run would undo an option.
    """
    given = {argument.split("=", 1)[0].removeprefix("--") for argument in argv}
    named_blocks = (_value_of("--model.attention_layers", argv) or "").startswith("[")
    if "model.embed_dim" in given or named_blocks:
        given.add("model.num_layers")
    asked = _value_of("--train.fit", argv)
    if asked is None:
        made = SIZES_OF_WEIGHTS if sized else ()
        fit = [n for n in settings.get("train", {}).get("fit", []) if n not in {*given, *made}]
        settings.setdefault("train", {})["fit"] = fit
    else:
        fit = re.findall(r"[\w.]+", asked)
    _refuse_what_is_undone(given, fit)


def _leave_out_of_adapt(settings: dict[str, dict[str, Any]], argv: list[str]) -> None:
    """Let nothing that is given as an option give way to a budget in time.

    Raises:
        ConfigError: An option says that another one gives way.
    """
    given = {argument.split("=", 1)[0].removeprefix("--train.") for argument in argv}
    asked = _value_of("--train.adapt", argv)
    if asked is None:
        train = settings.setdefault("train", {})
        train["adapt"] = [name for name in train.get("adapt", ADAPTED) if name not in given]
        return
    for name in re.findall(r"\w+", asked):
        if name in given:
            raise ConfigError(
                f"--train.{name} is given, and --train.adapt lets it give way: leave one out"
            )


def _refuse_what_is_undone(given: set[str], fit: list[str]) -> None:
    """Refuse options that are both given and to be chosen, or go with a width that is to be chosen.

    Raises:
        ConfigError: Names the option and what to do.
    """
    for name in fit:
        if name in given:
            raise ConfigError(
                f"--{name} is given, and --train.fit lets the run choose it: leave one out"
            )
    for name in ("model.boom_dim", "model.num_heads"):
        if name in given and "model.embed_dim" in fit:
            raise ConfigError(
                f"--{name} belongs to a width, and this run chooses its own: give --model.embed_dim too"
            )


def _settings_of(origin: str, argv: list[str]) -> dict[str, Any]:
    """Return the settings of a model that is to be fine-tuned.

    Raises:
        ConfigError: An option would change what its weights depend on.
        CheckpointError: There is no such model, or it is damaged.
    """
    from sharnn.checkpoint import read_model_folder
    from sharnn.train.launch import FREE_MODEL_SETTINGS

    for argument in argv:
        section, _, setting = argument.split("=", 1)[0].partition(".")
        if section == "--model" and setting not in FREE_MODEL_SETTINGS:
            raise ConfigError(
                f"--model.{setting} would not fit the weights of {origin}, whose settings are kept: only "
                f"{', '.join(FREE_MODEL_SETTINGS)} can be changed"
            )
    return to_dict(read_model_folder(origin).config)


def _value_of(option: str, argv: list[str]) -> str | None:
    """Return what was last given for an option, before anything is parsed."""
    value = None
    for index, argument in enumerate(argv):
        if argument == option and index + 1 < len(argv):
            value = argv[index + 1]
        elif argument.startswith(f"{option}="):
            value = argument.split("=", 1)[1]
    return value


def _start(options: Namespace) -> int:
    if options.texts:
        options["data"]["texts"] = list(options.texts)
    elif not options["data"]["texts"]:
        options["data"]["texts"] = [DEFAULT_TEXT]
    for shortcut in ("budget", "device", "init_from"):
        if options[shortcut] is not None:
            options["train"][shortcut] = options[shortcut]
    recipe = build_recipe(options)
    if options.print_recipe:
        print(recipe.to_yaml(), end="")
        return 0
    out = Path(options.out) if options.out else _default_out(recipe.data.texts[0])
    from sharnn.train import start_run

    console = error_console()
    with prepare_bar(console) as progress:
        outcome = start_run(recipe, out, console, progress)
    return _finish(outcome, out)


def _resume(options: Namespace, argv: list[str]) -> int:
    allowed = ("--resume", "--budget", "--device")
    given = [a.split("=", 1)[0] for a in argv if a.startswith("--")]
    useless = options.texts or [name for name in given if name not in allowed]
    if useless:
        raise ConfigError(
            f"--resume takes everything from the run, so {useless[0]} would do nothing: leave it out, "
            "or begin a new run (only --budget and --device can be changed)"
        )
    from sharnn.train import resume_run

    out, console = Path(options.resume), error_console()
    with prepare_bar(console) as progress:
        outcome = resume_run(out, console, options.budget, options.device, progress)
    return _finish(outcome, out)


def _default_out(text: str) -> Path:
    """Return runs/NAME for the first text's name."""
    stem = Path(text).name.split(".")[0] if text != "-" else "stdin"
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")
    return Path("runs") / (name or "run")


def _finish(outcome: Any, out: Path) -> int:
    counters = outcome.counters
    if outcome.interrupted:
        print(
            f"stopped and saved at step {counters.step:,}; go on with: sharnn train --resume {out}"
        )
        return 130
    best = counters.best_bits_per_byte
    print(f"{outcome.reason} after {counters.step:,} steps and {counters.tokens_seen:,} tokens")
    if best is not None:
        print(f"best valid bits per byte  {best:.4f}  (in lanes, at step {counters.best_step:,})")
    from sharnn.checkpoint import resolve_model_folder

    print(f"model  {resolve_model_folder(out)}")
    return 0
