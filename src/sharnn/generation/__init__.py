"""Text generation: sessions, sampling, streaming and token-by-token decoding."""

from sharnn.generation.decoder import Decoder, ForwardDecoder, RingDecoder, make_decoder
from sharnn.generation.sampling import Sampling, sample, sample_together
from sharnn.generation.segments import SegmentReader, scoring_reader
from sharnn.generation.session import Session
from sharnn.generation.text import generate, generate_together

__all__ = [
    "Decoder",
    "ForwardDecoder",
    "RingDecoder",
    "Sampling",
    "SegmentReader",
    "Session",
    "generate",
    "generate_together",
    "make_decoder",
    "sample",
    "sample_together",
    "scoring_reader",
]
