"""`sharnn generate`: continue a text."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import (
    DEVICE,
    WINDOW,
    add_model,
    chosen_model,
    error_console,
    make_parser,
    naming_options,
)
from sharnn.errors import INTERRUPTED, CheckpointError, ConfigError, DataError
from sharnn.files import explain_os_error

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.cli.parser import VerbParser
    from sharnn.generation import Sampling, Session

HELP = "continue a text"

_DESCRIPTION = """\
Continue a prompt with MODEL (default: 'base', which comes with sharnn). The prompt is that of --prompt or
--prompt-file, or standard input if that is a pipe or file; without one, the text begins from nothing. The
same seed gives the same text. Standard output gets the prompt, the text and a line break, with --raw only
the bytes. Several samples are drawn in parallel, which takes far less time than one after another, and
written in order."""

_EXAMPLES = """\
examples:
  sharnn generate --prompt "The history of"
  sharnn generate runs/mine --prompt "The " --max-bytes 200 --seed 3
  sharnn generate runs/mine --temperature 0.7 --top-p 0.95 --num-samples 3
  cat chapter.txt | sharnn generate runs/mine --stop $'\\n\\n'"""

#: Samples that are drawn in parallel at most; each needs an attention memory.
_TOGETHER = 64

#: The options that give arguments of the library, for its messages.
_ARGUMENTS = {
    name: f"--{name.replace('_', '-')}"
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_bytes")
}


def run(argv: list[str]) -> int:
    """Parse, read the prompt, and write samples as they are drawn."""
    options = _parser().parse_args(argv)
    _check(options)
    with naming_options(_ARGUMENTS):
        return _run(options)


def _run(options: Namespace) -> int:
    from sharnn.generation import Sampling, Session

    sampling = Sampling(
        options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty
    )
    model = _model(options.model)
    prompt = _prompt(options)
    from sharnn.checkpoint import load_model
    from sharnn.train import resolve_device

    loaded = load_model(model, resolve_device(options.device))
    if options.window is not None:
        loaded.model.set_window(options.window)
    session = Session(loaded.model, loaded.tokenizer, options.dtype, options.memory_dtype)
    session.prefill(prompt)
    # A model of another encoding has not learnt UTF-8, and its own accents are not valid.
    any_bytes = options.raw or not loaded.writes_utf8
    try:
        for first in range(0, options.num_samples, _TOGETHER):
            indices = range(first, min(first + _TOGETHER, options.num_samples))
            samples = _Samples(session, sampling, options, indices, any_bytes)
            for index in indices:
                _write_sample(samples, prompt, options, index)
        sys.stdout.flush()
    except KeyboardInterrupt:  # keep what is written, without a message
        with contextlib.suppress(OSError):
            _end_line(options)
            sys.stdout.flush()
        return INTERRUPTED
    return 0


def _model(given: str | None) -> str | Path:
    """Return MODEL, or the shipped model if none was given.

    Raises:
        CheckpointError: There is no such model (the argument may be meant as the prompt).
    """
    from sharnn.checkpoint import is_model

    if given is not None and not is_model(given) and not os.path.exists(given):
        raise CheckpointError(
            f"there is no model at {given}: give a model folder, a run folder or 'base'; a text to "
            "continue goes after --prompt"
        )
    return chosen_model(given, error_console())


def _check(options: Namespace) -> None:
    """Check numbers, and options that exclude each other.

    Raises:
        ConfigError: The message names the option and what to do.
    """
    if len(options.prompt or []) > 1:
        raise ConfigError("--prompt was given more than once: join the texts")
    for first, second in (("prompt", "prompt_file"), ("raw", "json")):
        if options[first] and options[second]:
            names = f"--{first} and --{second.replace('_', '-')}"
            raise ConfigError(f"{names} were both given: leave one out")
    for name, least in {"max_bytes": 0, "num_samples": 1, "seed": 0}.items():
        if options[name] < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is {options[name]}: it must be at least {least}")
    if options.num_samples > 1 and options.temperature == 0:
        raise ConfigError(
            f"--num-samples is {options.num_samples} and --temperature 0: all would be the same, leave "
            "one out"
        )


def _parser() -> VerbParser:
    parser = make_parser("generate", "[MODEL] [--prompt TEXT] [options]", _DESCRIPTION, _EXAMPLES)
    add_model(parser)
    parser.add_options({
        "--prompt": ([], "text to continue", "TEXT"),
        "--prompt-file": (str, "file with the text to continue, - for standard input", "FILE"),
        "--stop": ([], "end a sample before this text; can be repeated", "TEXT"),
        "--max-bytes": (500, "maximum number of bytes to add"),
        "--temperature": (0.8, "0 takes the most likely token, 1 samples the model's distribution"),
        "--top-k": (int, "sample from the k most likely tokens"),
        "--top-p": (float, "sample from the most likely tokens that sum up to p"),
        "--min-p": (float, "sample from tokens with at least p times the largest probability"),
        "--repetition-penalty": (1.0, "above 1 makes repetition less likely"),
        "--seed": (0, "sample i has this seed plus i"),
        "--num-samples": (1, "samples of the same prompt"),
        **WINDOW,
        **DEVICE,
        "--dtype": (str, "weights as fp32, bf16 or int8: less memory, faster steps (default: fp32)"),
        "--memory-dtype": (str, "attention memory likewise (default: as --dtype)"),
        "--raw": (False, "allow bytes that are not valid UTF-8 (default: if MODEL was trained on such)"),
        "--json": (False, "print a JSON object for each sample"),
    })  # fmt: skip
    return parser


def _prompt(options: Namespace) -> bytes:
    if options.prompt:
        return str(options.prompt[0]).encode("utf-8", "surrogateescape")
    from sharnn.data.encoding import as_utf8

    file = options.prompt_file
    if file is not None and file != "-":
        try:
            return as_utf8(Path(file).read_bytes())
        except OSError as failure:
            raise DataError(explain_os_error(failure, Path(file), "read")) from failure
    if sys.stdin is None or (sys.stdin.isatty() and file is None):
        return b""
    return as_utf8(sys.stdin.buffer.read())


class _Samples:
    """Samples that are drawn in parallel and written in order, the first of them as it is drawn.

    Args:
        session: The session that read the prompt.
        sampling: How tokens are drawn.
        options: The options of the verb.
        indices: The numbers of the samples; each has a seed of its own.
        any_bytes: Whether bytes that are not valid UTF-8 may be drawn.

    Attributes:
        seconds: Time until the end of each sample, by its number.
    """

    def __init__(
        self,
        session: Session,
        sampling: Sampling,
        options: Namespace,
        indices: range,
        any_bytes: bool,
    ) -> None:
        from sharnn.generation import generate_together

        self.seconds: dict[int, float] = {}
        self._indices = indices
        self._waiting = {index: bytearray() for index in indices}
        self._started = time.perf_counter()
        seeds = [options.seed + index for index in indices]
        self._drawn = generate_together(
            [session] * len(seeds),
            sampling,
            options.max_bytes,
            seeds,
            options.stop or [],
            any_bytes,
        )

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield one sample's text in pieces; pieces of the others are kept until their turn."""
        waiting = self._waiting[index]
        while waiting or index not in self.seconds:
            if waiting:
                text = bytes(waiting)
                waiting.clear()
                yield text
                continue
            place, piece = next(self._drawn)
            if piece:
                self._waiting[self._indices[place]] += piece
            else:
                self.seconds[self._indices[place]] = time.perf_counter() - self._started


def _write_sample(samples: _Samples, prompt: bytes, options: Namespace, index: int) -> None:
    out, num_bytes, text = sys.stdout.buffer, 0, b""
    if not options.json:
        if index:
            out.write(b"\n" + b"-" * 20 + b"\n")
        out.write(prompt)
    for piece in samples.pieces(index):
        num_bytes += len(piece)
        if options.json:
            text += piece
        else:
            out.write(piece)
            out.flush()
    seed, rate = options.seed + index, num_bytes / max(samples.seconds[index], 1e-9)
    if options.json:
        whole, begun = _whole_characters(prompt)
        facts = {
            "prompt": whole,
            "text": (begun + text).decode(errors="replace"),
            "seed": seed,
            "num_bytes": num_bytes,
            "bytes_per_second": round(rate, 1),
        }
        print(json.dumps(facts), flush=True)
        return
    _end_line(options)
    console = error_console()
    if console.is_terminal:
        console.print(f"[dim]{num_bytes} bytes, {rate:,.0f} bytes/s, seed {seed}[/dim]")


def _whole_characters(prompt: bytes) -> tuple[str, bytes]:
    """Return the prompt's whole characters, and the bytes of a character that it only begins."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(prompt), decoder.getstate()[0]


def _end_line(options: Namespace) -> None:
    """Write a line break, except after JSON and after raw bytes in a file or pipe."""
    if not options.json and (not options.raw or sys.stdout.isatty()):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
