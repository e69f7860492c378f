"""The architecture: what is computed, and what is carried."""

from sharnn.model.sharnn import LanguageModel, count_parameters
from sharnn.model.state import AttentionMemory, LayerState, RecurrentState

__all__ = ["AttentionMemory", "LanguageModel", "LayerState", "RecurrentState", "count_parameters"]
