"""Optimisers, learning-rate schedules, weight averaging, and the assignment of weights to optimisers."""

from sharnn.optim.average import WeightAverage
from sharnn.optim.lamb import Lamb
from sharnn.optim.muon import Muon
from sharnn.optim.param_groups import make_optimizers, split_matrices
from sharnn.optim.schedule import lr_factor

__all__ = ["Lamb", "Muon", "WeightAverage", "lr_factor", "make_optimizers", "split_matrices"]
