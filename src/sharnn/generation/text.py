"""From sessions to texts: several are drawn at once, so that one reading of the weights serves all.

Legend: B lanes, one for each text that goes on · V vocab_size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharnn.errors import ConfigError
from sharnn.generation.decoder import Decoder
from sharnn.generation.sampling import PENALTY_TOKENS, Sampling, sample_together
from sharnn.generation.session import Session, join_decoders
from sharnn.generation.stream import StopFilter, Utf8Constraint, WholeCharacters
from sharnn.text import ByteTokenizer


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
    drawn = generate_together([session], sampling, max_bytes, [seed], stop, raw)
    return (piece for _, piece in drawn if piece)


def generate_together(
    sessions: Sequence[Session],
    sampling: Sampling,
    max_bytes: int,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    raw: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """Continue the texts of several sessions of one model at once; the sessions stay as they are.

    Each text is the one that `generate` draws from its session with its seed; they can part only
    where rounding decides, as products for several lanes may add in another order. A text that has
    ended takes no more time. The attention memories of all texts are held at once.

    Args:
        sessions: What was read so far; one may stand here several times.
        sampling: How tokens are drawn.
        max_bytes: Each text ends before it would be longer.
        seeds: One for each session.
        stop: A text ends before any of these.
        raw: Draw from all tokens, and yield their bytes as they are.

    Returns:
        Pieces as they come, each with its session's place; an empty one says that a text has ended.

    Raises:
        ConfigError: `max_bytes` or a seed is below 0, a stop string is empty, there is no session or
            not one seed for each, or sessions are of different models or do not decode alike.
        StreamError: While iterating: the model's logits are no numbers.
    """
    if len(seeds) != len(sessions):
        raise ConfigError(f"{len(sessions)} sessions and {len(seeds)} seeds: give one for each")
    for name, value in (("max_bytes", max_bytes), *(("seed", seed) for seed in seeds)):
        if value < 0:
            raise ConfigError(f"{name} is {value}: it must be 0 or more")
    if seeds and max(seeds) >= 1 << 63:
        raise ConfigError(f"seed is {max(seeds)}: it must be below 2 ** 63")
    decoder = join_decoders(sessions)
    logits_BV = torch.stack([session.logits for session in sessions])
    texts = [
        _Text(session, max_bytes, seed, stop, raw)
        for session, seed in zip(sessions, seeds, strict=True)
    ]
    return _draw_all(decoder, logits_BV, sampling, texts)


def _draw_all(
    decoder: Decoder, logits_BV: Tensor, sampling: Sampling, texts: Sequence[_Text]
) -> Iterator[tuple[int, bytes]]:
    """Yield pieces until all texts have ended; lane by lane, decoder and logits are theirs."""
    device, begun = logits_BV.device, False
    going = list(enumerate(texts))
    while True:
        yield from ((index, b"") for index, text in going if text.done)
        lanes = [lane for lane, (_, text) in enumerate(going) if not text.done]
        if not lanes:
            return
        if len(lanes) < len(going):
            decoder.load(decoder.state().select(lanes))
            logits_BV, going = logits_BV[lanes], [going[lane] for lane in lanes]
        if begun:
            tokens_B = torch.tensor([text.token for _, text in going], device=device)
            logits_BV = decoder.step(tokens_B)
        begun = True
        tokens = _draw_tokens(logits_BV, sampling, [text for _, text in going])
        for (index, text), token in zip(going, tokens, strict=True):
            if piece := text.take(token):
                yield index, piece


def _draw_tokens(logits_BV: Tensor, sampling: Sampling, texts: Sequence[_Text]) -> list[int]:
    """Return a token for each text.

    Raises:
        StreamError: The logits are no numbers.
    """
    logits_BV = logits_BV.float().cpu()
    allowed = [text.allowed() for text in texts]
    if allowed[0] is not None:  # of one tokenizer, and all raw or none
        allowed_BV = torch.stack([row for row in allowed if row is not None])
        logits_BV = logits_BV.masked_fill(~allowed_BV, -math.inf)
    rngs, histories = [text.rng for text in texts], [text.history for text in texts]
    return sample_together(logits_BV, sampling, rngs, histories)


class _Text:
    """One text in the making: drawn tokens go in, bytes to show come out.

    Args:
        session: What it continues; nothing of it is altered.
        max_bytes: Bytes to show at most.
        seed: Of the draws.
        stop: Strings that end it and are not part of it.
        raw: Draw from all tokens, and show their bytes as they are.

    Raises:
        ConfigError: A stop string is empty.

    Attributes:
        done: Whether nothing more comes.
        token: Drawn last, and to be read before the next can be drawn.
        rng: What its draws come from.
        history: Its latest tokens, as many as a repetition penalty looks at.
    """

    def __init__(
        self,
        session: Session,
        max_bytes: int,
        seed: int,
        stop: Sequence[str],
        raw: bool,
    ) -> None:
        self.token = session.tokenizer.start_token
        self._tokenizer = session.tokenizer
        self.rng = torch.Generator().manual_seed(seed)
        self._history = deque(session.history, maxlen=PENALTY_TOKENS)
        # A token has a byte or more, or is a special one that has none: draws are bounded as well.
        self._bytes_left = self._draws_left = max_bytes
        self._filter = StopFilter(list(stop))
        so_far = session.tokenizer.decode(session.history[-3:])
        self._characters = None if raw else WholeCharacters(so_far)
        self._constraint: Utf8Constraint | None = None
        if session.tokenizer.name == ByteTokenizer.name and not raw:
            self._constraint = Utf8Constraint(so_far)
        pending = 0 if self._constraint is None else self._constraint.pending
        self.done = max_bytes < max(pending, 1)

    @property
    def history(self) -> list[int]:
        """The tokens up to here."""
        return list(self._history)

    def allowed(self) -> Tensor | None:
        """Return `[V]`, True where a token may come next; None where any may."""
        if self._constraint is None:
            return None
        return self._constraint.allowed(self._draws_left)  # each token is a byte

    def take(self, token: int) -> bytes:
        """Add a token; return the bytes that can be shown now, often none."""
        self.token = token
        if self._constraint is not None:
            self._constraint.advance(token)
        self._history.append(token)
        self._draws_left -= 1
        piece = self._tokenizer.token_bytes(token)
        return self._show(piece if self._characters is None else self._characters.feed(piece))

    def _show(self, piece: bytes) -> bytes:
        """Return what may be shown once `piece` has come, and find out whether that is the end."""
        self._bytes_left -= len(piece)
        shown = self._filter.feed(piece) if self._bytes_left >= 0 else b""
        self.done = self._filter.stopped or self._bytes_left <= 0 or self._draws_left == 0
        return shown + self._filter.rest() if self.done else shown
