"""Models and training states on disk, as safetensors and JSON with digests; never as pickles."""

from sharnn.checkpoint.format import VALID_UTF8, is_checkpoint, read_counters, tensor_bytes
from sharnn.checkpoint.load import (
    BASE,
    LoadedModel,
    ModelFolder,
    is_model,
    load_model,
    load_trainer_state,
    load_weights,
    read_model_folder,
    resolve_model_folder,
    shipped_model,
)
from sharnn.checkpoint.run_folder import RunFacts, RunFolder
from sharnn.checkpoint.save import save_checkpoint, save_model

__all__ = [
    "BASE",
    "VALID_UTF8",
    "LoadedModel",
    "ModelFolder",
    "RunFacts",
    "RunFolder",
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
