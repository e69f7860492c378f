"""Honest scores: every byte counted once, or not, and then it is said."""

from sharnn.evaluate.bits import Score
from sharnn.evaluate.static import PAPER_LANES, SEGMENT_LENGTH, evaluate_static, score_lanes

__all__ = ["PAPER_LANES", "SEGMENT_LENGTH", "Score", "evaluate_static", "score_lanes"]
