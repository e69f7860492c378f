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
from sharnn.data.corpus import Split
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import Score, evaluate_static
from sharnn.generation import Sampling, Session, generate_together

#: Bits in a nat.
_BITS = 1 / torch.log(torch.tensor(2.0)).item()
#: Tokens that are read at once.
_SEGMENT = 512


@dataclass(frozen=True)
class Model(LoadedModel):
    """A model folder in memory, with methods on texts; see `load_model`."""

    _fresh: dict[tuple[object, ...], Session] = field(default_factory=dict, repr=False)

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
        tokens_1T = self._tokens(text)
        with torch.inference_mode():
            nats_1T, state = [], self.model.initial_state(1)
            for inputs, targets in zip(
                tokens_1T[:, :-1].split(_SEGMENT, 1),
                tokens_1T[:, 1:].split(_SEGMENT, 1),
                strict=True,
            ):
                segment, state = self.model.nats(inputs, targets, state)
                nats_1T.append(segment)
        return torch.cat(nats_1T, 1)[0] * _BITS

    def hidden(self, text: str | bytes) -> Tensor:
        """Return the last layer's output after each token, `[T, D]`: embeddings of the text so far.

        The last row, or the mean over rows, represents the text.

        Raises:
            DataError: The tokenizer cannot encode the text.
        """
        tokens_1T = self._tokens(text)
        with torch.inference_mode():
            rows, state = [], self.model.initial_state(1)
            for segment in tokens_1T.split(_SEGMENT, 1):
                rows_1SD, state = self.model.hidden(segment, state)
                rows.append(rows_1SD)
        return torch.cat(rows, 1)[0, 1:]  # without the start token's

    def top_k(self, prefix: str | bytes = "", k: int = 10) -> list[tuple[bytes, float]]:
        """Return the k likeliest next tokens and their probabilities, likeliest first.

        Raises:
            ConfigError: `k` is below 1.
            DataError: The tokenizer cannot encode the prefix.
        """
        session = self.session()
        if k < 1:
            raise ConfigError(f"k is {k}: it must be at least 1")
        probabilities_V = session.prefill(prefix).float().softmax(-1)
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
        weights = tuple((weight.data_ptr(), weight._version) for weight in self.model.parameters())
        settings = dtype, memory_dtype, self.model.window, self.model.config.recall_slots, weights
        if settings not in self._fresh:
            for old in [key for key in self._fresh if key[-1] != weights]:
                del self._fresh[old]  # packed from weights that have changed since
            self._fresh[settings] = Session(self.model, self.tokenizer, dtype, memory_dtype)
        return self._fresh[settings].fork()

    def save(self, folder: str | Path, dtype: str = "fp32") -> None:
        """Write the model as a folder; see `sharnn.save_model`.

        Raises:
            ConfigError: The dtype is unknown.
            CheckpointError: The folder cannot be written.
        """
        save_model(folder, self.model, self.tokenizer, self.card, dtype)

    def _tokens(self, text: str | bytes) -> Tensor:
        """Return the start token and those of a text, `[1, 1 + T]`."""
        tokens = self.tokenizer.encode(text)
        if len(tokens) == 0:
            raise DataError("the text is empty: give a text of at least one token")
        start = torch.tensor([self.tokenizer.start_token])
        return torch.cat([start, torch.from_numpy(tokens).long()])[None].to(self.model.device)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Load a model folder, the best model of a run folder, or `base`, the model shipped with sharnn.

    Args:
        path: The folder, or `base`.
        device: Device of the weights.

    Raises:
        CheckpointError: There is no model, or a part is missing, truncated, altered or of a newer format.
    """
    return Model(**vars(checkpoint.load_model(path, device)))
