"""A text in the making: read a prompt, look at what may come, go on, fork, put away."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharnn.checkpoint.format import load_tensors, save_tensors
from sharnn.config import to_dict
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import atomic_folder, read_json, sha256_of_file, write_json
from sharnn.generate.decoder import make_decoder
from sharnn.generate.sampling import PENALTY_TOKENS, Sampling, sample
from sharnn.generate.stream import StopFilter, Utf8Constraint
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import ByteTokenizer, Tokenizer

_SESSION, _STATE = "session.json", "state.safetensors"


class Session:
    """One lane of a model and what it has read.

    A new session has read the tokenizer's start token: a text begins as if after a line's end.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.

    Attributes:
        logits: Of the next token, `[V]`.
        num_tokens: Tokens read so far.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.reset()

    def reset(self) -> None:
        """Forget everything that was read."""
        self._decoder = make_decoder(self.model)
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
        """Read one token; return the logits of the next, `[V]`."""
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

    def save(self, folder: Path) -> None:
        """Write the session to a folder, whole or not at all.

        Raises:
            CheckpointError: It cannot be written.
        """
        with atomic_folder(folder, CheckpointError) as partial:
            tensors = {**self._decoder.state().to_tensors(), "logits": self.logits}
            save_tensors(partial / _STATE, tensors)
            facts = {
                "model": model_digest(self.model),
                "window": self.model.typed_blocks[0].window,
                "history": list(self._history),
                "num_tokens": self.num_tokens,
                "state": sha256_of_file(partial / _STATE),
            }
            write_json(partial / _SESSION, facts, CheckpointError)

    @classmethod
    def load(cls, folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> Session:
        """Return the session in a folder.

        Raises:
            CheckpointError: There is none, it is damaged, or it is another model's.
        """
        facts = read_json(folder / _SESSION, CheckpointError)
        if not isinstance(facts, dict) or "model" not in facts:
            raise CheckpointError(f"{folder / _SESSION} is no session")
        if facts["model"] != model_digest(model):
            raise CheckpointError(
                f"{folder} is the session of another model: load the model that it was saved with"
            )
        if not (folder / _STATE).is_file() or sha256_of_file(folder / _STATE) != facts["state"]:
            raise CheckpointError(f"{folder / _STATE} is missing, truncated or was altered")
        tensors = load_tensors(folder / _STATE, model.device)
        session = cls(model, tokenizer)
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
    """Return a SHA-256 of a model's settings and weights."""
    digest = hashlib.sha256(json.dumps(to_dict(model.config), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def generate(
    session: Session,
    sampling: Sampling,
    max_bytes: int,
    seed: int = 0,
    stop: Sequence[str] = (),
    raw: bool = False,
) -> Iterator[bytes]:
    """Continue a session's text, piece by piece; the session itself stays as it is.

    Args:
        session: What was read so far.
        sampling: How tokens are drawn.
        max_bytes: The text ends before it would be longer.
        seed: The same seed gives the same text.
        stop: The text ends before any of these.
        raw: With bytes as tokens, also draw what makes no valid UTF-8.

    Yields:
        Pieces of whole characters, or of any bytes when `raw`.

    Raises:
        ConfigError: `max_bytes` is below 0, or a stop string is empty.
    """
    if max_bytes < 0:
        raise ConfigError(f"max_bytes is {max_bytes}: it must be 0 or more")
    filtered = StopFilter(list(stop))
    for piece in _pieces(session.fork(), sampling, max_bytes, seed, raw):
        shown = filtered.feed(piece)
        if shown:
            yield shown
        if filtered.stopped:
            return
    if rest := filtered.rest():
        yield rest


def _pieces(
    session: Session, sampling: Sampling, bytes_left: int, seed: int, raw: bool
) -> Iterator[bytes]:
    """Yield whole characters (or tokens) until no more bytes are left."""
    rng = torch.Generator().manual_seed(seed)
    tokenizer = session.tokenizer
    constraint = None
    if tokenizer.name == ByteTokenizer.name and not raw:
        constraint = Utf8Constraint(tokenizer.decode(session.history[-3:]))
        if constraint.pending > bytes_left:
            return
    character = b""
    while bytes_left > 0:
        logits = session.logits.float().cpu()
        if constraint is not None:
            logits = logits.masked_fill(~constraint.allowed(bytes_left), float("-inf"))
        token = sample(logits, sampling, rng, session.history)
        piece = tokenizer.token_bytes(token)
        if len(piece) > bytes_left:
            return
        bytes_left -= len(piece)
        character += piece
        if constraint is not None:
            constraint.advance(token)
        if constraint is None or constraint.pending == 0:
            yield character
            character = b""
        session.step(token)
