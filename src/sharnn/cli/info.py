"""`sharnn info`: print the settings and sizes of a model."""

from __future__ import annotations

import json
from typing import Any

from sharnn.cli.common import (
    add_model,
    chosen_model,
    error_console,
    make_parser,
    print_facts,
)

HELP = "print the settings and sizes of a model"

_DESCRIPTION = """\
Print the settings, sizes and training record of MODEL (default: 'base', which comes with sharnn). Also
prints the instruction sets in use (SHARNN_CPU limits them) and where the kernels come from."""

_EXAMPLES = """\
examples:
  sharnn info
  sharnn info runs/mine
  sharnn info runs/mine/last --json"""


def run(argv: list[str]) -> int:
    """Parse, load and print."""
    parser = make_parser("info", "[MODEL] [--json]", _DESCRIPTION, _EXAMPLES)
    add_model(parser)
    parser.add_options({"--json": (False, "print a JSON object")})
    options = parser.parse_args(argv)

    from sharnn.checkpoint import load_model

    facts = _facts(load_model(chosen_model(options.model, error_console())))
    if options.json:
        print(json.dumps(facts))
    else:
        print_facts(_rows(facts))
    return 0


def _facts(loaded: Any) -> dict[str, Any]:
    from sharnn import kernels, machine
    from sharnn.checkpoint.format import WEIGHTS
    from sharnn.config import to_dict

    model = loaded.model
    return {
        "folder": str(loaded.folder),
        "architecture": model.config.architecture,
        "parameters": model.num_parameters(),
        "parameters, value gates folded": model.fold().num_parameters(),
        "weights in MiB": round(model.num_parameters() * 4 / 2**20, 1),
        "weights on disk": loaded.dtype,
        "weights on disk in MiB": round((loaded.folder / WEIGHTS).stat().st_size / 2**20, 1),
        "state of one lane in KiB": round(model.state_bytes() / 2**10, 1),
        "tokenizer": loaded.tokenizer.name,
        "instruction sets": f"{machine.level()}; available: {', '.join(machine.levels())}",
        "kernels": kernels.origin(),
        "model": to_dict(model.config),
        "card": loaded.card,
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return a row for each fact; settings and card begin with an empty row."""
    rows: list[tuple[str, list[str]]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [("", []), *((key, [str(item)]) for key, item in value.items())]
        else:
            rows.append((name, [f"{value:,}" if isinstance(value, int | float) else str(value)]))
    return rows
