"""The command line: each verb is a module, imported when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sharnn import __version__
from sharnn.cli.synonyms import like_verb
from sharnn.errors import INTERRUPTED, ConfigError, SharnnError
from sharnn.files import explain_os_error
from sharnn.machine import tune_process, use_threads

VERBS = (
    "train", "evaluate", "generate", "report", "attention", "compare", "tokenization-attack",
    "info", "export", "data", "tokenizer", "demo",
)  # fmt: skip

_THREADS = "--threads"

_INTRODUCTION = """\
usage: sharnn VERB … [--help] [--debug]

Train, score and sample SHA-RNN language models on your own machine.
"""

_EXAMPLES = """
  sharnn generate --prompt "The history of"             sample the model that comes with sharnn
  sharnn evaluate my.txt                                score a text in bits per byte
  sharnn train --from base my.txt --out runs/tuned      fine-tune it on your own text
  sharnn train my.txt --out runs/mine --budget 10m      train from scratch
  sharnn train --resume runs/mine                       resume it
  sharnn evaluate runs/mine other.txt                   score a text with your model
  sharnn generate runs/mine --prompt "The "             sample it
  sharnn report runs/mine                               plot its learning curves

'sharnn VERB --help' describes a verb. Every verb takes --threads N (default: all cores, or a container's
quota) and --debug, which shows where an error comes from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns 0, 1 after a failure, 2 after a wrong call, or 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if arguments[:1] != ["compare"]:  # its --threads is for each of its runs
            arguments = _take_threads(arguments)
        tune_process(drawing=arguments[:1] == ["generate"])
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("sharnn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe is gone (`sharnn info … | head`): discard what is buffered, so that Python
        # does not try to write it at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SharnnError as error:
        return _fail(str(error), error.exit_code, debug)
    except OSError as error:
        if error.filename is None:
            return _fail_unexpectedly(error, debug)
        reason = explain_os_error(error, Path(os.fsdecode(error.filename)), "use")
        return _fail(reason, 2 if error.errno == errno.ENAMETOOLONG else 1, debug)
    except Exception as error:
        if type(error).__name__ == "ArgumentError":
            return _fail(_as_typed(str(error)), 2, debug)
        return _fail_unexpectedly(error, debug)


def _take_threads(arguments: list[str]) -> list[str]:
    """Set the number of threads by `--threads N`, and return the other arguments.

    OpenMP and MKL read the number when torch is imported, so it is set before a verb runs.

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
    """Return the parser's message about a value in one line that names the option, if it names one."""
    from sharnn.recipe import explain_value

    lacks_value = re.fullmatch(r"argument (\S+): expected one argument", message)
    if lacks_value:
        return f"{lacks_value[1]} needs a value"
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
            f"there is no verb '{verb}'{like_verb(verb, VERBS)}: give one of {', '.join(VERBS)}",
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


def _fail_unexpectedly(error: Exception, debug: bool) -> int:
    if debug:
        raise error
    return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"sharnn: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
