"""The command line: one verb a file, loaded when it is called."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from sharnn import __version__
from sharnn.cli.synonyms import like_verb
from sharnn.errors import ConfigError, SharnnError
from sharnn.machine import tune_process, use_threads

VERBS = (
    "train", "evaluate", "generate", "report", "attention", "compare", "tokenization-attack",
    "info", "export", "data", "tokenizer", "demo",
)  # fmt: skip

_THREADS = "--threads"

_INTRODUCTION = """\
usage: sharnn VERB … [--help] [--debug]

SHA-RNN language models: train, score and sample them on the machine you have.
"""

_EXAMPLES = """
  sharnn generate --prompt "The history of"             sample the model that comes with sharnn
  sharnn evaluate my.txt                                score a text with it, in bits per byte
  sharnn train --from base my.txt --out runs/tuned      fine-tune it on your own text
  sharnn train my.txt --out runs/mine --budget 10m      train from scratch
  sharnn train --resume runs/mine                       go on where it stopped
  sharnn evaluate runs/mine other.txt                   score a text with your model
  sharnn generate runs/mine --prompt "The "             sample it
  sharnn report runs/mine                               draw its learning curves

'sharnn VERB --help' teaches a verb. Every verb takes --threads N (default: all cores, or a container's
quota) and --debug, which shows where an error came from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, 1 for a failure, 2 for a wrong call, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if arguments[:1] != ["compare"]:  # which has an option of that name, for each of its runs
            arguments = _take_threads(arguments)
        tune_process(drawing=arguments[:1] == ["generate"])
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("sharnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has left (`sharnn info … | head`). What is still buffered must not be tried at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SharnnError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:
        if type(error).__name__ == "ArgumentError":
            return _fail(_as_typed(str(error)), 2, debug)
        if debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _take_threads(arguments: list[str]) -> list[str]:
    """Obey `--threads N`, and return the arguments without it.

    OpenMP and MKL read the number when torch is imported, so no parser can take it: the verbs import it.

    Raises:
        ConfigError: N is missing, or not a positive whole number.
    """
    words = [word for argument in arguments for word in _split_threads(argument)]
    if _THREADS not in words:
        return arguments
    at = words.index(_THREADS)
    number = words[at + 1] if at + 1 < len(words) else ""
    if not number.isdecimal() or int(number) == 0:
        raise ConfigError(f"{_THREADS} is '{number}': give a whole number of at least 1")
    use_threads(int(number))
    return words[:at] + words[at + 2 :]


def _split_threads(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith(f"{_THREADS}=") else [argument]


def _as_typed(message: str) -> str:
    """Return what the parser says of a value in one line and by the option's name, where it says what."""
    from sharnn.recipe import explain_value

    explained = explain_value(message)
    if explained == message:
        return message
    name, _, rest = explained.partition(" ")
    return f"--{name if '.' in name else name.replace('_', '-')} {rest}"


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb == "--version":
        print(f"sharnn {__version__}")
        return 0
    if verb not in VERBS:
        return _fail(
            f"there is no verb '{verb}'{like_verb(verb, VERBS)}: one of {', '.join(VERBS)}",
            2,
            False,
        )
    return _module(verb).run(rest)


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"sharnn.cli.{verb.replace('-', '_')}")


def _overview() -> str:
    width = max(map(len, VERBS)) + 2
    lines = [f"  {verb:<{width}}{_module(verb).HELP}" for verb in VERBS]
    return _INTRODUCTION + "\n" + "\n".join(lines) + "\n" + _EXAMPLES


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"sharnn: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
