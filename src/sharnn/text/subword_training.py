"""Training of subword models on units, with the library `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from sharnn.errors import ConfigError, DataError
from sharnn.text.alphabet import ALPHABET, to_characters

KINDS = ("bpe", "wordpiece", "unigram")
#: Prefix of a WordPiece token that continues a unit. The usual `##` consists of characters of the
#: alphabet, so that `##a` could be three bytes or one; this character is outside it.
CONTINUING = "‿"
#: A pair of pieces that occurs only once gets no token.
_MIN_FREQUENCY = 2
#: Decimals kept of a log-probability.
_DECIMALS = 6


def import_library() -> ModuleType:
    """Return the package `tokenizers`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import tokenizers
    except ImportError as failure:
        raise ConfigError(
            "subword tokenizers need the package 'tokenizers', which is not installed: "
            "pip install 'sharnn[subword]'"
        ) from failure
    return tokenizers


def train_model(kind: str, counts: Mapping[bytes, int], vocab_size: int) -> dict[str, Any]:
    """Return a trained model as the library's JSON; tokens 0 … 255 are the bytes in order.

    BPE (Sennrich, Haddow, Birch 2016) repeatedly merges the most frequent pair of pieces. The library
    trains WordPiece in the same way, but distinguishes pieces that begin a unit from pieces that continue
    one. Unigram (Kudo 2018) starts with all pieces that occur in at least two different units, fits their
    probabilities by EM, and drops the pieces whose loss lowers the likelihood least. Its sums have no
    fixed order, so two trainings may differ in a few of the last pieces. BPE and WordPiece are
    deterministic.

    Args:
        kind: One of `KINDS`.
        counts: How often each unit occurs.
        vocab_size: Exact number of tokens.

    Raises:
        ConfigError: The size is too small, the kind is unknown, or the library is not installed.
        DataError: The text gives fewer tokens.
    """
    library = import_library()
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of subwords '{kind}': give one of {', '.join(KINDS)}")
    singles = _single_bytes(kind)
    if vocab_size <= len(singles):
        raise ConfigError(
            f"a vocabulary of {vocab_size:,} tokens is too small: {kind} has {len(singles)} tokens of "
            "one byte, so that nothing is unknown, and needs more than these"
        )
    tokenizer, trainer = _untrained(library, kind, vocab_size)
    tokenizer.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(_repeated(counts), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if len(model["vocab"]) != vocab_size:
        raise DataError(
            f"a vocabulary of {vocab_size:,} tokens is more than this text fills: it gives "
            f"{len(model['vocab']):,} tokens of {kind} at most"
        )
    model["vocab"] = _in_order(model["vocab"], singles)
    return model


def _single_bytes(kind: str) -> list[str]:
    """Return the tokens of one byte; for WordPiece also those that continue a unit."""
    continuing = [CONTINUING + character for character in ALPHABET]
    return [*ALPHABET, *(continuing if kind == "wordpiece" else ())]


def _untrained(library: ModuleType, kind: str, vocab_size: int) -> tuple[Any, Any]:
    """Return the library's tokenizer and trainer of a kind."""
    models, trainers = library.models, library.trainers
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "initial_alphabet": ALPHABET,
        "show_progress": False,
    }
    if kind == "bpe":
        trainer = trainers.BpeTrainer(**common, min_frequency=_MIN_FREQUENCY)
        return library.Tokenizer(models.BPE()), trainer
    if kind == "unigram":
        return library.Tokenizer(models.Unigram()), trainers.UnigramTrainer(**common)
    # As special tokens, the continuing bytes are in the vocabulary even if the text does not have them,
    # and get the same numbers in every training.
    trainer = trainers.WordPieceTrainer(
        **common,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=_single_bytes(kind)[len(ALPHABET) :],
        continuing_subword_prefix=CONTINUING,
    )
    return library.Tokenizer(models.WordPiece(unk_token=ALPHABET[0])), trainer


def _repeated(counts: Mapping[bytes, int]) -> Iterator[str]:
    """Yield each unit as often as it occurs, separated by spaces: the library takes no counts."""
    for unit, count in sorted(counts.items()):
        yield f"{to_characters(unit)} " * count


def _in_order(vocab: Any, singles: list[str]) -> Any:
    """Return the library's vocabulary with the tokens of one byte first; the others keep their order.

    Unigram's others are sorted by score.
    """
    first = set(singles)
    if isinstance(vocab, list):  # Unigram's: pieces with scores
        scores = {piece: round(score, _DECIMALS) for piece, score in vocab}
        others = sorted(scores.keys() - first, key=lambda piece: (-scores[piece], piece))
        return [[piece, scores[piece]] for piece in [*singles, *others]]
    others = sorted(vocab.keys() - first, key=vocab.__getitem__)
    return {piece: token for token, piece in enumerate([*singles, *others])}
