"""A text in the making: read a prompt, look at what may come, go on, fork, put away."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharnn.checkpoint.format import load_tensors, save_tensors
from sharnn.config import to_dict
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import atomic_folder, read_json, sha256_of_file, write_json
from sharnn.generation.decoder import Decoder, make_decoder
from sharnn.generation.packed_weights import STORED
from sharnn.generation.sampling import PENALTY_TOKENS
from sharnn.model import LanguageModel, RecurrentState
from sharnn.text import Tokenizer

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
        self._settings = _decoder_settings(model, dtype, memory_dtype)
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
        other._settings = self._settings
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


def join_decoders(sessions: Sequence[Session]) -> Decoder:
    """Return one decoder with a lane for each session, in order; the sessions stay as they are.

    It shares the first session's weights.

    Raises:
        ConfigError: No session is given, or they are of different models, or do not decode alike.
    """
    if not sessions:
        raise ConfigError("no session was given: give at least one to go on from")
    first = sessions[0]
    for index, session in enumerate(sessions):
        if session.model is not first.model:
            raise ConfigError(
                f"session {index} is of another model than session 0: load the model once and make "
                "all sessions with it"
            )
        for name, value in first._settings.items():
            if session._settings[name] != value:
                raise ConfigError(
                    f"session {index} has {name} {session._settings[name]} and session 0 has "
                    f"{value}: make all sessions with the same"
                )
    decoder = first._decoder.fork()
    if len(sessions) > 1:
        # A session may stand here many times; its memory is copied out once.
        states = {id(session): session._decoder.state() for session in sessions}
        decoder.load(RecurrentState.join([states[id(session)] for session in sessions]))
    return decoder


def _decoder_settings(
    model: LanguageModel, dtype: str | None, memory_dtype: str | None
) -> dict[str, object]:
    """Return what decoders of one model must have alike to step together."""
    weights = model.embedding.weight.dtype if dtype is None else STORED[dtype]
    rows = weights if memory_dtype is None else STORED[memory_dtype]
    return {"window": model.typed_blocks[0].window, "dtype": weights, "memory dtype": rows}


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
