"""Dynamic evaluation: the weights learn from the text while it is scored.

Krause, Kahembwe, Murray and Renals 2018, "Dynamic evaluation of neural sequence models"
(arXiv 1709.07432). θ are the weights, θ_g the trained weights, s a segment of the text and ∇L(s) the
gradient of its mean nats.

Legend: T tokens of a segment.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharnn.data.corpus import Split
from sharnn.errors import ConfigError
from sharnn.evaluate.continuous_cache import ContinuousCache
from sharnn.evaluate.lane_reader import (
    Reader,
    Report,
    check_readable,
    evaluating,
    memory_settings,
    score_all,
    segments,
)
from sharnn.evaluate.score import Score
from sharnn.model import LanguageModel
from sharnn.text import Tokenizer

#: Tokens scored between two updates: shorter segments learn sooner and cost more. This and the rules'
#: defaults are the best of small grids (docs/evaluation_protocol.md).
DYNAMIC_SEGMENT_LENGTH = 32
#: Tokens of training text from which gradient statistics are gathered.
STATISTICS_TOKENS = 1 << 16


@dataclass(frozen=True)
class GradientStatistics:
    """The mean squared gradient of each weight on the text that a model was trained on.

    Attributes:
        mean_squares: MS_g by parameter name: the squared gradient, averaged over segments.
        num_tokens: Tokens read.
        segment_length: Tokens of a segment.
    """

    mean_squares: dict[str, Tensor]
    num_tokens: int
    segment_length: int


class _Rates(NamedTuple):
    """Factors for one parameter, of its shape or scalar: of its gradient, and of the decay to θ_g."""

    step: Tensor
    pull: Tensor


@dataclass(frozen=True)
class SgdRule:
    """Gradient descent with decay towards the trained weights (section 5, without the RMS terms).

        θ ← θ - η ∇L(s) + λ (θ_g - θ)

    Attributes:
        lr: η.
        decay: λ, the fraction of the difference to θ_g that each update removes.
    """

    lr: float = 0.06
    decay: float = 0.003

    def __post_init__(self) -> None:
        """Check the settings; see `_check_rates`."""
        _check_rates(self.lr, self.decay)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule's name and settings."""
        return {"rule": "sgd", **asdict(self)}

    def rates(self, model: LanguageModel, statistics: GradientStatistics | None) -> list[_Rates]:
        """Return the rates of each parameter; statistics are not used."""
        one = model.embedding.weight.new_tensor(1.0)
        return [_Rates(one * self.lr, one * self.decay) for _ in model.parameters()]


@dataclass(frozen=True)
class RmsRule:
    """Steps scaled by the inverse of a weight's RMS gradient, and decay in proportion to it (section 5).

        θ ← θ - η ∇L(s) / (√MS_g + ε) + λ (θ_g - θ) ⊙ RMS_norm
        RMS_norm = √MS_g / avg(√MS_g), at most 1 / λ

    A weight with large gradients on the training text is moved less by its gradient and more by the
    decay, which never overshoots θ_g. As in the authors' code, avg is the mean of the tensors' means.

    Attributes:
        lr: η.
        decay: λ.
        epsilon: ε.
    """

    lr: float = 0.001
    decay: float = 0.01
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        """Check the settings; see `_check_rates`."""
        _check_rates(self.lr, self.decay)
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon is {self.epsilon}: it must be finite and above 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the rule's name and settings."""
        return {"rule": "rms", **asdict(self)}

    def rates(self, model: LanguageModel, statistics: GradientStatistics | None) -> list[_Rates]:
        """Return the rates of each parameter.

        Raises:
            ConfigError: There are no statistics, or they are of another model.
        """
        if statistics is None:
            raise ConfigError(
                "the rule rms needs statistics of training text: get them from gather_statistics"
            )
        shapes = {name: weight.shape for name, weight in model.named_parameters()}
        if {name: ms.shape for name, ms in statistics.mean_squares.items()} != shapes:
            raise ConfigError("the statistics are of another model: gather them with this model")
        rms = [statistics.mean_squares[name].sqrt() for name in shapes]
        average = torch.stack([r.mean() for r in rms]).mean()
        return [
            _Rates(self.lr / (r + self.epsilon), (self.decay * r / average).clamp_max(1.0))
            for r in rms
        ]


DynamicRule = SgdRule | RmsRule


def _check_rates(lr: float, decay: float) -> None:
    """Check the ranges of rates.

    Raises:
        ConfigError: A rate is out of range; the message names it.
    """
    if not 0 <= lr < math.inf:
        raise ConfigError(f"lr is {lr}: it must be 0 or more")
    if not 0 <= decay <= 1:
        raise ConfigError(
            f"decay is {decay}: it is a share of the way back to the trained weights, from 0 to 1"
        )


def gather_statistics(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: Split,
    *,
    num_tokens: int = STATISTICS_TOKENS,
    segment_length: int = DYNAMIC_SEGMENT_LENGTH,
    window: int | None = None,
    report: Report | None = None,
) -> GradientStatistics:
    """Return the mean squared gradients of a model on its training text, for `RmsRule`.

    The text is read as in dynamic evaluation, but the weights stay fixed.

    Args:
        model: It is not changed.
        tokenizer: The model's tokenizer.
        split: Text that the model was trained on; never the text to score.
        num_tokens: Tokens to read, from the beginning; all where the text has fewer.
        segment_length: Tokens of a segment: the same number as in the evaluation.
        window: Memory rows in reach; None keeps the model's.
        report: Progress.

    Raises:
        DataError: There is no text.
        ConfigError: The number of tokens, window or segment length is out of range.
    """
    if num_tokens < 1:
        raise ConfigError(f"num_tokens is {num_tokens}: statistics need at least 1 token")
    check_readable(split, segment_length)
    tokens = split.tokens[:num_tokens]
    with torch.inference_mode(False), evaluating(adaptable := _copy(model), window):
        reader, done, num_segments = Reader(adaptable), 0, 0
        sums = [torch.zeros_like(weight) for weight in adaptable.parameters()]
        for pair in segments(tokens, tokenizer.start_token, segment_length, model.device):
            own_nats_1T, _ = reader.read(*pair)
            for total, gradient in zip(sums, _gradients(adaptable, own_nats_1T), strict=True):
                total.addcmul_(gradient, gradient)
            done, num_segments = done + own_nats_1T.shape[1], num_segments + 1
            if report is not None:
                report(done, len(tokens))
    names = [name for name, _ in model.named_parameters()]
    mean_squares = {n: total / num_segments for n, total in zip(names, sums, strict=True)}
    return GradientStatistics(mean_squares, len(tokens), segment_length)


def evaluate_dynamic(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: Split,
    rule: DynamicRule,
    *,
    statistics: GradientStatistics | None = None,
    segment_length: int = DYNAMIC_SEGMENT_LENGTH,
    window: int | None = None,
    cache: ContinuousCache | None = None,
    report: Report | None = None,
) -> Score:
    """Score a split while the weights learn from it; each segment is scored before they learn from it.

    The text is read as in `strict`: in one lane, every token exactly once. The state, including the
    memory, is carried; no gradient crosses from one segment into another. A token's nats depend only on
    the text before it, but, unlike with fixed weights, also on where segments begin.

    Args:
        model: It is not changed: a copy learns.
        tokenizer: The model's tokenizer.
        split: The text.
        rule: How the weights are updated.
        statistics: For `RmsRule` only; see `gather_statistics`.
        segment_length: Tokens scored between two updates.
        window: Memory rows in reach; None keeps the model's.
        cache: Mixed into the model's distribution; the weights learn from the model's own nats.
        report: Progress.

    Raises:
        DataError: There is nothing to score.
        ConfigError: A window or segment length is out of range; statistics are missing, not needed or of
            another model; or the weights diverged, which means that the learning rate is too large.
    """
    check_readable(split, segment_length)
    if statistics is not None and isinstance(rule, SgdRule):
        raise ConfigError("statistics do nothing for the rule sgd: leave them out, or use RmsRule")
    started = time.perf_counter()
    with torch.inference_mode(False), evaluating(adaptable := _copy(model), window):
        learner = _Learner(adaptable, rule, statistics, cache)
        scored = score_all(learner.score, tokenizer, split, segment_length, model.device, report)
        settings = memory_settings(adaptable)
    settings["dynamic"] = {**rule.to_dict(), "segment_length": segment_length}
    if statistics is not None:
        settings["dynamic"]["statistics_tokens"] = statistics.num_tokens
    if cache is not None:
        settings["cache"] = cache.to_dict()
    return Score("strict", **scored, seconds=time.perf_counter() - started, settings=settings)


class _Learner:
    """Scores segments with its own model, which learns from each segment after it is scored."""

    def __init__(
        self,
        model: LanguageModel,
        rule: DynamicRule,
        statistics: GradientStatistics | None,
        cache: ContinuousCache | None,
    ) -> None:
        self._model, self._rule = model, rule
        self._reader = Reader(model, cache)
        self._trained = [weight.detach().clone() for weight in model.parameters()]
        self._rates = rule.rates(model, statistics)
        self._tokens_read = 0

    def score(self, inputs_1T: Tensor, targets_1T: Tensor) -> Tensor:
        """Return the nats of a segment under the present weights, then learn from it.

        Raises:
            ConfigError: The nats are not finite.
        """
        own_nats_1T, nats_1T = self._reader.read(inputs_1T, targets_1T)
        if not bool(own_nats_1T.isfinite().all()):
            raise ConfigError(
                f"the weights diverged after {self._tokens_read:,} tokens: lr {self._rule.lr} is too "
                "large for this model, give a smaller one"
            )
        self._tokens_read += targets_1T.shape[1]
        self._learn(_gradients(self._model, own_nats_1T))
        return nats_1T

    @torch.no_grad()
    def _learn(self, gradients: tuple[Tensor, ...]) -> None:
        """Update each weight by its gradient and by the decay, both taken at its present value."""
        for weight, trained, gradient, (step, pull) in zip(
            self._model.parameters(), self._trained, gradients, self._rates, strict=True
        ):
            weight.lerp_(trained, pull).addcmul_(gradient, step, value=-1)


def _copy(model: LanguageModel) -> LanguageModel:
    """Return a copy whose weights all require gradients."""
    return copy.deepcopy(model).requires_grad_(True)


def _gradients(model: LanguageModel, nats_1T: Tensor) -> tuple[Tensor, ...]:
    """Return ∇L of each parameter; zeros where the segment does not use it."""
    return torch.autograd.grad(
        nats_1T.mean(), list(model.parameters()), allow_unused=True, materialize_grads=True
    )
