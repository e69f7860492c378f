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
from typing import TYPE_CHECKING, Any

from sharnn.cli.common import (
    SHORT_FORMS,
    add_model,
    chosen_model,
    error_console,
    make_parser,
)
from sharnn.errors import CheckpointError, ConfigError, DataError
from sharnn.files import explain_os_error

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.generation import Sampling, Session

HELP = "continue a text"

_DESCRIPTION = """\
Continue a prompt with MODEL, or without MODEL with 'base', which comes with sharnn. The prompt is that of
--prompt, of --prompt-file, or standard input where something is piped in; without one the text begins
from nothing. The same seed gives the same text. Standard output gets the prompt, the text and a line's
end; with --raw the bytes and nothing after them. Several samples are drawn together, in far less time
than one after the other, and written in order."""

_EXAMPLES = """\
examples:
  sharnn generate --prompt "The history of"
  sharnn generate runs/mine --prompt "The " --max-bytes 200 --seed 3
  sharnn generate runs/mine --temperature 0.7 --top-p 0.95 --num-samples 3
  cat chapter.txt | sharnn generate runs/mine --stop $'\\n\\n'"""

#: What the shell gave for these is text, whatever it looks like.
_TEXT_OPTIONS = ("--prompt", "--stop")

#: Samples that are drawn together at most: each needs an attention memory of its own.
_TOGETHER = 64


def run(argv: list[str]) -> int:
    """Parse, read the prompt, and write samples as they come."""
    argv, texts = _take_texts(argv)
    options = _parser().parse_args(argv)
    if len(texts["--prompt"]) > 1:
        raise ConfigError("--prompt was given more than once: join the texts")
    if texts["--prompt"] and options.prompt_file:
        raise ConfigError("--prompt and --prompt-file were both given: leave one out")
    for name in ("max_bytes", "num_samples", "seed"):
        least = 1 if name == "num_samples" else 0
        if getattr(options, name) < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is {getattr(options, name)}: it must be {least} or more")
    from sharnn.generation import Sampling, Session

    _refuse_what_does_nothing(options)
    sampling = Sampling(
        options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty
    )
    model = _model(options.model)
    prompt = _prompt(texts["--prompt"], options.prompt_file)
    from sharnn.checkpoint import load_model
    from sharnn.train import resolve_device

    loaded = load_model(model, resolve_device(options.device))
    if options.window is not None:
        loaded.model.set_window(options.window)
    session = Session(loaded.model, loaded.tokenizer, options.dtype, options.memory_dtype)
    session.prefill(prompt)
    try:
        for first in range(0, options.num_samples, _TOGETHER):
            indices = range(first, min(first + _TOGETHER, options.num_samples))
            samples = _Samples(session, sampling, options, texts["--stop"], indices)
            for index in indices:
                _write_sample(samples, prompt, options, index)
        sys.stdout.flush()
    except KeyboardInterrupt:  # what was written stays, and that is all there is to say
        with contextlib.suppress(OSError):
            _end_line(options)
            sys.stdout.flush()
        return 130
    except BrokenPipeError:
        # The reader has left (`… | head`). What is still buffered must not be tried again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _model(given: str | None) -> str | Path:
    """Return MODEL, or what is taken where none was given.

    Raises:
        CheckpointError: It is no model, but may be meant as the prompt; or none is shipped.
    """
    from sharnn.checkpoint import is_model

    if given is not None and not is_model(given) and not os.path.exists(given):
        raise CheckpointError(
            f"there is no model at {given}: give a model folder, a run folder or 'base'; a text to "
            "continue goes after --prompt"
        )
    return chosen_model(given, error_console())


def _refuse_what_does_nothing(options: Namespace) -> None:
    if options.raw and options.json:
        raise ConfigError("--raw and --json were both given: JSON holds text, leave one out")
    if options.num_samples > 1 and options.temperature == 0:
        raise ConfigError(
            f"--num-samples is {options.num_samples} and --temperature 0: all would be the same, leave "
            "one out"
        )


def _parser() -> Any:
    parser = make_parser("generate", "[MODEL] [--prompt TEXT] [options]", _DESCRIPTION, _EXAMPLES)
    add_model(parser)
    # These two are taken from the command line as they are; here they stand for the help.
    parser.add_argument("--prompt", type=str | None, metavar="TEXT", help="text to continue")
    parser.add_argument("--stop", type=str | None, metavar="TEXT", help="end before it; repeatable")
    parser.add_argument("--prompt-file", type=str | None, help="file with it, - for stdin")
    parser.add_argument("--max-bytes", type=int, default=500, help="bytes to add at most")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: the likeliest, 1: as learnt"
    )
    parser.add_argument("--top-k", type=int | None, help="draw from the k likeliest")
    parser.add_argument("--top-p", type=float | None, help="draw from the likeliest that reach p")
    parser.add_argument(
        "--min-p", type=float | None, help="draw from those over p of the likeliest"
    )
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="1 does nothing")
    parser.add_argument("--seed", type=int, default=0, help="sample i has the seed plus i")
    parser.add_argument(
        "--num-samples", type=int, default=1, help="samples of the same prompt, drawn together"
    )
    parser.add_argument("--window", type=int | None, help="memory rows in reach (the model's)")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype", type=str | None, help="weights as fp32, bf16 or int8: fewer bytes, quicker steps"
    )
    parser.add_argument(
        "--memory-dtype", type=str | None, help="attention memory alike (as the weights)"
    )
    parser.add_argument("--raw", action="store_true", help="also bytes that are no valid UTF-8")
    parser.add_argument("--json", action="store_true", help="print one JSON object a sample")
    return parser


def _take_texts(argv: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the arguments without text options, and these options' values as they were typed.

    The parser reads values as YAML and would make a number of `--prompt 007`.

    Raises:
        ConfigError: A text option stands last, without its text.
    """
    rest: list[str] = []
    texts: dict[str, list[str]] = {option: [] for option in _TEXT_OPTIONS}
    arguments, long = iter(argv), {SHORT_FORMS[name]: name for name in texts if name in SHORT_FORMS}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = long.get(name, name)
        if name not in texts:
            rest.append(argument)
        elif equals:
            texts[name].append(value)
        else:
            following = next(arguments, None)
            if following is None:
                raise ConfigError(f"{name} needs a text after it")
            texts[name].append(following)
    return rest, texts


def _prompt(given: list[str], file: str | None) -> bytes:
    if given:
        return given[0].encode("utf-8", "surrogateescape")
    if file is not None and file != "-":
        try:
            return Path(file).read_bytes()
        except OSError as failure:
            raise DataError(explain_os_error(failure, Path(file), "read")) from failure
    if sys.stdin is None or (sys.stdin.isatty() and file is None):
        return b""
    return sys.stdin.buffer.read()


class _Samples:
    """Samples that are drawn together and read one after the other, the first as it comes.

    Args:
        session: What read the prompt.
        sampling: How tokens are drawn.
        options: Of the command line.
        stop: Strings that end a sample.
        indices: The samples' numbers; each has a seed of its own.

    Attributes:
        seconds: What each sample took until it ended, by its number.
    """

    def __init__(
        self,
        session: Session,
        sampling: Sampling,
        options: Namespace,
        stop: list[str],
        indices: range,
    ) -> None:
        from sharnn.generation import generate_together

        self.seconds: dict[int, float] = {}
        self._indices = indices
        self._waiting = {index: bytearray() for index in indices}
        self._started = time.perf_counter()
        seeds = [options.seed + index for index in indices]
        self._drawn = generate_together(
            [session] * len(seeds), sampling, options.max_bytes, seeds, stop, options.raw
        )

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield one sample's text in pieces; what comes for others meanwhile waits for its turn."""
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
    """Return a prompt without the bytes of a character that it only begins, and those."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(prompt), decoder.getstate()[0]


def _end_line(options: Namespace) -> None:
    """Give what follows a line of its own, but add nothing to raw bytes in a file or pipe."""
    if not options.json and (not options.raw or sys.stdout.isatty()):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
