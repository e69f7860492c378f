"""A text in the making: read a prompt, look at what may come, go on, fork, put away."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharnn.checkpoint.format import load_tensors, save_tensors
from sharnn.config import to_dict
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import atomic_folder, read_json, sha256_of_file, write_json
from sharnn.generate.decoder import make_decoder
from sharnn.generate.sampling import PENALTY_TOKENS, Sampling, sample
from sharnn.generate.stream import StopFilter, Utf8Constraint, WholeCharacters
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import ByteTokenizer, Tokenizer

_SESSION, _STATE = "session.json", "state.safetensors"
_FORMAT = 1


class Session:
    """One lane of a model and what it has read.

    A new session has read the tokenizer's start token: a text begins as if after a line's end.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        dtype: `fp32`, `bf16` or `int8` weights while it steps; the model's when not given.
        memory_dtype: The same of its attention memory; as the weights when not given.

    Raises:
        ConfigError: The model is in training mode, can't be decoded in that dtype, or the tokenizer
            has another vocabulary.

    Attributes:
        logits: Of the next token, `[V]`.
        num_tokens: Tokens read so far, the start token not among them.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        dtype: str | None = None,
        memory_dtype: str | None = None,
    ) -> None:
        if model.training:
            raise ConfigError("the model is in training mode: call model.eval() first")
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
                f"{model.config.vocab_size}: give the tokenizer that the model was trained with"
            )
        self.model, self.tokenizer = model, tokenizer
        self._decoder = make_decoder(model, dtype=dtype, memory_dtype=memory_dtype)
        self.reset()

    def reset(self) -> None:
        """Forget everything that was read; the window stays the one that the session began with."""
        self._decoder.load(self.model.initial_state(1))
        self._history: deque[int] = deque(maxlen=PENALTY_TOKENS)
        self.num_tokens = 0
        self.logits = self._decoder.step(self._as_tensor([self.tokenizer.start_token])[0])[0]

    def prefill(self, text: str | bytes) -> Tensor:
        """Read a text, however long; return the logits of the next token, `[V]`.

        Raises:
            DataError: It holds something the tokenizer lacks.
        """
        data = text.encode() if isinstance(text, str) else text
        tokens = self.tokenizer.encode(data).tolist()
        if tokens:
            self.logits = self._decoder.prefill(self._as_tensor(tokens))[0]
            self._remember(tokens)
        return self.logits

    def step(self, token: int) -> Tensor:
        """Read one token; return the logits of the next, `[V]`.

        Raises:
            ConfigError: There is no such token.
        """
        if not 0 <= token < self.tokenizer.vocab_size:
            raise ConfigError(
                f"token {token} is outside the vocabulary of {self.tokenizer.vocab_size}"
            )
        self.logits = self._decoder.step(self._as_tensor([token])[0])[0]
        self._remember([token])
        return self.logits

    @property
    def history(self) -> Sequence[int]:
        """The latest tokens, as many as a repetition penalty looks at."""
        return list(self._history)

    def fork(self) -> Session:
        """Return a session that goes on from here on its own."""
        other = object.__new__(Session)
        other.model, other.tokenizer = self.model, self.tokenizer
        other._decoder, other.logits = self._decoder.fork(), self.logits
        other._history, other.num_tokens = self._history.copy(), self.num_tokens
        return other

    def save(self, folder: str | Path) -> None:
        """Write the session to a folder, whole or not at all; a session that is there is replaced.

        Raises:
            CheckpointError: It cannot be written, or the folder holds something else.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / _SESSION).is_file():
            raise CheckpointError(f"{folder} is there and is no session: choose another folder")
        with atomic_folder(folder, CheckpointError) as partial:
            tensors = {**self._decoder.state().to_tensors(), "logits": self.logits}
            save_tensors(partial / _STATE, tensors)
            facts = {
                "format": _FORMAT,
                "model": model_digest(self.model),
                "tokenizer": _digest_of_json(self.tokenizer.to_json()),
                "history": list(self._history),
                "num_tokens": self.num_tokens,
                "state": sha256_of_file(partial / _STATE),
            }
            write_json(partial / _SESSION, facts, CheckpointError)

    @classmethod
    def load(cls, folder: str | Path, model: LanguageModel, tokenizer: Tokenizer) -> Session:
        """Return the session in a folder.

        Raises:
            CheckpointError: There is none, it is damaged, or it is another model's.
        """
        folder = Path(folder)
        facts = _read_facts(folder / _SESSION)
        same = facts["model"] == model_digest(model)
        if not same or facts["tokenizer"] != _digest_of_json(tokenizer.to_json()):
            raise CheckpointError(
                f"{folder} is the session of another {'tokenizer' if same else 'model'}: load the "
                "model folder that it was made with"
            )
        state = folder / _STATE
        if not state.is_file() or sha256_of_file(state) != facts["state"]:
            raise CheckpointError(f"{state} is missing, truncated or was altered")
        session = cls(model, tokenizer)
        tensors = load_tensors(state, model.device)
        session.logits = tensors.pop("logits")
        session._decoder.load(RecurrentState.from_tensors(tensors, model.config.num_layers))
        session._history.extend(facts["history"])
        session.num_tokens = facts["num_tokens"]
        return session

    def _remember(self, tokens: Sequence[int]) -> None:
        self._history.extend(tokens)
        self.num_tokens += len(tokens)

    def _as_tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.model.device)


def model_digest(model: LanguageModel) -> str:
    """Return a SHA-256 of a model's settings and weights, as 64 hexadecimal digits."""
    digest = hashlib.sha256(_digest_of_json(to_dict(model.config)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_of_json(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read_facts(path: Path) -> dict[str, Any]:
    """Return what `Session.save` wrote, each value of the type that it must have."""
    facts = read_json(path, CheckpointError)
    types = {"format": int, "model": str, "tokenizer": str, "num_tokens": int, "state": str}
    if not isinstance(facts, dict) or not all(
        isinstance(facts.get(k), t) for k, t in types.items()
    ):
        raise CheckpointError(f"{path} is no session, or was altered")
    if facts["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} has format {facts['format']}, this version of sharnn reads format {_FORMAT}"
        )
    history = facts.get("history")
    if not isinstance(history, list) or not all(isinstance(token, int) for token in history):
        raise CheckpointError(f"{path} was altered: its history is no list of tokens")
    return facts


def generate(
    session: Session,
    sampling: Sampling,
    max_bytes: int,
    seed: int = 0,
    stop: Sequence[str] = (),
    raw: bool = False,
) -> Iterator[bytes]:
    """Continue a session's text, piece by piece; the session itself stays as it is.

    The text begins where the session stands now, also when the first piece is asked for later. With
    bytes as tokens only those are drawn that keep the text valid UTF-8, and no character is begun
    that would not fit; with other tokens, what is no UTF-8 becomes U+FFFD. Where the prompt ends
    inside a character, the first piece finishes it.

    Args:
        session: What was read so far.
        sampling: How tokens are drawn.
        max_bytes: The text ends before it would be longer.
        seed: The same seed gives the same text.
        stop: The text ends before any of these.
        raw: Draw from all tokens, and yield their bytes as they are.

    Returns:
        Pieces of whole characters, or of any bytes when `raw`.

    Raises:
        ConfigError: `max_bytes` or `seed` is below 0, or a stop string is empty.
        StreamError: While iterating: the model's logits are no numbers.
    """
    for name, value in (("max_bytes", max_bytes), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}: it must be 0 or more")
    pieces = _pieces(session.fork(), sampling, max_bytes, seed, raw)
    return _until_stop(pieces, StopFilter(list(stop)))


def _until_stop(pieces: Iterator[bytes], filtered: StopFilter) -> Iterator[bytes]:
    for piece in pieces:
        if shown := filtered.feed(piece):
            yield shown
        if filtered.stopped:
            return
    if rest := filtered.rest():
        yield rest


def _pieces(
    session: Session, sampling: Sampling, max_bytes: int, seed: int, raw: bool
) -> Iterator[bytes]:
    """Yield whole characters, or the bytes of each token when `raw`; alters the session."""
    rng = torch.Generator().manual_seed(seed)
    tokenizer = session.tokenizer
    so_far = tokenizer.decode(session.history[-3:])
    characters = None if raw else WholeCharacters(so_far)
    constraint = None
    if tokenizer.name == ByteTokenizer.name and not raw:
        constraint = Utf8Constraint(so_far)
        if constraint.pending > max_bytes:
            return
    bytes_left, token = max_bytes, 0
    # A token has a byte or more, or is a special one that has none: this bounds those as well.
    for num_drawn in range(max_bytes):
        if num_drawn:
            session.step(token)
        logits = session.logits.float().cpu()
        if constraint is not None:  # each token is a byte
            logits = logits.masked_fill(~constraint.allowed(max_bytes - num_drawn), -math.inf)
        token = sample(logits, sampling, rng, session.history)
        if constraint is not None:
            constraint.advance(token)
        piece = tokenizer.token_bytes(token)
        if characters is not None:
            piece = characters.feed(piece)
        bytes_left -= len(piece)
        if bytes_left < 0:
            return
        if piece:
            yield piece
        if bytes_left == 0:
            return
