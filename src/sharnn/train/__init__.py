"""Training: a loop that resumes exactly, and the choice of sizes, estimates and records around it."""

from sharnn.train.launch import resume_run, start_run
from sharnn.train.precision import Precision, resolve_device
from sharnn.train.trainer import Outcome, Trainer

__all__ = [
    "Outcome", "Precision", "Trainer", "resolve_device", "resume_run", "start_run",
]  # fmt: skip
