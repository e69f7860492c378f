"""The plan of the tokenization attack: which models train on which tokens, and what is equal for all.

The claim (paper, section 5): finer tokens give a model more of a word before it has to predict the rest,
and a model with attention benefits most, so scores of models with different tokens cannot be compared
even per word. Here the same architectures read the same bytes in several tokenizations, and their scores
are broken down by `words` and `segmentations`.

Equal for all are the weights, embedding included; the bytes of a segment, of the window and of a step;
and the seeds. In addition either the bytes read are equal (`bytes`) or the arithmetic (`compute`), for
which a model with longer tokens reads more text.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sharnn.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    did_you_mean,
    to_dict,
)
from sharnn.errors import ConfigError
from sharnn.experiments.comparison.contenders import Budget, Plan
from sharnn.model import count_parameters
from sharnn.train.estimate import flops_per_token

Matching = Literal["bytes", "compute"]
MATCHINGS: tuple[Matching, ...] = ("bytes", "compute")

#: What each architecture sets; everything else is the same for all.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sha-rnn": {"residual": True, "forget_bias": 1.0, "overparam_value_gate": False},
    "no-attention": {"residual": True, "forget_bias": 1.0, "attention_layers": "none"},
    "lstm": {"architecture": "lstm", "residual": True, "forget_bias": 1.0},
    "transformer": {"architecture": "transformer"},
}
#: Those with an attention memory.
_ATTENDING = ("sha-rnn", "transformer")
TOKENIZATIONS = (
    "byte", "bpe-512", "bpe-1024", "bpe-2048", "bpe-4096", "bpe-8192", "spelled-8192", "word",
)  # fmt: skip
_SIZED = re.compile(r"(bpe|wordpiece|unigram|spelled)-(\d+)")
#: The learning rate that benchmarks/time_to_quality.py gives a Transformer in longer trainings, and that
#: of the recipes for hours.
_LR = {"transformer": 0.003}
_DEFAULT_LR = 0.005
#: Widths to choose from. The larger ones are multiples of 32, so that 16 heads divide them.
_WIDTHS = [*range(8, 256, 8), *range(256, 1_537, 32)]
#: Largest relative difference from the requested number of weights.
_NEAR = 0.15
#: Settings that may change from one command to the next without making the runs of a folder others.
_MAY_GROW = ("architectures", "tokenizations", "matchings", "seeds")


@dataclass(frozen=True)
class AttackSettings:
    """What is compared, and how large the models and texts are.

    Attributes:
        architectures: Names in `ARCHITECTURES`.
        tokenizations: `byte`, `word`, or a kind and a vocabulary size such as `bpe-1024`.
        matchings: What is equal: `bytes`, `compute` or both.
        seeds: Number of trainings of each model.
        num_parameters: Weights of every model, as nearly as its width allows.
        num_layers: Blocks of every model.
        train_bytes: Bytes that every model reads with `bytes`; several passes if the text has fewer.
        compute_bytes: With `compute` every model spends what the first architecture needs to read so many
            bytes in the first tokenization; None for a quarter of `train_bytes`.
        segment_bytes: Bytes that a gradient reaches back over.
        window_bytes: Bytes that an attention memory reaches back over.
        num_lanes: Lanes; a step reads `num_lanes × segment_bytes` bytes.
        score_bytes: Most bytes of the test split that are scored.
        words: Number of those words that are scored over their segmentations.
        dropouts: Rates at which merges are left out of the scored text.
    """

    architectures: Sequence[str] = tuple(ARCHITECTURES)
    tokenizations: Sequence[str] = TOKENIZATIONS
    matchings: Sequence[Matching] = MATCHINGS
    seeds: int = 3
    num_parameters: int = 1_000_000
    num_layers: int = 2
    train_bytes: int = 4_000_000
    compute_bytes: int | None = None
    segment_bytes: int = 256
    window_bytes: int = 2_048
    num_lanes: int = 16
    score_bytes: int = 200_000
    words: int = 400
    dropouts: Sequence[float] = (0.05, 0.1, 0.2, 0.4)

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: A name is unknown or given twice, or a number is out of range.
        """
        _check_names("architectures", self.architectures, ARCHITECTURES)
        _check_names("tokenizations", self.tokenizations, TOKENIZATIONS)
        _check_names("matchings", self.matchings, MATCHINGS)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{field.name} is {value}: it must be at least 1")
        for rate in self.dropouts:
            if not 0 < rate < 1:
                raise ConfigError(f"a rate is {rate} (dropouts): it must be between 0 and 1")

    @property
    def conditions(self) -> dict[str, Any]:
        """What the runs of one experiment have in common, as JSON values."""
        return {name: value for name, value in to_dict(self).items() if name not in _MAY_GROW}


def _check_names(field: str, names: Sequence[str], known: Iterable[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{field} is {' '.join(names) or 'empty'}: give one or more, each once")
    sized = field == "tokenizations"
    for name in names:
        if name not in known and not (sized and _SIZED.fullmatch(name)):
            raise ConfigError(
                f"there is no '{name}' ({field}){did_you_mean(name, known)}: {', '.join(known)}"
                f"{', or bpe-N, wordpiece-N, unigram-N, spelled-N' if sized else ''}"
            )


@dataclass(frozen=True)
class Tokenization:
    """A tokenizer, as the plan needs it.

    Attributes:
        name: As in `TOKENIZATIONS`.
        path: Its tokenizer.json, or `byte`.
        vocab_size: V.
        bytes_per_token: Mean over the training text.
        digest: Digest of the text in these tokens.
    """

    name: str
    path: str
    vocab_size: int
    bytes_per_token: float
    digest: str


def tokenizer_of(name: str) -> tuple[str, int | None]:
    """Return the kind that a name means, as `data.prepare.train_tokenizer` takes it, and the size."""
    match = _SIZED.fullmatch(name)
    if match is None:
        return name, None
    return "spelled-word" if match[1] == "spelled" else match[1], int(match[2])


def make_plans(
    settings: AttackSettings,
    tokenizations: Sequence[Tokenization],
    text: str,
    device: str,
    compute_flops: float | None = None,
) -> list[Plan]:
    """Return all runs, seed by seed, so that a stopped experiment has every model of its first seeds.

    Args:
        settings: What is compared.
        tokenizations: In the order of the runs.
        text: As for `data.texts`.
        device: As for `train.device`.
        compute_flops: Operations of each training with equal arithmetic; None for what the settings say.

    Raises:
        ConfigError: No width comes near enough to the number of weights.
    """
    bases = {
        (architecture, t): _recipe(settings, architecture, t, text, device)
        for architecture in settings.architectures
        for t in tokenizations
    }
    if compute_flops is None:
        first = tokenizations[0]
        num_tokens = (settings.compute_bytes or settings.train_bytes / 4) / first.bytes_per_token
        compute_flops = num_tokens * flops_per_token(bases[settings.architectures[0], first])
    return [
        _plan(settings, architecture, t, matching, base, seed, compute_flops)
        for seed in range(settings.seeds)
        for matching in settings.matchings
        for (architecture, t), base in bases.items()
    ]


def _plan(
    settings: AttackSettings,
    architecture: str,
    t: Tokenization,
    matching: Matching,
    base: Recipe,
    seed: int,
    compute_flops: float,
) -> Plan:
    flops = flops_per_token(base)
    tokens = settings.train_bytes / t.bytes_per_token
    if matching == "compute":
        tokens = compute_flops / flops
    budget = Budget.parse(f"{round(tokens)}tokens")
    train = dataclasses.replace(base.train, budget=budget.text, seed=seed)
    plan = Plan.of(
        f"{architecture}-{t.name}-{matching}",
        budget,
        dataclasses.replace(base, train=train),
        {"text_digest": t.digest, "conditions": settings.conditions},
        facts={
            "architecture": architecture, "tokenization": t.name, "matching": matching,
            "vocab_size": t.vocab_size, "bytes_per_token": t.bytes_per_token,
            "read_bytes": tokens * t.bytes_per_token, "train_flops": tokens * flops,
        },
    )  # fmt: skip
    # The digest identifies the tokenizer; its file may have another path when the runs are resumed.
    plan.key["settings"]["data"]["tokenizer"] = t.name
    return plan


def _recipe(
    settings: AttackSettings, architecture: str, t: Tokenization, text: str, device: str
) -> Recipe:
    def tokens(num_bytes: int) -> int:
        return max(round(num_bytes / t.bytes_per_token), 1)

    model = _model(settings, architecture, t.vocab_size, tokens(settings.window_bytes))
    segment_length = tokens(settings.segment_bytes)
    return Recipe(
        model=model,
        data=DataConfig(
            texts=[text],
            tokenizer=t.path,
            num_lanes=settings.num_lanes,
            segment_length=segment_length,
            block_length=8 * segment_length,
        ),
        optim=OptimConfig(
            name="muon",
            lr=_LR.get(architecture, _DEFAULT_LR),
            matrix_lr=0.01,
            betas=(0.9, 0.99),
            warmup="3%",
            decay="linear",
        ),
        train=TrainConfig(
            validate_every="20%",
            validation_tokens=tokens(50_000),
            checkpoint_every="2m",
            device=device,
        ),
    )


def _model(
    settings: AttackSettings, architecture: str, vocab_size: int, window: int
) -> ModelConfig:
    """Return the model whose number of weights is nearest to the requested one.

    Raises:
        ConfigError: It is not near enough, for instance because the vocabulary alone has more.
    """
    values: dict[str, Any] = {**ARCHITECTURES[architecture], "num_layers": settings.num_layers}
    if architecture in _ATTENDING:
        values["window"] = window

    @functools.cache
    def sized(dim: int) -> ModelConfig:
        heads: dict[str, Any] = (
            {"num_heads": _num_heads(dim)} if architecture == "transformer" else {}
        )
        return ModelConfig(**values, **heads, embed_dim=dim, vocab_size=vocab_size)

    @functools.cache
    def weights(dim: int) -> int:
        return count_parameters(sized(dim))

    wanted = settings.num_parameters
    above = bisect.bisect_left(_WIDTHS, wanted, key=weights)
    best = min(_WIDTHS[max(above - 1, 0) : above + 1], key=lambda dim: abs(weights(dim) - wanted))
    if abs(weights(best) - wanted) > _NEAR * wanted:
        raise ConfigError(
            f"num_parameters is {wanted:,}, and a {architecture} with {vocab_size:,} tokens comes no "
            f"nearer than {weights(best):,}: give another number, or leave the largest vocabularies out"
        )
    return sized(best)


def _num_heads(dim: int) -> int:
    """Return the largest number of heads with at least 32 features each, or 1."""
    return max(heads for heads in (1, 2, 4, 8, 16) if heads == 1 or dim // heads >= 32)
