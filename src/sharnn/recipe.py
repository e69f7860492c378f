"""Resolves a recipe's name, given settings and a model's own settings to one recipe.

Settings are named `section.field`, such as `model.embed_dim`. Given settings take precedence over the
recipe, and the recipe over the defaults in `config`. This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharnn.config import (
    ADAPTED,
    SECTIONS,
    SIZES_OF_WEIGHTS,
    ModelConfig,
    Recipe,
    check_keys,
    did_you_mean,
    to_dict,
)
from sharnn.errors import ConfigError
from sharnn.files import explain_os_error

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

DEFAULT_RECIPE = "desktop"
#: The default recipe of a run that starts from a model's weights.
FINETUNE_RECIPE = "finetune"
#: Settings of a model that its weights do not depend on, so that fine-tuning can change them.
FREE_MODEL_SETTINGS = (
    "input_dropout", "hidden_dropout", "output_dropout", "attention_dropout", "window",
)  # fmt: skip
#: Settings of a recipe's model that are kept when another architecture is given.
_SHARED_MODEL_SETTINGS = (
    "embed_dim", "num_layers", "input_dropout", "hidden_dropout", "output_dropout",
)  # fmt: skip
#: Settings that only one optimiser has; they are dropped when another one is given.
_SETTINGS_OF_OPTIMISERS = ("matrix_lr", "min_trust")
#: Settings of earlier versions, which wrote facts of a run into its recipe (now in `run.json`).
RETIRED_SETTINGS = ("data.digest", "train.init_digest")
#: Options of `sharnn train` that are short for a setting.
SHORT_OPTIONS = {
    "--budget": "train.budget", "--device": "train.device", "--from": "train.init_from",
    "--encoding": "data.encoding",
}  # fmt: skip
#: The parser's names of types, in plain words.
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false",
    "tuple": "a list such as [1, 2]", "list": "a list such as [a, b]", "str": "a text",
}  # fmt: skip

#: Sections of settings, each a mapping from field to value.
Sections = dict[str, dict[str, Any]]


# ---------------------------------------------------------------------------------- recipe files


def _recipes_folder() -> Path:
    return Path(__file__).parent / "recipes"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in _recipes_folder().glob("*.yaml"))


def load_recipe_settings(name_or_file: str) -> Sections:
    """Return the settings of a shipped recipe or a recipe file. Checks the keys but not the values.

    Raises:
        ConfigError: There is no such recipe, it is not YAML, or it has unknown keys.
    """
    shipped = shipped_recipes()
    path = Path(name_or_file)
    if name_or_file in shipped:
        path = _recipes_folder() / f"{name_or_file}.yaml"
    elif not os.path.exists(path):  # False for a name that is too long
        raise ConfigError(
            f"there is no recipe '{name_or_file}'{did_you_mean(name_or_file, shipped)}: give a file "
            f"or one of {', '.join(shipped)}"
        )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as failure:
        raise ConfigError(explain_os_error(failure, path, "read")) from failure
    except (yaml.YAMLError, UnicodeDecodeError) as failure:
        raise ConfigError(f"recipe {path} is not YAML: {failure}") from failure
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} must hold the sections {', '.join(SECTIONS)}")
    check_keys(settings, SECTIONS, f"recipe {path}")
    for section, values in settings.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"recipe {path}: section '{section}' must hold settings, not {values!r}"
            )
        for name in RETIRED_SETTINGS:
            if name.startswith(f"{section}."):
                values.pop(name.partition(".")[2], None)
        fields = [f.name for f in dataclasses.fields(SECTIONS[section])]
        check_keys(values, fields, f"recipe {path}, section '{section}'")
    return settings


# -------------------------------------------------------------------------------------- settings


def setting_names() -> list[str]:
    """Return the names of all settings, such as `model.embed_dim`."""
    return [
        f"{section}.{field.name}"
        for section, config in SECTIONS.items()
        for field in dataclasses.fields(config)
    ]


def add_settings(parser: ArgumentParser) -> None:
    """Add an option for every setting to a parser, such as `--model.embed_dim`."""
    for section, config in SECTIONS.items():
        parser.add_class_arguments(config, section)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the typed settings that options such as `--model.embed_dim 512` give.

    Raises:
        ConfigError: There is no such setting, or a value is of the wrong type.
    """
    from jsonargparse import ArgumentError

    options, known = [], [*(f"--{name}" for name in setting_names()), *SHORT_OPTIONS]
    for word in words:
        name, *value = word.split("=", 1)
        if name.startswith("--") and name not in known:
            raise ConfigError(f"there is no option '{name}'{did_you_mean(name, known)}")
        name = f"--{SHORT_OPTIONS[name]}" if name in SHORT_OPTIONS else name
        options.append("=".join([name, *value]))
    try:
        return dict(_settings_parser().parse_args(options, defaults=False).items())
    except ArgumentError as failure:
        raise ConfigError(explain_value(str(failure))) from failure


def recipe_from_settings(sections: Mapping[str, Any]) -> Recipe:
    """Return the recipe of sections of settings, with all values checked and derived.

    Raises:
        ConfigError: A value is of the wrong type or out of range.
    """
    typed = _typed(sections)
    return Recipe(**{section: config(**typed[section]) for section, config in SECTIONS.items()})


def settings_to_yaml(sections: Mapping[str, Any]) -> str:
    """Return sections of settings as a recipe with all settings.

    Those that are derived from others are comments, so that the recipe, used with another `embed_dim`,
    derives them again.

    Raises:
        ConfigError: A value is of the wrong type or out of range.
    """
    typed, recipe = _typed(sections), to_dict(recipe_from_settings(sections))
    lines = ["# Commented settings are derived from the others; uncomment one to fix its value."]
    for section, values in recipe.items():
        lines.append(f"{section}:")
        for key, value in values.items():
            given = typed[section][key]
            derived = given is None and value is not None
            shown = list(given) if isinstance(given, tuple) else value if derived else given
            text = yaml.safe_dump(
                shown, default_flow_style=True, width=math.inf, allow_unicode=True
            )
            text = text.removesuffix("...\n").strip()  # the end of a document that is a scalar
            lines.append(f"  {'# ' if derived else ''}{key}: {text}")
    return "\n".join(lines) + "\n"


def _typed(sections: Mapping[str, Any]) -> Sections:
    """Return all settings with their types, defaults filled in; those to derive are None.

    Raises:
        ConfigError: A value is of the wrong type.
    """
    from jsonargparse import ArgumentError

    try:
        parsed = _settings_parser().parse_object(dict(sections))
    except ArgumentError as failure:
        raise ConfigError(explain_value(str(failure))) from failure
    typed = {section: dict(parsed[section]) for section in SECTIONS}
    typed["optim"]["betas"] = tuple(typed["optim"]["betas"])
    return typed


def _settings_parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser)
    return parser


def explain_value(message: str) -> str:
    """Return the parser's message about a value as `NAME is 'VALUE': give KIND` where possible."""
    key = re.match(r'Parser key "([\w.]+)":', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    kinds = [
        _KINDS[name]
        for name in dict.fromkeys(re.findall(r"<class '(\w+)'>", message))
        if name in _KINDS
    ]
    count = re.search(r"Expected a tuple with (\d+) elements", message)
    if count:
        kinds.append(f"a list of {count[1]} numbers")
    choices = re.search(r"Literal\[(.*?)\]", message)
    if choices:
        kinds.append(f"one of {choices[1]}")
    if not (key and value and kinds):
        return message
    return f"{key[1]} is '{value[1]}': give {' or '.join(kinds)}"


# ------------------------------------------------------------------------------------- resolving


def resolve_recipe(
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    read_model: Callable[[str], ModelConfig] | None = None,
) -> Recipe:
    """Return the result of `resolve_settings` as a recipe, with all values checked and derived."""
    return recipe_from_settings(resolve_settings(name, given, read_model))


def resolve_settings(
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    read_model: Callable[[str], ModelConfig] | None = None,
) -> Sections:
    """Return the settings of a recipe with given settings in place of its own.

    A recipe's settings of another architecture, optimiser or model than the given one are dropped.
    The run neither chooses (`train.fit`) nor adapts (`train.adapt`) what is given.

    Args:
        name: A shipped recipe or a file; default `desktop`, or `finetune` if the given settings
            contain `train.init_from`.
        given: Settings that take precedence over the recipe's, such as `{"model.embed_dim": 512}`.
        read_model: Returns the settings of the model that `train.init_from` names; not needed for runs
            without one.

    Raises:
        ConfigError: A recipe or setting does not exist, is out of range, or contradicts another.
    """
    given = dict(given or {})
    check_keys(given, setting_names(), "settings")
    init_from = given.get("train.init_from")
    default = DEFAULT_RECIPE if init_from is None else FINETUNE_RECIPE
    sections = load_recipe_settings(name if name is not None else default)
    if init_from is not None:
        sections.pop("model", None)  # these are settings of another model
    _check_names(sections.get("train", {}))
    origin = init_from if init_from is not None else sections.get("train", {}).get("init_from")
    if origin is not None and read_model is not None:
        _refuse_settings_of_weights(given, origin)
        sections["model"] = {**to_dict(read_model(origin)), **sections.get("model", {})}
    else:
        _drop_other_architecture(sections, given)
    _drop_other_optimiser(sections, given)
    _leave_out_of_fit(sections, given, sized=origin is not None)
    _leave_out_of_adapt(sections, given)
    for setting, value in given.items():
        section, _, key = setting.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def _check_names(train: Mapping[str, Any]) -> None:
    """Check the types of values that are read before the recipe as a whole is checked.

    Raises:
        ConfigError: A value is of the wrong type.
    """
    for key in ("fit", "adapt"):
        names = train.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"train.{key} is {names!r}: give a list of settings, [] for none")
    if not isinstance(train.get("init_from"), str | None):
        raise ConfigError(
            f"train.init_from is {train['init_from']!r}: give a model's name or folder"
        )


def _refuse_settings_of_weights(given: Mapping[str, Any], origin: str) -> None:
    """Refuse given settings that the weights of a model depend on.

    Raises:
        ConfigError: The message names the setting, and those that can be given.
    """
    for setting in given:
        section, _, key = setting.partition(".")
        if section == "model" and key not in FREE_MODEL_SETTINGS:
            raise ConfigError(
                f"{setting} would not fit the weights of {origin}, whose settings are kept: only "
                f"{', '.join(FREE_MODEL_SETTINGS)} can be changed"
            )


def _drop_other_architecture(sections: Sections, given: Mapping[str, Any]) -> None:
    """Drop the settings of a recipe's model that another, given architecture does not have."""
    model, architecture = sections.get("model", {}), given.get("model.architecture")
    if architecture not in (None, model.get("architecture", "sha-rnn")):
        sections["model"] = {key: model[key] for key in _SHARED_MODEL_SETTINGS if key in model}


def _drop_other_optimiser(sections: Sections, given: Mapping[str, Any]) -> None:
    """Drop the settings of a recipe's optimiser that another, given optimiser does not have."""
    optim = sections.get("optim", {})
    if given.get("optim.name") not in (None, optim.get("name")):
        for key in _SETTINGS_OF_OPTIMISERS:
            optim.pop(key, None)


def _leave_out_of_fit(sections: Sections, given: Mapping[str, Any], sized: bool) -> None:
    """Remove settings from `train.fit` that are given, or determined by the weights of a model.

    A given width fixes the depth too, and so does a given list of attention layers, which are positions
    in it. A given depth leaves the width to the run.

    Raises:
        ConfigError: `train.fit` is given, and contains another given setting.
    """
    fixed = set(given)
    if "model.embed_dim" in given or isinstance(given.get("model.attention_layers"), list):
        fixed.add("model.num_layers")
    if "train.fit" in given:
        fit = given["train.fit"]
    else:
        made = SIZES_OF_WEIGHTS if sized else ()
        train = sections.setdefault("train", {})
        fit = [name for name in train.get("fit", []) if name not in {*fixed, *made}]
        train["fit"] = fit
    for name in fit:
        if name in fixed:
            raise ConfigError(
                f"{name} is given, and train.fit lets the run choose it: give one of the two"
            )
    for name in ("model.boom_dim", "model.num_heads"):
        if name in given and "model.embed_dim" in fit:
            raise ConfigError(
                f"{name} depends on the width, which this run chooses: give model.embed_dim too"
            )


def _leave_out_of_adapt(sections: Sections, given: Mapping[str, Any]) -> None:
    """Remove settings from `train.adapt` that are given.

    Raises:
        ConfigError: `train.adapt` is given, and contains another given setting.
    """
    if "train.adapt" not in given:
        train = sections.setdefault("train", {})
        adapt = train.get("adapt", ADAPTED)
        train["adapt"] = [name for name in adapt if f"train.{name}" not in given]
        return
    for name in given["train.adapt"]:
        if f"train.{name}" in given:
            raise ConfigError(
                f"train.{name} is given, and train.adapt lists it: give one of the two"
            )
