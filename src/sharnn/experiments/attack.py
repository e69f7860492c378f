"""The tokenization attack, planned: who trains on which tokens, and what is equal for all.

The claim (paper, section 5): the finer the tokens, the more a model is told inside of a word while it is
scored, and one that attends makes the most of it, so that scores of models with other tokens do not
compare even when they are counted by the same words. Here the same architectures read the same bytes
in several tokenizations, and the score is taken apart (`sharnn.evaluate.tokenization`).

What is equal: the weights in all, with the embedding's; the bytes of a segment, of the window and of a
step; the seeds. Then either the bytes that are read (`bytes`), or the arithmetic that is spent
(`compute`): a model with longer tokens reads more text for it.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sharnn.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    did_you_mean,
)
from sharnn.errors import ConfigError
from sharnn.model import count_parameters
from sharnn.train.estimate import flops_per_token

Matching = Literal["bytes", "compute"]
MATCHINGS: tuple[Matching, ...] = ("bytes", "compute")

#: What each architecture sets; all else is the same for all.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sha-rnn": {"residual": True, "forget_bias": 1.0, "overparam_value_gate": False},
    "no-attention": {"residual": True, "forget_bias": 1.0, "attention_layers": "none"},
    "lstm": {"architecture": "lstm", "residual": True, "forget_bias": 1.0},
    "transformer": {"architecture": "transformer"},
}
#: Those that remember rows to attend to.
_ATTENDING = ("sha-rnn", "transformer")
TOKENIZATIONS = (
    "byte", "bpe-512", "bpe-1024", "bpe-2048", "bpe-4096", "bpe-8192", "spelled-8192", "word",
)  # fmt: skip
_SIZED = re.compile(r"(bpe|wordpiece|unigram|spelled)-(\d+)")
_OR_SIZED = ", or bpe-N, wordpiece-N, unigram-N, spelled-N"
#: The rate that benchmarks/time_to_quality.py gives a Transformer in longer trainings, and that of the
#: recipes for hours.
_LR = {"transformer": 0.003}
_DEFAULT_LR = 0.005


#: Widths to choose from; multiples that 16 heads divide come with the larger ones.
_WIDTHS = [*range(8, 256, 8), *range(256, 1_537, 32)]
#: How near the number of weights must come.
_NEAR = 0.15


@dataclass(frozen=True)
class AttackSettings:
    """What the experiment is to find out, and how large.

    Attributes:
        architectures: Names in `ARCHITECTURES`.
        tokenizations: `byte`, `word`, or a kind and a vocabulary size such as `bpe-1024`.
        matchings: What is equal: `bytes`, `compute` or both.
        seeds: Trainings of each.
        num_parameters: Weights of every model, as nearly as its width allows.
        num_layers: Blocks of every model.
        train_bytes: Bytes that a model reads in `bytes`; several passes where the text has fewer.
        compute_bytes: In `compute` every model spends what the first architecture needs for so many
            bytes in the first tokenization; a quarter of `train_bytes` when not given.
        segment_bytes: Bytes that a gradient reaches back over.
        window_bytes: Bytes that a memory reaches back over.
        num_lanes: Lanes; a step reads `num_lanes × segment_bytes` bytes.
        score_bytes: Bytes of the test split that are scored at most.
        words: Words of them that are scored in all their ways.
        dropouts: Rates at which merges are left out of the text to score.
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
            ConfigError: A name is not known or stands twice, or a number is out of range.
        """
        for option, names, known in (
            ("architectures", self.architectures, tuple(ARCHITECTURES)),
            ("tokenizations", self.tokenizations, TOKENIZATIONS),
            ("match", self.matchings, MATCHINGS),
        ):
            if not names or len(set(names)) < len(names):
                raise ConfigError(f"--{option} must name one at least, and none twice")
            for name in names:
                sized = option == "tokenizations" and _SIZED.fullmatch(name)
                if name not in known and not sized:
                    raise ConfigError(
                        f"--{option} names '{name}'{did_you_mean(name, known)}: {', '.join(known)}"
                        f"{_OR_SIZED if option == 'tokenizations' else ''}"
                    )
        for field in (
            "seeds", "num_layers", "train_bytes", "segment_bytes", "window_bytes", "num_lanes",
            "score_bytes", "words",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ConfigError(
                    f"--{field.replace('_', '-')} is {getattr(self, field)}: 1 or more"
                )
        if self.compute_bytes is not None and self.compute_bytes < 1:
            raise ConfigError(f"--compute-bytes is {self.compute_bytes}: 1 or more")
        for rate in self.dropouts:
            if not 0 < rate < 1:
                raise ConfigError(f"--dropouts has {rate}: each must lie between 0 and 1")


@dataclass(frozen=True)
class Tokenization:
    """A tokenizer as the plan sees it.

    Attributes:
        name: As in `TOKENIZATIONS`.
        path: Its tokenizer.json, or `byte`.
        vocab_size: V.
        bytes_per_token: Of the training text.
    """

    name: str
    path: str
    vocab_size: int
    bytes_per_token: float


@dataclass(frozen=True)
class AttackPlan:
    """One training.

    Attributes:
        architecture: Name in `ARCHITECTURES`.
        tokenization: What it reads.
        matching: What is equal.
        recipe: All of it.
        train_bytes: Bytes that it will read.
        train_flops: Operations that it will spend.
    """

    architecture: str
    tokenization: Tokenization
    matching: Matching
    recipe: Recipe
    train_bytes: float
    train_flops: float

    @property
    def name(self) -> str:
        """What tells it from all others of the experiment."""
        seed = self.recipe.train.seed
        return f"{self.architecture}-{self.tokenization.name}-{self.matching}-seed{seed}"


def tokenizer_of(name: str) -> tuple[str, int | None]:
    """Return the kind, as `data.prepare.train_tokenizer` has it, and the size that a name means."""
    match = _SIZED.fullmatch(name)
    if match is None:
        return name, None
    return "spelled-word" if match[1] == "spelled" else match[1], int(match[2])


def equal_flops(settings: AttackSettings, first: Tokenization, text: str, device: str) -> float:
    """Return the operations of a training where arithmetic is equal.

    They are what the first architecture needs to read `compute_bytes` in the first tokenization.

    Args:
        settings: What is to be found out.
        first: The first tokenization.
        text: As `sharnn train` takes it.
        device: As `train.device`.

    Raises:
        ConfigError: No width comes near enough to the number of weights.
    """
    model = _recipe(settings, settings.architectures[0], first, text, device)
    num_bytes = settings.compute_bytes or settings.train_bytes / 4
    return flops_per_token(model) * num_bytes / first.bytes_per_token


def make_plans(
    settings: AttackSettings,
    tokenizations: Sequence[Tokenization],
    text: str,
    device: str,
    compute_flops: float,
) -> list[AttackPlan]:
    """Return all trainings: seed by seed, so that a stopped experiment has whole tables.

    Args:
        settings: What is to be found out.
        tokenizations: In this order.
        text: As `sharnn train` takes it.
        device: As `train.device`.
        compute_flops: Operations of each where arithmetic is equal.

    Raises:
        ConfigError: No width comes near enough to the number of weights.
    """
    bases = {
        (architecture, t.name): _recipe(settings, architecture, t, text, device)
        for architecture in settings.architectures
        for t in tokenizations
    }
    plans = []
    for seed in range(settings.seeds):
        for matching in settings.matchings:
            for architecture in settings.architectures:
                for t in tokenizations:
                    base = bases[architecture, t.name]
                    tokens = settings.train_bytes / t.bytes_per_token
                    if matching == "compute":
                        tokens = compute_flops / flops_per_token(base)
                    recipe = _trained(base, round(tokens), seed)
                    plans.append(
                        AttackPlan(
                            architecture, t, matching, recipe,
                            tokens * t.bytes_per_token, tokens * flops_per_token(base),
                        )
                    )  # fmt: skip
    return plans


def _trained(recipe: Recipe, tokens: int, seed: int) -> Recipe:
    train = dataclasses.replace(recipe.train, budget=f"{tokens}tokens", seed=seed)
    return dataclasses.replace(recipe, train=train)


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
    """Return the model whose weights come nearest to the number asked for.

    Raises:
        ConfigError: The vocabulary alone has more.
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
            f"--num-parameters is {wanted:,}, and a {architecture} over {vocab_size:,} tokens comes no "
            f"nearer than {weights(best):,}: give more, or leave the largest vocabularies out"
        )
    return sized(best)


def _num_heads(dim: int) -> int:
    """Return the most heads of 32 features or more that a width can have."""
    return max(heads for heads in (1, 2, 4, 8, 16) if heads == 1 or dim // heads >= 32)
