"""Models and training states on disk, as safetensors and JSON with digests; never as pickles."""

from sharnn.checkpoint.format import tensor_bytes
from sharnn.checkpoint.load import (
    BASE,
    BEST,
    LAST,
    LoadedModel,
    ModelFolder,
    is_checkpoint,
    is_model,
    load_model,
    load_trainer_state,
    load_weights,
    read_counters,
    read_model_folder,
    resolve_model_folder,
    shipped_model,
)
from sharnn.checkpoint.save import save_checkpoint, save_model

__all__ = [
    "BASE",
    "BEST",
    "LAST",
    "LoadedModel",
    "ModelFolder",
    "is_checkpoint",
    "is_model",
    "load_model",
    "load_trainer_state",
    "load_weights",
    "read_counters",
    "read_model_folder",
    "resolve_model_folder",
    "save_checkpoint",
    "save_model",
    "shipped_model",
    "tensor_bytes",
]
