"""Dynamic evaluation: weights that learn from the text while it is scored.

Krause, Kahembwe, Murray and Renals 2018, "Dynamic evaluation of neural sequence models"
(arXiv 1709.07432). θ are the weights, θ_g those that training left, s a segment of the text and ∇L(s) the
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

#: Tokens that are scored before the weights move: fewer learn sooner, and cost more. This and the rules'
#: defaults are the best of small grids (docs/evaluation_protocol.md).
DYNAMIC_SEGMENT_LENGTH = 32
#: Tokens of training text whose gradients tell how large each weight's usually are.
STATISTICS_TOKENS = 1 << 16


@dataclass(frozen=True)
class GradientStatistics:
    """How large each weight's gradient is on the text that a model was trained on.

    Attributes:
        mean_squares: MS_g by the parameter's name: its squared gradient, averaged over segments.
        num_tokens: Tokens that were read for it.
        segment_length: Tokens of a segment.
    """

    mean_squares: dict[str, Tensor]
    num_tokens: int
    segment_length: int


class _Rates(NamedTuple):
    """Of one parameter, in its shape or a scalar: the step down its gradient, and the pull to θ_g."""

    step: Tensor
    pull: Tensor


@dataclass(frozen=True)
class SgdRule:
    """Gradient descent with decay to the trained weights (section 5, without the RMS terms).

        θ ← θ - η ∇L(s) + λ (θ_g - θ)

    Attributes:
        lr: η.
        decay: λ, the share of the way back to θ_g that every segment goes.
    """

    lr: float = 0.06
    decay: float = 0.003

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; see `_check_rates`."""
        _check_rates(self.lr, self.decay)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule's name and settings."""
        return {"rule": "sgd", **asdict(self)}

    def rates(self, model: LanguageModel, statistics: GradientStatistics | None) -> list[_Rates]:
        """Return the rates of each parameter; statistics are not asked."""
        one = model.embedding.weight.new_tensor(1.0)
        return [_Rates(one * self.lr, one * self.decay) for _ in model.parameters()]


@dataclass(frozen=True)
class RmsRule:
    """Steps in units of a weight's usual gradient, and decay in proportion to it (section 5).

        θ ← θ - η ∇L(s) / (√MS_g + ε) + λ (θ_g - θ) ⊙ RMS_norm
        RMS_norm = √MS_g / avg(√MS_g), at most 1 / λ

    A weight with large gradients on the training text is moved less by its gradient, and more by the
    decay; none goes beyond θ_g. The average is that of the authors' code: of each tensor's average.

    Attributes:
        lr: η.
        decay: λ.
        epsilon: ε.
    """

    lr: float = 0.001
    decay: float = 0.01
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; see `_check_rates`."""
        _check_rates(self.lr, self.decay)
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon is {self.epsilon}: it must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the rule's name and settings."""
        return {"rule": "rms", **asdict(self)}

    def rates(self, model: LanguageModel, statistics: GradientStatistics | None) -> list[_Rates]:
        """Return the rates of each parameter.

        Raises:
            ConfigError: There are no statistics, or they are another model's.
        """
        if statistics is None:
            raise ConfigError("the rule rms needs statistics of training text: gather_statistics")
        shapes = {name: weight.shape for name, weight in model.named_parameters()}
        if {name: ms.shape for name, ms in statistics.mean_squares.items()} != shapes:
            raise ConfigError("these statistics are of another model: gather this one's")
        rms = [statistics.mean_squares[name].sqrt() for name in shapes]
        average = torch.stack([r.mean() for r in rms]).mean()
        return [
            _Rates(self.lr / (r + self.epsilon), (self.decay * r / average).clamp_max(1.0))
            for r in rms
        ]


DynamicRule = SgdRule | RmsRule


def _check_rates(lr: float, decay: float) -> None:
    """Refuse rates that cannot be meant.

    Raises:
        ConfigError: Names the option.
    """
    if not 0 <= lr < math.inf:
        raise ConfigError(f"--dynamic-lr is {lr}: it must be 0 or more")
    if not 0 <= decay <= 1:
        raise ConfigError(
            f"--dynamic-decay is {decay}: it is a share of the way back to the trained weights, from 0 "
            "to 1"
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
    """Return how large the gradients of a model are on its training text, for `RmsRule`.

    The text is read as it is in dynamic evaluation, but no weight moves.

    Args:
        model: It is not altered.
        tokenizer: The model's.
        split: Text that the model was trained on; never the text to score.
        num_tokens: Tokens to read, from the beginning; fewer where the text has no more.
        segment_length: Tokens of a segment: as many as evaluation will take.
        window: Memory rows in reach; None keeps the model's.
        report: Progress.

    Raises:
        DataError: There is no text.
        ConfigError: A number of tokens, window or segment length out of range.
    """
    if num_tokens < 1:
        raise ConfigError(f"statistics of {num_tokens} tokens: there must be at least 1")
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
    """Score a split while the weights learn from it: each segment first, then the weights move.

    Read as `strict` does, every token exactly once, in one lane; the state, memory included, is carried
    and takes no gradient from one segment to the other. A token's nats depend on the text before it
    alone, but unlike those of fixed weights on where segments begin as well.

    Args:
        model: It is not altered: a copy learns.
        tokenizer: The model's.
        split: The text.
        rule: How the weights move.
        statistics: For `RmsRule`, and for it alone; see `gather_statistics`.
        segment_length: Tokens that are scored before the weights move.
        window: Memory rows in reach; None keeps the model's.
        cache: Mixed into what the model says; the weights learn from the model's own nats.
        report: Progress.

    Raises:
        DataError: There is nothing to score.
        ConfigError: A window or segment length out of range, statistics that are missing, not needed
            or another model's, or weights that left all bounds, for which the learning rate is too large.
    """
    check_readable(split, segment_length)
    if statistics is not None and isinstance(rule, SgdRule):
        raise ConfigError("statistics do nothing for the rule sgd: leave them away, or take rms")
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
    """Scores segments with a model of its own, and lets it learn from each once it is scored."""

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
        """Return the nats of a segment under the weights so far, and learn from it.

        Raises:
            ConfigError: The nats are not finite.
        """
        own_nats_1T, nats_1T = self._reader.read(inputs_1T, targets_1T)
        if not bool(own_nats_1T.isfinite().all()):
            raise ConfigError(
                f"the weights left all bounds after {self._tokens_read:,} tokens: --dynamic-lr "
                f"{self._rule.lr} is too large for this model, give a smaller one"
            )
        self._tokens_read += targets_1T.shape[1]
        self._learn(_gradients(self._model, own_nats_1T))
        return nats_1T

    @torch.no_grad()
    def _learn(self, gradients: tuple[Tensor, ...]) -> None:
        """Move each weight: down its gradient, and back to what training left, from where it was."""
        for weight, trained, gradient, (step, pull) in zip(
            self._model.parameters(), self._trained, gradients, self._rates, strict=True
        ):
            weight.lerp_(trained, pull).addcmul_(gradient, step, value=-1)


def _copy(model: LanguageModel) -> LanguageModel:
    """Return a copy whose weights all take gradients."""
    return copy.deepcopy(model).requires_grad_(True)


def _gradients(model: LanguageModel, nats_1T: Tensor) -> tuple[Tensor, ...]:
    """Return ∇L of each parameter, zeros where the segment has no use for it."""
    return torch.autograd.grad(
        nats_1T.mean(), list(model.parameters()), allow_unused=True, materialize_grads=True
    )
