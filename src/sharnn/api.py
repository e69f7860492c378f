"""A loaded model with texts in and out: what a program or a notebook needs first.

    model = sharnn.load_model("base")
    print(model.generate("The history of", max_bytes=100, seed=1))

Every call begins from an empty state, as at the beginning of a line. A `session` keeps its state from
call to call. For segments, lanes and gradients use the network itself, `model.model`. docs/python.md has
examples of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from sharnn import checkpoint
from sharnn.checkpoint import LoadedModel, save_model
from sharnn.data.corpus import Split, Tokens
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import SEGMENT_LENGTH, Score, evaluate_static
from sharnn.evaluate.lane_reader import Reader, reading, segments
from sharnn.evaluate.score import LN2
from sharnn.generation import Sampling, Session, generate_together


@dataclass(frozen=True)
class Model(LoadedModel):
    """A model folder in memory, with methods on texts; see `load_model`."""

    #: A session that has read nothing, by dtypes, and what it was begun with.
    _fresh: dict[tuple[str | None, str | None], tuple[object, Session]] = field(
        default_factory=dict, repr=False
    )

    def evaluate(self, text: str | bytes, window: int | None = None) -> Score:
        """Score a text; every token is scored once.

        Args:
            text: The text.
            window: Memory rows in reach; None keeps the model's.

        Raises:
            DataError: There is nothing to score, or the tokenizer cannot encode the text.
            ConfigError: The window is out of range.
        """
        split = Split.of_text(text, self.tokenizer)
        return evaluate_static(self.model, self.tokenizer, split, window=window)

    def bits(self, text: str | bytes) -> Tensor:
        """Return the bits of each token, `[T]`: `-log2` of its probability given those before.

        Raises:
            DataError: The tokenizer cannot encode the text.
        """
        tokens = self._tokens(text)
        with reading(self.model, None):
            reader = Reader(self.model)
            parts = segments(tokens, self.tokenizer.start_token, SEGMENT_LENGTH, self.model.device)
            nats = [reader.read(inputs_1T, targets_1T)[1] for inputs_1T, targets_1T in parts]
        return torch.cat(nats, 1)[0] / LN2

    def hidden(self, text: str | bytes) -> Tensor:
        """Return the last layer's output after each token, `[T, D]`: embeddings of the text so far.

        The last row, or the mean over rows, represents the text.

        Raises:
            DataError: The tokenizer cannot encode the text.
        """
        tokens = [self.tokenizer.start_token, *self._tokens(text).tolist()]
        tokens_1T = torch.tensor(tokens, device=self.model.device)[None]
        with reading(self.model, None):
            rows, state = [], None
            for segment in tokens_1T.split(SEGMENT_LENGTH, 1):
                rows_1SD, state = self.model.hidden(segment, state)
                rows.append(rows_1SD)
        return torch.cat(rows, 1)[0, 1:]  # without the start token's

    def top_k(self, prefix: str | bytes = "", k: int = 10) -> list[tuple[bytes, float]]:
        """Return the k likeliest next tokens and their probabilities, likeliest first.

        Raises:
            ConfigError: `k` is below 1.
            DataError: The tokenizer cannot encode the prefix.
        """
        if k < 1:
            raise ConfigError(f"k is {k}: it must be at least 1")
        probabilities_V = self.session().prefill(prefix).float().softmax(-1)
        top = probabilities_V.topk(min(k, self.tokenizer.vocab_size))
        tokens = [self.tokenizer.token_bytes(token) for token in top.indices.tolist()]
        return list(zip(tokens, top.values.tolist(), strict=True))

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings, too
        self, prompt: str | bytes = "", max_bytes: int = 200, *, seed: int = 0,
        sampling: Sampling | None = None, stop: Sequence[str] = (), dtype: str | None = None,
    ) -> str: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Sequence[str], max_bytes: int = 200, *, seed: int | Sequence[int] = 0,
        sampling: Sampling | None = None, stop: Sequence[str] = (), dtype: str | None = None,
    ) -> list[str]: ...  # fmt: skip

    def generate(
        self, prompt: str | bytes | Sequence[str] = "", max_bytes: int = 200, *,
        seed: int | Sequence[int] = 0, sampling: Sampling | None = None, stop: Sequence[str] = (),
        dtype: str | None = None,
    ) -> str | list[str]:  # fmt: skip
        """Continue a prompt, or several at once; return the continuations.

        Args:
            prompt: A text, or several.
            max_bytes: Longest continuation.
            seed: Random seed of each continuation, or one for each prompt.
            sampling: Sampling settings; by default a temperature of 0.8.
            stop: A continuation ends before any of these strings.
            dtype: Precision of decoding, see `session`.

        Raises:
            ConfigError: A setting is out of range.
            DataError: The tokenizer cannot encode a prompt.
        """
        single = isinstance(prompt, str | bytes)
        prompts = [prompt] if isinstance(prompt, str | bytes) else list(prompt)
        if not prompts:
            return []
        sessions = [self.session(dtype) for _ in prompts]
        for session, text in zip(sessions, prompts, strict=True):
            session.prefill(text)
        pieces: list[list[bytes]] = [[] for _ in prompts]
        raw = not self.writes_utf8
        drawn = generate_together(sessions, sampling or Sampling(), max_bytes, seed, stop, raw)
        for index, piece in drawn:
            pieces[index].append(piece)
        texts = [b"".join(parts).decode(errors="replace") for parts in pieces]
        return texts[0] if single else texts

    def session(self, dtype: str | None = None, memory_dtype: str | None = None) -> Session:
        """Return a new session; the packed weights are shared with earlier ones of that precision.

        Args:
            dtype: Precision of the weights in decoding: `fp32`, `bf16` or `int8`; None keeps float32.
            memory_dtype: Precision of the attention memory, likewise; None uses that of the weights.

        Raises:
            ConfigError: The model can't be decoded in that precision.
        """
        # A session keeps what it began with, so another window or changed weights need another one.
        weights = tuple((weight.data_ptr(), weight._version) for weight in self.model.parameters())
        begun = self.model.window, self.model.config.recall_slots, weights
        known = self._fresh.get((dtype, memory_dtype))
        if known is None or known[0] != begun:
            known = begun, Session(self.model, self.tokenizer, dtype, memory_dtype)
            self._fresh[dtype, memory_dtype] = known
        return known[1].fork()

    def save(self, folder: str | Path, dtype: str = "fp32") -> None:
        """Write the model as a folder; see `sharnn.save_model`.

        Raises:
            ConfigError: The dtype is unknown.
            CheckpointError: The folder cannot be written.
        """
        save_model(folder, self.model, self.tokenizer, self.card, dtype)

    def _tokens(self, text: str | bytes) -> Tokens:
        tokens = self.tokenizer.encode(text)
        if len(tokens) == 0:
            raise DataError("the text is empty: give a text of at least one token")
        return tokens


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Load a model folder, the best model of a run folder, or `base`, the model shipped with sharnn.

    Args:
        path: The folder, or `base`.
        device: Device of the weights.

    Raises:
        CheckpointError: There is no model, or a part is missing, truncated, altered or of a newer format.
    """
    return Model(**vars(checkpoint.load_model(path, device)))
