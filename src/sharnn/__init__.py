"""SHA-RNN: small language models with a long memory and a single attention head.

The public names load on first use, so that `import sharnn` and `sharnn --help` need no torch.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from sharnn.errors import ConfigError
from sharnn.machine import bound_libraries, level

__version__ = "0.1.0"

_HOMES = {
    "ModelConfig": "sharnn.config",
    "DataConfig": "sharnn.config",
    "OptimConfig": "sharnn.config",
    "TrainConfig": "sharnn.config",
    "Recipe": "sharnn.config",
    "LanguageModel": "sharnn.model",
    "RecurrentState": "sharnn.model",
    "Corpus": "sharnn.data.corpus",
    "prepare": "sharnn.data.prepare",
    "Lamb": "sharnn.optim",
    "Model": "sharnn.api",
    "load_model": "sharnn.api",
    "save_model": "sharnn.checkpoint",
    "evaluate_static": "sharnn.evaluate",
    "Session": "sharnn.generation",
    "Sampling": "sharnn.generation",
    "generate": "sharnn.generation",
    "generate_together": "sharnn.generation",
    "Trainer": "sharnn.train",
}

__all__ = ["__version__", *_HOMES]

# Must happen before torch first computes. An invalid SHARNN_CPU is ignored here; the command line and the
# first access to a public name report it.
with contextlib.suppress(ConfigError):
    bound_libraries()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sharnn' has no attribute '{name}'")
    level()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
