"""`sharnn info`: tell what a model is."""

from __future__ import annotations

import json
from typing import Any

from sharnn.cli.common import (
    add_model,
    chosen_model,
    error_console,
    make_parser,
)

HELP = "tell what a model is"

_DESCRIPTION = """\
Tell what MODEL is: its settings, its size, and what its card says of its training. Without MODEL it is
'base', the model that comes with sharnn. Tells also which instruction sets are used here (SHARNN_CPU),
and where the kernels for them come from."""

_EXAMPLES = """\
examples:
  sharnn info
  sharnn info runs/mine
  sharnn info runs/mine/last --json"""


def run(argv: list[str]) -> int:
    """Parse, load and print."""
    parser = make_parser("info", "[MODEL] [--json]", _DESCRIPTION, _EXAMPLES)
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)

    from sharnn.checkpoint import load_model

    facts = _facts(load_model(chosen_model(options.model, error_console())))
    if options.json:
        print(json.dumps(facts))
    else:
        _print_facts(facts)
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


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if isinstance(value, dict):
            table.add_section()
            for key, item in value.items():
                table.add_row(key, str(item))
            table.add_section()
        else:
            table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    Console().print(table)
