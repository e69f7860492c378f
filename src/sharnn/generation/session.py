"""Sessions: read a prompt, get the next token's logits, continue, fork, save and load."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from sharnn.kernels.table import TOKEN_BITS
from sharnn.model import LanguageModel, RecurrentState
from sharnn.model.state import NO_TOKEN
from sharnn.text import Tokenizer

_SESSION, _STATE = "session.json", "state.safetensors"
_FORMAT = 2


@dataclass(frozen=True)
class _Settings:
    """What a session begins with and keeps, whatever its model is set to later.

    Attributes:
        dtype: Of the weights in decoding; None for the model's.
        memory_dtype: Of the attention memory; None for that of the weights.
        window: Rows that a position reaches.
        recall_slots: Of each table of recall; 0 without recall.
    """

    dtype: str | None
    memory_dtype: str | None
    window: int
    recall_slots: int

    def compared(self, model: LanguageModel) -> dict[str, object]:
        """Return the settings that sessions must share to step together, by name."""
        weights = model.embedding.weight.dtype if self.dtype is None else STORED[self.dtype]
        rows = weights if self.memory_dtype is None else STORED[self.memory_dtype]
        return {
            "window": self.window,
            "dtype": weights,
            "memory dtype": rows,
            "recall slots": self.recall_slots,
        }


class Session:
    """One lane of a model and the text it has read.

    A new session has read the tokenizer's start token, so a text begins as if after the end of a line.

    Args:
        model: In evaluation mode.
        tokenizer: The model's tokenizer.
        dtype: Dtype of the weights in decoding: `fp32`, `bf16` or `int8`; None keeps the model's.
        memory_dtype: Dtype of the attention memory, likewise; None uses that of the weights.

    Raises:
        ConfigError: The model is in training mode or can't be decoded with that dtype, or the tokenizer
            has another vocabulary.

    Attributes:
        logits: Logits of the next token, `[V]`.
        num_tokens: Tokens read so far, without the start token.
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
                f"{model.config.vocab_size}: give the tokenizer the model was trained with"
            )
        self.model, self.tokenizer = model, tokenizer
        self._begin(_Settings(dtype, memory_dtype, model.window, model.config.recall_slots))

    def _begin(self, settings: _Settings) -> None:
        self._settings = settings
        self._decoder = make_decoder(
            self.model,
            dtype=settings.dtype,
            memory_dtype=settings.memory_dtype,
            window=settings.window,
        )
        self.reset()

    def reset(self) -> None:
        """Discard everything read; window, dtypes and size of recall's tables stay."""
        self._decoder.load(self.model.initial_state(1, self._settings.recall_slots))
        self._history: deque[int] = deque(maxlen=PENALTY_TOKENS)
        self.num_tokens = 0
        self.logits = self._decoder.step(self._as_tensor([self.tokenizer.start_token])[0])[0]

    def prefill(self, text: str | bytes) -> Tensor:
        """Read a text of any length; return the logits of the next token, `[V]`.

        Raises:
            DataError: It contains something that the tokenizer cannot encode.
        """
        tokens = self.tokenizer.encode(text).tolist()
        if tokens:
            self.logits = self._decoder.prefill(self._as_tensor(tokens))[0]
            self._remember(tokens)
        return self.logits

    def step(self, token: int) -> Tensor:
        """Read one token; return the logits of the next one, `[V]`.

        Raises:
            ConfigError: The token is not in the vocabulary.
        """
        if not 0 <= token < self.tokenizer.vocab_size:
            raise ConfigError(
                f"token {token} is outside the vocabulary of {self.tokenizer.vocab_size} tokens"
            )
        self.logits = self._decoder.step(self._as_tensor([token])[0])[0]
        self._remember([token])
        return self.logits

    @property
    def history(self) -> Sequence[int]:
        """The recent tokens to which a repetition penalty applies."""
        return list(self._history)

    def fork(self) -> Session:
        """Return an independent session with the same state."""
        other = object.__new__(Session)
        other.model, other.tokenizer = self.model, self.tokenizer
        other._decoder, other.logits = self._decoder.fork(), self.logits
        other._settings = self._settings
        other._history, other.num_tokens = self._history.copy(), self.num_tokens
        return other

    def save(self, folder: str | Path) -> None:
        """Write the session to a folder atomically, replacing an existing session.

        Raises:
            CheckpointError: It cannot be written, or the folder contains something else.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / _SESSION).is_file():
            raise CheckpointError(f"{folder} exists and is not a session: give another folder")
        with atomic_folder(folder, CheckpointError) as partial:
            tensors = {**self._decoder.state().to_tensors(), "logits": self.logits}
            save_tensors(partial / _STATE, tensors)
            facts = {
                "format": _FORMAT,
                "settings": asdict(self._settings),
                "model": _digest_of_model(self.model),
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
            CheckpointError: There is none, it is damaged, or it is of another model or tokenizer.
        """
        folder = Path(folder)
        facts = _read_facts(folder / _SESSION)
        first_format = facts["format"] == 1  # knew no settings
        same = facts["model"] == _digest_of_model(model, with_slots=first_format)
        if not same or facts["tokenizer"] != _digest_of_json(tokenizer.to_json()):
            raise CheckpointError(
                f"{folder} is a session of another {'tokenizer' if same else 'model'}: load the model "
                "folder with which it was created"
            )
        state = folder / _STATE
        if not state.is_file() or sha256_of_file(state) != facts["state"]:
            raise CheckpointError(
                f"{state} is missing, truncated or was altered: save the session again"
            )
        session = cls(model, tokenizer)
        if not first_format:
            session._begin(_Settings(**facts["settings"]))
        tensors = load_tensors(state, model.device)
        known = all(0 <= token < tokenizer.vocab_size for token in facts["history"])
        if not known or not session._fits(tensors):
            raise CheckpointError(
                f"{folder} was altered: its state is not one of this model, save the session again"
            )
        session.logits = tensors.pop("logits")
        session._decoder.load(RecurrentState.from_tensors(tensors, model.config.num_layers))
        session._history.extend(facts["history"])
        session.num_tokens = facts["num_tokens"]
        return session

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether tensors from a file can be this session's state: kernels do not check them."""
        expected = {**self._decoder.state().to_tensors(), "logits": self.logits}
        if tensors.keys() != expected.keys():
            return False
        vocab_size = self.tokenizer.vocab_size
        for name, tensor in tensors.items():
            own, shape = expected[name], list(tensor.shape)
            if name.endswith(".memory") and tensor.dim() == 3:
                shape[1] = own.shape[1]
                num_rows, lengths = tensor.shape[1], tensors[name.replace(".memory", ".lengths")]
                if num_rows > self._settings.window or not (lengths <= num_rows).all():
                    return False
            if shape != list(own.shape) or tensor.is_floating_point() != own.is_floating_point():
                return False
            if name == "recent" and not ((tensor >= NO_TOKEN) & (tensor < vocab_size)).all():
                return False
            if name == "slots":  # two followers of each n-gram, counted from 1
                mask = (1 << TOKEN_BITS) - 1
                later, earlier = tensor >> TOKEN_BITS & mask, tensor & mask
                if not ((tensor >= 0) & (later <= vocab_size) & (earlier <= vocab_size)).all():
                    return False
        return True

    def _remember(self, tokens: Sequence[int]) -> None:
        self._history.extend(tokens)
        self.num_tokens += len(tokens)

    def _as_tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.model.device)


def join_decoders(sessions: Sequence[Session]) -> Decoder:
    """Return one decoder with a lane for each session, in order; the sessions are not changed.

    It shares the first session's weights.

    Raises:
        ConfigError: There is no session, or sessions have different models, windows or dtypes.
    """
    if not sessions:
        raise ConfigError("no session was given: give at least one to continue from")
    first = sessions[0]
    for index, session in enumerate(sessions):
        if session.model is not first.model:
            raise ConfigError(
                f"session {index} has another model than session 0: load the model once and create all "
                "sessions with it"
            )
        others = session._settings.compared(session.model)
        for name, value in first._settings.compared(first.model).items():
            if others[name] != value:
                raise ConfigError(
                    f"session {index} has {name} {others[name]} and session 0 has {value}: create all "
                    f"sessions with the same {name}"
                )
    decoder = first._decoder.fork()
    if len(sessions) > 1:
        # A session may be given several times; its memory is copied once.
        states = {id(session): session._decoder.state() for session in sessions}
        decoder.load(RecurrentState.join([states[id(session)] for session in sessions]))
    return decoder


def _digest_of_model(model: LanguageModel, with_slots: bool = False) -> str:
    """Return the SHA-256 of a model's weights and settings, but for the slots that a session owns."""
    config = to_dict(model.config)
    if not with_slots:
        del config["recall_slots"]
    digest = hashlib.sha256(_digest_of_json(config).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_of_json(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read_facts(path: Path) -> dict[str, Any]:
    """Return what `Session.save` wrote, after checking the type of every value."""
    facts = read_json(path, CheckpointError)
    types = {"format": int, "model": str, "tokenizer": str, "num_tokens": int, "state": str}
    if not isinstance(facts, dict) or not all(
        isinstance(facts.get(k), t) for k, t in types.items()
    ):
        raise CheckpointError(f"{path} is not a session, or was altered: give a session's folder")
    if facts["format"] not in (1, _FORMAT):
        raise CheckpointError(
            f"{path} has format {facts['format']}, but this version of sharnn reads format {_FORMAT}: "
            "use the version that wrote it"
        )
    if facts["num_tokens"] < 0:
        raise CheckpointError(f"{path} was altered: it has read {facts['num_tokens']} tokens")
    history = facts.get("history")
    if not isinstance(history, list) or not all(isinstance(token, int) for token in history):
        raise CheckpointError(
            f"{path} was altered: its history is not a list of tokens, save the session again"
        )
    if facts["format"] > 1 and not _are_settings(facts.get("settings")):
        raise CheckpointError(
            f"{path} was altered: its settings are not those of a session, save the session again"
        )
    return facts


def _are_settings(values: Any) -> bool:
    dtypes, counts = ("dtype", "memory_dtype"), ("window", "recall_slots")
    return (
        isinstance(values, dict)
        and values.keys() == {*dtypes, *counts}
        and all(values[name] in (None, *STORED) for name in dtypes)
        and all(type(values[name]) is int and 0 <= values[name] < 1 << 31 for name in counts)
    )
