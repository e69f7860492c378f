"""The input of a step, computed by `embed.cpp`: embeddings of a token and its n-grams, and recall.

Legend: B lanes · D embed_dim · N earlier tokens used · O orders · S slots.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sharnn import kernels
from sharnn.kernels.table import NGRAM_DEFINITIONS
from sharnn.model import LanguageModel
from sharnn.model.ngrams import NgramEmbedding
from sharnn.model.recall import Recall

_SOURCE = Path(__file__).with_name("embed.cpp")
_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Ngrams(ctypes.Structure):
    _fields_ = (
        ("keys", _POINTER), ("tables", _POINTER),
        ("longest", _LONG), ("num_rows", _LONG), ("width", _LONG),
    )  # fmt: skip


class _Recall(ctypes.Structure):
    _fields_ = (
        ("tokens", _POINTER), ("gain", _POINTER), ("source", _POINTER), ("orders", _POINTER),
        ("num_orders", _LONG),
    )  # fmt: skip


class _Embedding(ctypes.Structure):
    _fields_ = (
        ("tokens", _POINTER), ("ngrams", _Ngrams), ("recall", _Recall),
        ("vocab_size", _LONG), ("dim", _LONG), ("looks_back", _LONG), ("kind", _LONG),
    )  # fmt: skip


def available(model: LanguageModel) -> bool:
    """Whether the kernel supports this model's tables, and the model uses n-grams or recall."""
    weight = model.embedding.weight
    looks_up = model.ngrams is not None or model.recall is not None
    takes = weight.device.type == "cpu" and weight.dtype in _KINDS
    return looks_up and takes and kernels.load(_SOURCE, *NGRAM_DEFINITIONS) is not None


class KernelEmbedding:
    """Equals `LanguageModel.embed` for one token per lane; any number of decoders can share it.

    It reads the model's own tables at their present addresses. Sums are float32 for tables of any dtype.
    """

    def __init__(self, model: LanguageModel) -> None:
        weight = model.embedding.weight
        self._kept: list[object] = []  # keeps alive what the pointers point to
        self._vocab_size, self._dim = weight.shape
        self._model = _Embedding(
            self._pointer(weight), self._ngrams(model.ngrams), self._recall(model.recall),
            self._vocab_size, self._dim, model.looks_back, _KINDS[weight.dtype],
        )  # fmt: skip
        library = kernels.load(_SOURCE, *NGRAM_DEFINITIONS)
        assert library is not None
        self._embed = library.embed
        self._embed.restype = _LONG

    def __call__(self, tokens_B: Tensor, recent_BN: Tensor, slots_BOS: Tensor | None) -> Tensor:
        """Return the first block's input, `[B, D]` in float32.

        Args:
            tokens_B: Tokens, int64.
            recent_BN: The last N tokens, updated in place: `tokens_B` is appended, the oldest dropped.
            slots_BOS: Tables of recall, updated in place; None where nothing is recalled.

        Raises:
            IndexError: A token is not in the vocabulary.
        """
        tokens_B = tokens_B.contiguous()
        h_BD = torch.empty(len(tokens_B), self._dim)
        slots, num_slots = (
            (None, 0) if slots_BOS is None else (slots_BOS.data_ptr(), slots_BOS.shape[2])
        )
        wrong = self._embed(
            ctypes.byref(self._model), _POINTER(tokens_B.data_ptr()), _POINTER(recent_BN.data_ptr()),
            _POINTER(slots), _POINTER(h_BD.data_ptr()), _LONG(len(tokens_B)), _LONG(num_slots),
        )  # fmt: skip
        if wrong >= 0:
            raise IndexError(
                f"token {int(tokens_B[wrong])} is outside the vocabulary of {self._vocab_size} tokens"
            )
        return h_BD

    def _ngrams(self, ngrams: NgramEmbedding | None) -> _Ngrams:
        if ngrams is None:
            return _Ngrams()
        pointers = [self._pointer(weight) for weight in ngrams.tables.parameters()]
        tables = (_POINTER * len(pointers))(*pointers)
        self._kept.append(tables)
        width = ngrams.dim // len(pointers)
        keys = self._pointer(ngrams.keys_NR)
        return _Ngrams(keys, ctypes.addressof(tables), ngrams.longest, ngrams.num_rows, width)

    def _recall(self, recall: Recall | None) -> _Recall:
        if recall is None:
            return _Recall()
        tensors = (
            recall.tokens.weight, recall.gain.float(), recall.source.weight.float(),
            torch.tensor(recall.orders),
        )  # fmt: skip
        pointers = [self._pointer(tensor) for tensor in tensors]
        return _Recall(*pointers, len(recall.orders))

    def _pointer(self, tensor: Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()
