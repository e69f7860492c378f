"""Sampling: sessions, streams and the step path."""

from sharnn.generate.decoder import Decoder, ForwardDecoder, RingDecoder, make_decoder
from sharnn.generate.sampling import Sampling, sample
from sharnn.generate.session import Session
from sharnn.generate.text import generate, generate_together

__all__ = [
    "Decoder",
    "ForwardDecoder",
    "RingDecoder",
    "Sampling",
    "Session",
    "generate",
    "generate_together",
    "make_decoder",
    "sample",
]
