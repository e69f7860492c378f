"""Generating texts from sessions, several at once, so that the weights are read once for all of them.

Legend: B lanes, one for each unfinished text · V vocab_size.
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
    """Continue a session's text, piece by piece; the session itself is not changed.

    The text continues the session's state at the time of the call, even if the iteration starts later.
    With bytes as tokens, only bytes that keep the text valid UTF-8 are drawn, and no character is started
    that would not fit. With other tokens, invalid UTF-8 becomes U+FFFD. Where the prompt ends inside a
    character, the first piece completes it.

    Args:
        session: The text read so far.
        sampling: Sampling settings.
        max_bytes: Longest text, in bytes.
        seed: Random seed; the same seed gives the same text.
        stop: The text ends before any of these strings.
        raw: Draw from all tokens and yield their bytes unchanged.

    Returns:
        Pieces of whole characters, or of any bytes if `raw`.

    Raises:
        ConfigError: `max_bytes` or `seed` is out of range, or a stop string is empty.
        StreamError: During iteration: the largest logit is not finite.
    """
    drawn = generate_together([session], sampling, max_bytes, [seed], stop, raw)
    return (piece for _, piece in drawn if piece)


def generate_together(
    sessions: Sequence[Session],
    sampling: Sampling,
    max_bytes: int,
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    raw: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """Continue the texts of several sessions of one model at once; the sessions are not changed.

    Each text is the one that `generate` draws from its session with its seed. The two can differ only
    through rounding, since matrix products for several lanes may sum in another order. A finished text
    takes no more time. The attention memories of all texts are held at the same time.

    Args:
        sessions: The texts read so far; a session may be given several times.
        sampling: Sampling settings.
        max_bytes: Longest text, in bytes, for each session.
        seed: Random seed of each text, or one for each session.
        stop: A text ends before any of these strings.
        raw: Draw from all tokens and yield their bytes unchanged.

    Returns:
        Pieces in the order they are drawn, each with its session's index; an empty piece means that a
        text has ended.

    Raises:
        ConfigError: `max_bytes` or a seed is out of range, a stop string is empty, there is no session or
            not one seed for each, or sessions have different models, windows or dtypes.
        StreamError: During iteration: the largest logit is not finite.
    """
    stop = [stop] if isinstance(stop, str) else stop
    seeds = [seed] * len(sessions) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(sessions):
        raise ConfigError(
            f"there are {len(sessions)} sessions and {len(seeds)} seeds: give one seed for each session"
        )
    for name, value in (("max_bytes", max_bytes), *(("seed", each) for each in seeds)):
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
    """Yield pieces until all texts have ended; lane i of decoder and logits belongs to text i."""
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
        StreamError: The largest logit is not finite.
    """
    logits_BV = logits_BV.float().cpu()
    allowed = [text.allowed() for text in texts]
    if allowed[0] is not None:  # all texts have the same tokenizer and the same `raw`
        allowed_BV = torch.stack([row for row in allowed if row is not None])
        logits_BV = logits_BV.masked_fill(~allowed_BV, -math.inf)
    rngs, histories = [text.rng for text in texts], [text.history for text in texts]
    return sample_together(logits_BV, sampling, rngs, histories)


class _Text:
    """One text being generated: it takes drawn tokens and returns bytes to show.

    Args:
        session: The session that it continues; it is not changed.
        max_bytes: Most bytes to show.
        seed: Random seed.
        stop: Strings that end the text and are not part of it.
        raw: Draw from all tokens and show their bytes unchanged.

    Raises:
        ConfigError: A stop string is empty.

    Attributes:
        done: Whether the text has ended.
        token: The token drawn last, which must be read before the next one can be drawn.
        rng: Random generator of its draws.
        history: Its recent tokens, to which a repetition penalty applies.
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
        # Special tokens have no bytes, so the number of draws is bounded too.
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
        """The recent tokens."""
        return list(self._history)

    def allowed(self) -> Tensor | None:
        """Return `[V]`, True where a token may come next; None if all may."""
        if self._constraint is None:
            return None
        return self._constraint.allowed(self._draws_left)  # each token is a byte

    def take(self, token: int) -> bytes:
        """Add a token; return the bytes that can be shown now, possibly none."""
        self.token = token
        if self._constraint is not None:
            self._constraint.advance(token)
        self._history.append(token)
        self._draws_left -= 1
        piece = self._tokenizer.token_bytes(token)
        return self._show(piece if self._characters is None else self._characters.feed(piece))

    def _show(self, piece: bytes) -> bytes:
        """Return the bytes that can be shown after `piece`, and set `done`."""
        self._bytes_left -= len(piece)
        shown = self._filter.feed(piece) if self._bytes_left >= 0 else b""
        self.done = self._filter.stopped or self._bytes_left <= 0 or self._draws_left == 0
        return shown + self._filter.rest() if self.done else shown
