"""The text that a run validates on, and its score."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from sharnn.data.corpus import Corpus
from sharnn.evaluate import score_lanes
from sharnn.evaluate.score import LN2
from sharnn.train.estimate import VALIDATION_LANES
from sharnn.train.learner import Learner


class ValidationText:
    """The valid split of a corpus, or its beginning, read in lanes.

    Attributes:
        tokens: The text.
        num_lanes: Lanes that read it.

    Args:
        corpus: Its valid split is used.
        most_tokens: `train.validation_tokens`; 0 uses the whole split.
    """

    def __init__(self, corpus: Corpus, most_tokens: int) -> None:
        self._split = corpus.split("valid")
        self.tokens = self._split.tokens[: most_tokens or None]
        self.num_lanes = max(min(VALIDATION_LANES, len(self.tokens) // 2), 1)

    @property
    def can_be_scored(self) -> bool:
        """Whether there is a token with a successor."""
        return len(self.tokens) >= 2

    def score(self, learner: Learner, lengths: Iterable[int]) -> tuple[float, int]:
        """Return bits per byte, and the number of tokens that were scored in each lane.

        Args:
            learner: Its model is scored with the averaged weights, if it averages them.
            lengths: Tokens of a lane that are read at once, until the end of one of the two. If there
                are none, the score is not a number.
        """
        learner.model.eval()
        with learner.averaged(), torch.inference_mode(), learner.precision.autocast():
            nats, count = score_lanes(learner.model, self.tokens, self.num_lanes, lengths)
        learner.model.train()
        if count == 0:
            return math.nan, 0
        bytes_per_token = self._split.num_bytes / self._split.num_tokens
        return nats / LN2 / (count * bytes_per_token), count // self.num_lanes
