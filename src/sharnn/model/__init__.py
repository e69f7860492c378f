"""The architecture: the model's modules and its recurrent state."""

from sharnn.model.sharnn import LanguageModel, count_parameters
from sharnn.model.state import AttentionMemory, LayerState, RecurrentState

__all__ = ["AttentionMemory", "LanguageModel", "LayerState", "RecurrentState", "count_parameters"]
