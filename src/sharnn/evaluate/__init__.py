"""Scores of texts: every byte is scored once; protocols that skip bytes report how many."""

from sharnn.evaluate.attention import AttentionReading, HeadReading, heads_to_read, read_attention
from sharnn.evaluate.continuous_cache import CacheState, ContinuousCache
from sharnn.evaluate.dynamic import (
    DYNAMIC_SEGMENT_LENGTH,
    DynamicRule,
    GradientStatistics,
    RmsRule,
    SgdRule,
    evaluate_dynamic,
    gather_statistics,
)
from sharnn.evaluate.ideal import evaluate_ideal
from sharnn.evaluate.score import Score
from sharnn.evaluate.static import PAPER_LANES, SEGMENT_LENGTH, evaluate_static, score_lanes

__all__ = [
    "DYNAMIC_SEGMENT_LENGTH",
    "PAPER_LANES",
    "SEGMENT_LENGTH",
    "AttentionReading",
    "CacheState",
    "ContinuousCache",
    "DynamicRule",
    "GradientStatistics",
    "HeadReading",
    "RmsRule",
    "Score",
    "SgdRule",
    "evaluate_dynamic",
    "evaluate_ideal",
    "evaluate_static",
    "gather_statistics",
    "heads_to_read",
    "read_attention",
    "score_lanes",
]
