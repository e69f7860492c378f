"""The typed settings of a model and of a run.

A recipe is a YAML file with the sections `model`, `data`, `optim` and `train`. Each section is a
dataclass below, each key a field, and the text under a field is its help on the command line. Building
an object checks all values and derives those that were left out (such as a `boom_dim` of four times
`embed_dim`), so a built object is complete and valid.

This module does not import torch, so that `--help` and `data` answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import encodings.aliases
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from sharnn.amounts import Amount
from sharnn.errors import ConfigError

Architecture = Literal["sha-rnn", "lstm", "transformer"]
AttentionPlacement = Literal["one", "all", "none"]
Reach = Literal["sliding", "segment"]
Device = str
Dtype = Literal["auto", "fp32", "bf16", "fp16"]

#: Vocabularies larger than this get a split softmax (the original's threshold).
SPLIT_SOFTMAX_THRESHOLD = 75_000
#: The original's cutoffs of the split softmax, in words of falling frequency.
SPLIT_SOFTMAX_CUTOFFS = (2_800, 20_000, 76_000)


#: Settings that `train.adapt` may list.
ADAPTED = ("validate_every", "validation_tokens", "checkpoint_every")
#: Settings that `train.fit` may list.
FITTED = (
    "model.embed_dim", "model.num_layers", "model.ngram_rows", "model.ngram_min_count",
    "model.input_dropout", "model.hidden_dropout", "model.output_dropout",
    "model.attention_dropout", "data.num_lanes",
)  # fmt: skip
#: Those of them that are fixed where a run begins with a model's weights.
SIZES_OF_WEIGHTS = (
    "model.embed_dim", "model.num_layers", "model.ngram_rows", "model.ngram_min_count",
)  # fmt: skip


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _refuse_null(owner: Any, section: str) -> None:
    """Refuse None for settings that always have a value.

    Raises:
        ConfigError: Names the setting.
    """
    for setting in dataclasses.fields(owner):
        if getattr(owner, setting.name) is None and setting.default is not None:
            raise ConfigError(
                f"{section}.{setting.name} is null: give a value, or leave it out for its default"
            )


def _require_positive(owner: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        _require(value >= 1, f"{section}.{name} is {value}: it must be at least 1")


def _require_probability(owner: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        _require(0 <= value < 1, f"{section}.{name} is {value}: it must be at least 0 and below 1")


# ----------------------------------------------------------------------------------------- model


def _derived() -> Any:
    """Return a field that may be left out (None): building the object derives its value from others.

    Its annotation is the type that it has from then on.
    """
    return field(default=None)


@dataclass(frozen=True)
class ModelConfig:
    """The model: architecture, sizes and options."""

    architecture: Architecture = "sha-rnn"
    """sha-rnn (LSTM, one attention head, Boom), or a baseline: lstm (LSTM layers alone), transformer
    (pre-norm, rotary positions, a sliding memory)."""
    vocab_size: int = 256
    """Vocabulary size V; a run takes it from the tokenizer."""
    embed_dim: int = 1024
    """Width D of the embedding, the LSTM and the head."""
    boom_dim: int = _derived()
    """Width F of the Boom layer, or of the Transformer's feed-forward layer; default 4 × embed_dim. The
    lstm has none."""
    longest_ngram: int = 0
    """Add an embedding of the last 2, 3, … up to this many tokens to that of the token, for n-grams that
    are frequent in the training text. 0 embeds single tokens only, as the paper does."""
    ngram_rows: int = _derived()
    """Rows of each n-gram table: the most n-grams of each length that have an embedding; default
    16384."""
    ngram_min_count: int = _derived()
    """How often an n-gram must occur in the training text (in 4 million tokens of a longer one) to have
    a row; default 50."""
    recall_orders: list[int] = field(default_factory=list)
    """For each n in this list, look up which token followed the last n tokens at their previous
    occurrence, and add its embedding. [] looks up nothing, as in the paper."""
    recall_slots: int = _derived()
    """Slots of each recall table, a power of two: how many n-grams of each length are remembered; default
    65536. Training lanes have at most 16384, because each reads only a part of the text."""
    num_layers: int = 4
    """Number of stacked blocks L."""
    attention_layers: AttentionPlacement | list[int] | None = None
    """Which blocks of a sha-rnn have a head: one (the second to last, the paper's choice and the
    default), all, none, or a list of indices from 0."""
    window: int = _derived()
    """Memory rows that a position can attend to, its own included; 5000 if not set. 0 removes the memory
    and leaves an LSTM with Boom."""
    reach: Reach = "sliding"
    """sliding: every position attends to exactly the last `window` rows, however the text is split into
    segments. segment: the original's rule, which depends on where segments begin."""
    overparam_value_gate: bool = _derived()
    """Over-parameterise the head's value gate in training, as the original does; it is folded into one
    vector afterwards."""
    reads_next: bool = False
    """The head's value is the row after each row that it matches: what followed in a similar place.
    Needs residual; does nothing with a window of 1. The paper's head reads the matched rows."""
    residual: bool = False
    """Blocks with residual connections and a final LayerNorm, instead of the paper's blocks, in which the
    skip connections carry normalised values and none skips the LSTM."""
    forget_bias: float = 0.0
    """Added to the forget-gate bias of the LSTM at initialisation; the original has 0."""
    num_heads: int = _derived()
    """Heads of the transformer baseline; default embed_dim / 64. A block of a SHA-RNN has at most one."""
    input_dropout: float = 0.0
    """Dropout on the embeddings."""
    hidden_dropout: float = 0.0
    """Dropout on the output of each LSTM, attention and Boom, and inside Boom."""
    output_dropout: float = 0.0
    """Dropout before the softmax."""
    attention_dropout: float = 0.0
    """Dropout in the head: on the query, the values and the attention weights."""
    split_softmax: list[int] | None = None
    """Cutoffs of the split softmax over words in order of falling frequency; default 2800, 20000, 76000
    for vocabularies over 75,000. An empty list keeps the full softmax."""

    def __post_init__(self) -> None:
        """Check all values, and derive those that were left out.

        Raises:
            ConfigError: A value is out of range, or would have no effect.
        """
        _refuse_null(self, "model")
        _require_positive(self, "model", "vocab_size", "embed_dim", "num_layers")
        _require_probability(
            self, "model", "input_dropout", "hidden_dropout", "output_dropout", "attention_dropout"
        )
        _require(math.isfinite(self.forget_bias), f"model.forget_bias is {self.forget_bias}")
        {
            "sha-rnn": self._resolve_sha_rnn,
            "lstm": self._resolve_lstm,
            "transformer": self._resolve_transformer,
        }[self.architecture]()
        self._resolve_ngrams()
        self._resolve_recall()
        self._check_split_softmax()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _refuse(self, *names: str) -> None:
        """Refuse settings that have no effect in this architecture."""
        for name in names:
            if getattr(self, name):
                raise ConfigError(
                    f"model.{name} is {getattr(self, name)!r}, but does nothing with "
                    f"model.architecture '{self.architecture}': leave it out"
                )

    def _default(self, **values: Any) -> None:
        self._set(**{k: v for k, v in values.items() if getattr(self, k) is None})

    def _resolve_sha_rnn(self) -> None:
        self._refuse("num_heads")
        self._default(boom_dim=4 * self.embed_dim, window=5000, attention_layers="one", num_heads=0)
        _require(
            self.boom_dim >= self.embed_dim,
            f"model.boom_dim is {self.boom_dim}: it must be at least model.embed_dim "
            f"({self.embed_dim}), because Boom sums chunks of that width",
        )
        _require(self.window >= 0, f"model.window is {self.window}: it must be 0 or more")
        self._check_attention_layers()
        self._set(attention_layers=self.attending_blocks)
        if not self.attention_layers:
            for name in ("attention_dropout", "overparam_value_gate", "reads_next"):
                value = getattr(self, name)
                _require(
                    not value,
                    f"model.{name} is {value!r}, but no block has a head (model.attention_layers is "
                    f"{self.attention_layers}, model.window {self.window}): leave it out, or add a head",
                )
        _require(
            self.residual or not self.reads_next,
            "model.reads_next is true, but the paper's blocks have no such head: set model.residual to "
            "true, or leave model.reads_next out",
        )
        self._default(overparam_value_gate=bool(self.attention_layers))

    def _resolve_ngrams(self) -> None:
        longest = self.longest_ngram
        if longest == 0:
            for name in ("ngram_rows", "ngram_min_count"):
                value = getattr(self, name)
                _require(
                    value in (None, 0),
                    f"model.{name} is {value}, but no n-grams are embedded: leave it out, or set "
                    "model.longest_ngram",
                )
            self._set(ngram_rows=0, ngram_min_count=0)
            return
        _require(
            2 <= longest <= self.embed_dim + 1,
            f"model.longest_ngram is {longest}: give 2 or more, or 0 for none; each order gets an "
            f"equal part of the {self.embed_dim} features, so {self.embed_dim + 1} at most",
        )
        self._default(ngram_rows=16_384, ngram_min_count=50)
        _require_positive(self, "model", "ngram_rows", "ngram_min_count")

    def _resolve_recall(self) -> None:
        orders = self.recall_orders
        _require(
            all(order >= 1 for order in orders) and len(set(orders)) == len(orders),
            f"model.recall_orders is {orders}: give lengths of 1 or more, each once",
        )
        if not orders:
            _require(
                self.recall_slots in (None, 0),
                f"model.recall_slots is {self.recall_slots}, but nothing is recalled: leave it out, or "
                "set model.recall_orders",
            )
            self._set(recall_slots=0)
            return
        self._default(recall_slots=65_536)
        slots = self.recall_slots
        _require(
            256 <= slots <= 1 << 31 and slots & (slots - 1) == 0,
            f"model.recall_slots is {slots}: it must be a power of two from 256 to {1 << 31}",
        )
        _require(
            self.vocab_size <= 1_000_000,
            f"model.recall_orders is {orders}, but recall supports vocabularies of up to 1,000,000 "
            f"tokens, and this one has {self.vocab_size}: leave it out",
        )

    def _check_attention_layers(self) -> None:
        placement, num_layers = self.attention_layers, self.num_layers
        outside = (
            [i for i in placement if not 0 <= i < num_layers] if isinstance(placement, list) else []
        )
        _require(
            not outside,
            f"model.attention_layers lists block {outside and outside[0]}, but there are "
            f"{num_layers} blocks, 0 to {num_layers - 1}",
        )

    def _resolve_lstm(self) -> None:
        if self.attention_layers == "none":
            self._set(attention_layers=[])
        self._refuse(
            "boom_dim", "window", "attention_layers", "num_heads", "attention_dropout",
            "overparam_value_gate", "reads_next",
        )  # fmt: skip
        self._set(
            boom_dim=0, window=0, attention_layers=[], num_heads=0, overparam_value_gate=False
        )

    def _resolve_transformer(self) -> None:
        self._refuse(
            "attention_layers", "residual", "forget_bias", "overparam_value_gate", "reads_next"
        )
        self._default(
            boom_dim=4 * self.embed_dim, window=512, num_heads=max(self.embed_dim // 64, 1)
        )
        self._set(attention_layers=[], overparam_value_gate=False)
        _require(self.window >= 1, "model.window is 0: a transformer needs at least 1")
        _require(
            self.num_heads >= 1 and self.embed_dim % (2 * self.num_heads) == 0,
            f"model.num_heads is {self.num_heads}: model.embed_dim ({self.embed_dim}) must be a "
            "multiple of twice that, for heads of even width",
        )
        _require(
            self.reach == "sliding", "model.reach is 'segment': the transformer's reach is sliding"
        )

    @property
    def attending_blocks(self) -> list[int]:
        """Indices of the blocks that have a head; empty for the baselines."""
        placement, num_layers = self.attention_layers, self.num_layers
        if self.window and isinstance(placement, list):
            return sorted(set(placement))
        if self.window and placement == "one":
            return [max(num_layers - 2, 0)]
        return list(range(num_layers)) if self.window and placement == "all" else []

    @property
    def softmax_cutoffs(self) -> list[int]:
        """Cutoffs of the split softmax; empty for a full softmax."""
        if self.split_softmax is not None:
            return self.split_softmax
        if self.vocab_size <= SPLIT_SOFTMAX_THRESHOLD:
            return []
        return [cutoff for cutoff in SPLIT_SOFTMAX_CUTOFFS if cutoff < self.vocab_size]

    def _check_split_softmax(self) -> None:
        cutoffs = self.softmax_cutoffs
        rising = all(a < b for a, b in itertools.pairwise([0, *cutoffs, self.vocab_size]))
        _require(
            not cutoffs or rising,
            f"model.split_softmax is {cutoffs}: cutoffs must be increasing and lie between 0 and the "
            f"vocabulary size of {self.vocab_size}",
        )


# ------------------------------------------------------------------------------------------ data


#: Tokenizers that need no file.
TOKENIZERS = ("byte", "word")


def names_tokenizer_file(tokenizer: str) -> bool:
    """Return whether a `data.tokenizer` is the path of a file."""
    return tokenizer.endswith(".json")


def check_tokenizer(tokenizer: str) -> None:
    """Check a `data.tokenizer` without reading from the disk.

    Raises:
        ConfigError: It is neither a known tokenizer nor the name of a tokenizer file.
    """
    _require(
        tokenizer in TOKENIZERS or names_tokenizer_file(tokenizer),
        f"there is no tokenizer '{tokenizer}'{did_you_mean(tokenizer, TOKENIZERS)}: give byte, word, or "
        "a tokenizer file, whose name ends in .json",
    )


def check_encoding(encoding: str) -> None:
    """Check a `data.encoding`.

    Raises:
        ConfigError: Python has no such encoding of text.
    """
    if encoding in ("auto", "bytes"):
        return
    try:
        bytes(4).decode(encoding)
    except UnicodeError:
        return
    except (LookupError, ValueError):
        known = ("auto", "bytes", *(name.replace("_", "-") for name in encodings.aliases.aliases))
        raise ConfigError(
            f"there is no encoding '{encoding}'{did_you_mean(encoding, known)}: give auto, bytes, or one "
            "that Python knows, such as utf-8, latin-1, cp1252 or koi8-r"
        ) from None


@dataclass(frozen=True)
class DataConfig:
    """The text, and how it is split into lanes and segments."""

    texts: list[str] = field(default_factory=list)
    """Known corpora, files, folders, globs or - (standard input); usually given as TEXT."""
    tokenizer: str | None = None
    """byte, word (for texts in WikiText's tokenised form), or a file made by 'sharnn tokenizer train'
    (NAME.json); default the corpus's own."""
    encoding: str = "auto"
    """Encoding of the texts, such as latin-1 or cp1252; it is converted to UTF-8. auto recognises UTF-16
    and leaves all other bytes as they are; bytes leaves all bytes as they are, also those of files that
    are not text."""
    include: list[str] = field(default_factory=list)
    """Patterns: read only files of folders and archives that match one of these, such as ['*.md']."""
    exclude: list[str] = field(default_factory=list)
    """Patterns: leave out files of folders and archives that match one of these."""
    num_lanes: int = 16
    """Lanes B, the rows of a batch: contiguous parts of the text that are read in parallel, each with its
    own state."""
    segment_length: int = 128
    """Tokens T of each lane per step. The state is carried from segment to segment, gradients are not."""
    block_length: int = 0
    """Read the text in shuffled blocks of this many tokens, in a new order each epoch, so that early
    steps see all parts of the text. 0 reads each lane from beginning to end."""
    random_segments: bool = False
    """Draw the length of each segment as the paper does: around T, and around T/2 one time in twenty."""
    max_train_tokens: int = 0
    """Read at most this many tokens of the train split, from its beginning; 0 reads all."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        _refuse_null(self, "data")
        if self.tokenizer is not None:
            check_tokenizer(self.tokenizer)
        check_encoding(self.encoding)
        _require_positive(self, "data", "num_lanes", "segment_length")
        _require(
            self.max_train_tokens >= 0,
            f"data.max_train_tokens is {self.max_train_tokens}: it must be 0 or more",
        )
        _require(
            self.block_length == 0 or self.block_length >= self.segment_length,
            f"data.block_length is {self.block_length}: it must be 0, or at least data.segment_length "
            f"({self.segment_length}), because segments do not cross blocks",
        )
        _require(
            not self.random_segments or self.segment_length >= 5,
            f"data.segment_length is {self.segment_length}: random segments need 5 or more",
        )


# ----------------------------------------------------------------------------------------- optim


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning-rate schedule."""

    name: Literal["lamb", "adamw", "muon"] = "adamw"
    """lamb (the original's, with a minimum trust ratio), adamw, or muon (muon for the matrices, adamw for
    the rest)."""
    lr: float = 2e-3
    """Peak learning rate."""
    matrix_lr: float | None = None
    """Muon's peak learning rate for the matrices (scaled to match AdamW's root mean square); default
    lr."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices (with lamb of all weights, as in the original)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment of lamb and adamw."""
    min_trust: float | None = None
    """Lower bound of LAMB's trust ratio; default 0.25. For lamb only."""
    grad_clip: float = 0.25
    """Clip the gradient to this norm; 0 does not clip."""
    warmup: str = "0steps"
    """Length of the linear warm-up, such as 800steps, or a percentage of the budget."""
    hold: str = "0%"
    """Percentage of the budget, warm-up included, after which the decay begins."""
    decay: Literal["constant", "halving", "cosine", "linear"] = "cosine"
    """How the learning rate falls from the end of optim.hold to the end of the budget."""
    halve_at: list[float] = field(default_factory=list)
    """For halving: fractions of the budget (0 to 1) at which the learning rate is halved."""
    final_lr: float = 0.0
    """For cosine and linear: the final learning rate as a fraction of lr."""
    average: float = 0.0
    """Score and save a running mean of the weights over about this fraction of the steps so far, such as
    0.2. It smooths the weights as learning-rate decay would, at any time. 0 turns it off."""

    def __post_init__(self) -> None:
        """Check ranges, and refuse settings without effect.

        Raises:
            ConfigError: A value is out of range, or contradicts another.
        """
        _refuse_null(self, "optim")
        for name in ("lr", "matrix_lr"):
            value = getattr(self, name)
            _require(
                value is None or (0 < value < math.inf), f"optim.{name} is {value}: give a rate > 0"
            )
        _require(
            self.matrix_lr is None or self.name == "muon",
            f"optim.matrix_lr does nothing with optim.name '{self.name}': it is for muon",
        )
        _require(
            self.min_trust is None or self.name == "lamb",
            f"optim.min_trust does nothing with optim.name '{self.name}': it is for lamb",
        )
        _require(
            self.min_trust is None or self.min_trust >= 0,
            f"optim.min_trust is {self.min_trust}: it must be 0 or more",
        )
        for name in ("weight_decay", "grad_clip"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optim.{name} is {value}: it must be 0 or more")
        _require(
            all(0 <= b < 1 for b in self.betas), f"optim.betas are {self.betas}: each in [0, 1)"
        )
        Amount.parse(self.warmup, "optim.warmup")
        hold = Amount.parse(self.hold, "optim.hold")
        _require(
            hold.unit == "budget", f"optim.hold is '{self.hold}': give a percentage, such as 50%"
        )
        _require(
            hold.value == 0 or self.decay in ("cosine", "linear"),
            f"optim.hold does nothing with optim.decay '{self.decay}'",
        )
        _require(
            bool(self.halve_at) == (self.decay == "halving"),
            f"optim.halve_at is {self.halve_at} and optim.decay is '{self.decay}': halving needs "
            "fractions of the budget to halve at, and the other decays take none",
        )
        _require(
            all(0 < share < 1 for share in self.halve_at),
            f"optim.halve_at is {self.halve_at}: each must lie between 0 and 1",
        )
        _require(
            0 <= self.average <= 1, f"optim.average is {self.average}: give a fraction, 0 to 1"
        )
        _require(
            0 <= self.final_lr <= 1, f"optim.final_lr is {self.final_lr}: give a fraction, 0 to 1"
        )
        _require(
            self.final_lr == 0 or self.decay in ("cosine", "linear"),
            f"optim.final_lr does nothing with optim.decay '{self.decay}'",
        )


# ----------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class TrainConfig:
    """Budget, hardware, validation and checkpoints."""

    budget: str = "10m"
    """When training ends: 90s, 10m, 2h, 5000steps, 3epochs or 50Mtokens. The learning-rate schedule
    follows it."""
    init_from: str | None = None
    """Model to fine-tune: base, a model folder or a run folder; usually given as --from. Its weights,
    model settings and tokenizer are used."""
    seed: int = 0
    """Random seed for weights, dropout and segment lengths."""
    device: Device = "auto"
    """auto (CUDA when there is one), cpu, cuda or cuda:N."""
    dtype: Dtype = "auto"
    """Precision of matrix products: fp32, bf16, fp16 (CUDA only); auto is bf16 where the hardware
    supports it."""
    grad_accum_steps: int = 1
    """Groups of lanes that are computed one after the other in a step: less memory, and the same
    gradient, but for dropout masks."""
    activation_checkpointing: bool = False
    """Keep only the inputs of each block, and recompute the rest in the backward pass: less memory, more
    time, the same gradient."""
    validate_every: str = "5%"
    """Interval between validations, in the units of budget or as a percentage of it. The best model is
    kept."""
    validation_tokens: int = 100_000
    """Score at most this many tokens of the valid split each time; 0 scores all of it."""
    checkpoint_every: str = "2m"
    """Interval between checkpoints, from which a run resumes."""
    adapt: list[str] = field(default_factory=lambda: list(ADAPTED))
    """Settings that are reduced so that validating and saving take at most 5% of a budget in time: any of
    validate_every, validation_tokens and checkpoint_every. Settings given as options are not reduced."""
    early_stop: int = 0
    """Stop after this many validations in a row without a new best; 0 never does."""
    max_skipped_steps: int = 10
    """Stop with an error after this many steps in a row whose loss or gradient is not finite."""
    fit: list[str] = field(default_factory=list)
    """Settings that the run chooses when it begins, by budget, machine and text: any of
    model.embed_dim, model.num_layers (with it), model.ngram_*, model.*_dropout and data.num_lanes
    (fewer for a short text). Settings given as options are not chosen."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra 'track')."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        _refuse_null(self, "train")
        _require_positive(self, "train", "grad_accum_steps", "max_skipped_steps")
        for name in ("validation_tokens", "early_stop", "seed"):
            value = getattr(self, name)
            _require(value >= 0, f"train.{name} is {value}: it must be 0 or more")
        _require(self.seed < 1 << 63, f"train.seed is {self.seed}: it must be below 2 ** 63")
        _require(
            self.validation_tokens != 1,
            "train.validation_tokens is 1, but scoring needs a token and its successor: give 0 for all, "
            "or at least 2",
        )
        budget = Amount.parse(self.budget, "train.budget", share=False)
        _require(budget.value > 0, f"train.budget is '{self.budget}': it must be more than 0")
        for name in self.fit:
            if name not in FITTED:
                raise ConfigError(
                    f"train.fit lists '{name}'{did_you_mean(name, FITTED)}: the run can choose "
                    f"{', '.join(FITTED)}"
                )
        for name in self.adapt:
            if name not in ADAPTED:
                raise ConfigError(
                    f"train.adapt lists '{name}'{did_you_mean(name, ADAPTED)}: the run can reduce "
                    f"{', '.join(ADAPTED)}"
                )
        _require(
            "model.num_layers" not in self.fit or "model.embed_dim" in self.fit,
            "train.fit lists model.num_layers, which is chosen with model.embed_dim: list that too",
        )
        if self.init_from is not None:
            made = [name for name in self.fit if name in SIZES_OF_WEIGHTS]
            _require(
                not made,
                f"train.fit lists {made and made[0]}, which the weights of {self.init_from} determine: "
                "leave it out",
            )
        for name in ("validate_every", "checkpoint_every"):
            amount = Amount.parse(getattr(self, name), f"train.{name}")
            _require(
                amount.value > 0,
                f"train.{name} is '{getattr(self, name)}': it must be more than 0",
            )
        _require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"train.device is '{self.device}': give auto, cpu, cuda or cuda:N",
        )


# ---------------------------------------------------------------------------------------- recipe


@dataclass(frozen=True)
class Recipe:
    """All settings of a run: the content of a recipe file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        """Check what sections must agree on.

        Raises:
            ConfigError: Lanes cannot be divided into that many groups.
        """
        lanes, groups = self.data.num_lanes, self.train.grad_accum_steps
        _require(
            lanes % groups == 0,
            f"train.grad_accum_steps is {groups}: data.num_lanes ({lanes}) must be a multiple of it",
        )

    def to_yaml(self) -> str:
        """Return this recipe as YAML, all values included."""
        return yaml.safe_dump(to_dict(self), sort_keys=False, allow_unicode=True)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
}


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples_to_lists(v) for k, v in value.items()}
    return [_tuples_to_lists(v) for v in value] if isinstance(value, list | tuple) else value


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as dicts, lists and scalars, for JSON and YAML."""
    return _tuples_to_lists(dataclasses.asdict(config))


def check_keys(settings: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that do not exist.

    Raises:
        ConfigError: The message names the key, the place and the closest known key.
    """
    names = list(known)
    for key in settings:
        if key not in names:
            raise ConfigError(
                f"{where}: there is no setting '{key}'{did_you_mean(str(key), names)}"
            )
