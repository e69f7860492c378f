"""Models and training states on disk: safetensors and JSON, with digests, never a pickle."""

from sharnn.checkpoint.load import (
    BEST,
    LAST,
    LoadedModel,
    load_model,
    load_trainer_state,
    load_weights,
    resolve_model_folder,
)
from sharnn.checkpoint.save import save_checkpoint, save_model

__all__ = [
    "BEST",
    "LAST",
    "LoadedModel",
    "load_model",
    "load_trainer_state",
    "load_weights",
    "resolve_model_folder",
    "save_checkpoint",
    "save_model",
]
