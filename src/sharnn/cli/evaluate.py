"""`sharnn evaluate`: score a text in bits per byte."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

from sharnn.cli.common import (
    MODEL_HELP,
    chosen_model,
    error_console,
    make_parser,
    model_and_texts,
    naming_options,
    prepare_bar,
)
from sharnn.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import Namespace

    from sharnn.checkpoint import LoadedModel
    from sharnn.cli.parser import VerbParser
    from sharnn.data.corpus import Corpus
    from sharnn.data.download import Progress
    from sharnn.evaluate import ContinuousCache, DynamicRule, Score

HELP = "score a text in bits per byte"

_DESCRIPTION = """\
Score TEXT with MODEL. A known corpus is scored on its test split, any other text whole, unless
--split says otherwise. 'strict' reads the text in one lane and scores every byte exactly once;
'paper' does as the code of 2019 did (lanes that start cold, a tail that is never scored); 'ideal'
predicts every token from an empty state and exactly the --context tokens before it.

With 'strict' the model may adapt to what it has read, never to what comes: --dynamic lets its weights
learn (a copy's: MODEL stays as it is), --cache mixes in what followed states like this one. Such
scores compare with one another, not with those of fixed weights.

The first argument is MODEL if it is 'base', a model folder or a run folder. If it is none of these,
all arguments are TEXT, and the model is 'base', which comes with sharnn."""

_EXAMPLES = """\
examples:
  sharnn evaluate my.txt                                  (with the model that comes with sharnn)
  sharnn evaluate runs/mine other.txt
  cat other.txt | sharnn evaluate runs/mine -
  sharnn evaluate runs/mine enwik8 --split valid
  sharnn evaluate runs/mine other.txt --window 20000      (a longer memory than trained with)
  sharnn evaluate runs/mine long.txt --dtype int8         (quicker)
  sharnn evaluate runs/mine long.txt --recall-slots 1048576
  sharnn evaluate runs/mine other.txt --dynamic sgd --cache 2000
  sharnn evaluate runs/mine other.txt --dynamic rms --statistics my.txt
  sharnn evaluate runs/mine other.txt --protocol ideal --context 512 --stride 16
  sharnn evaluate runs/paper enwik8 --protocol paper --segment-length 1024"""


#: What each protocol has no use for, and why.
_USELESS = {
    "strict": {
        "lanes": "which reads in one lane",
        "context": "which carries all it has read",
        "stride": "which has no windows",
    },
    "paper": {
        "context": "which carries all that a lane has read",
        "stride": "which has no windows",
        "dynamic": "which scores fixed weights as in 2019",
        "cache": "which scores without one as in 2019",
        "dtype": "which scores the weights as they are",
    },
    "ideal": {
        "lanes": "whose windows are its lanes",
        "segment_length": "which reads each window at once",
        "dynamic": "which carries nothing from window to window",
        "cache": "which carries nothing from window to window",
        "dtype": "which scores the weights as they are",
    },
}
#: Options that do nothing without another.
_PARTS = {
    "dynamic_lr": "dynamic",
    "dynamic_decay": "dynamic",
    "statistics": "dynamic",
    "cache_weight": "cache",
    "cache_flatness": "cache",
}


#: Arguments of the library by name, and the options that give them.
_ARGUMENTS = {
    "size": "--cache", "weight": "--cache-weight", "lr": "--dynamic-lr", "decay": "--dynamic-decay",
    "num_lanes": "--lanes", "segment_length": "--segment-length", "stride": "--stride",
    "context": "--context",
}  # fmt: skip


def run(argv: list[str]) -> int:
    """Parse, score, and print a table or JSON."""
    options = _parser().parse_scattered(argv)
    _check_combination(options)
    with naming_options(_ARGUMENTS):
        return _run(options)


def _run(options: Namespace) -> int:

    from sharnn.checkpoint import load_model
    from sharnn.data.prepare import prepare
    from sharnn.train import resolve_device

    rule, cache = _dynamic_rule(options), _cache(options)
    model, texts = model_and_texts(options.names, "evaluate", "to score")
    console = error_console()
    loaded = load_model(chosen_model(model, console), resolve_device(options.device))
    if options.recall_slots is not None:
        loaded.model.set_recall_slots(options.recall_slots)
    if rule is not None:
        _check_adaptable(loaded)
    trained_on = None
    with prepare_bar(console) as progress:
        corpus = prepare(texts, tokenizer=loaded.tokenizer, progress=progress)
        if options.statistics is not None:
            trained_on = prepare(
                [options.statistics], tokenizer=loaded.tokenizer, progress=progress
            )
    split_name = options.split or ("test" if corpus.own_splits else "all")
    if trained_on is not None:
        _check_statistics(trained_on, corpus, split_name)
    with prepare_bar(console) as progress:
        score = _score(options, loaded, corpus, split_name, rule, cache, trained_on, progress)
    _check_finite(score, loaded)
    if options.json:
        facts = {"model": str(loaded.folder), "text": corpus.name, "split": split_name}
        if trained_on is not None:
            facts["statistics"] = trained_on.name
        print(json.dumps({**facts, "corpus_digest": corpus.digest, **score.to_dict()}))
    else:
        statistics = None if trained_on is None else trained_on.name
        _print_table(score, f"{corpus.name}, {split_name}", str(loaded.folder), statistics)
    return 0


def _parser() -> VerbParser:
    parser = make_parser("evaluate", "[MODEL] TEXT… [options]", _DESCRIPTION, _EXAMPLES)
    # MODEL and TEXT are told apart by what they name, not by their number.
    parser.add_argument(
        "names", nargs="*", metavar="[MODEL] TEXT", help=f"{MODEL_HELP}; and what to score"
    )
    parser.add_argument(
        "--split", type=str | None, help="train, valid, test or all (default: see above)"
    )
    parser.add_argument("--protocol", type=Literal["strict", "paper", "ideal"], default="strict")
    parser.add_argument(
        "--window", type=int | None, help="memory rows in reach (default: the model's)"
    )
    parser.add_argument(
        "--recall-slots", type=int | None,
        help="n-grams of each length that recall remembers, a power of two (default: the model's)",
    )  # fmt: skip
    parser.add_argument(
        "--segment-length", type=int | None,
        help="tokens read at once (512, paper 1024); with --dynamic, after so many the weights move (32)",
    )  # fmt: skip
    parser.add_argument(
        "--lanes", type=int | None, help="paper: its lanes (valid 16, test 8)"
    )  # fmt: skip
    parser.add_argument(
        "--context", type=int | None, help="ideal: tokens that each one is predicted from"
    )
    parser.add_argument(
        "--stride", type=int | None,
        help="ideal: tokens scored in a window, in the time of one (1, which alone is exact; as many as "
             "--context are blocks that start cold)",
    )  # fmt: skip
    parser.add_argument(
        "--dynamic", type=Literal["sgd", "rms"] | None, metavar="{sgd,rms}",
        help="let the weights learn, by their gradients or in units of how large those usually are",
    )  # fmt: skip
    parser.add_argument(
        "--dynamic-lr", type=float | None, help="how far they go each time (sgd 0.06, rms 0.001)"
    )
    parser.add_argument(
        "--dynamic-decay", type=float | None,
        help="share of the way back that they go each time (sgd 0.003, rms 0.01)",
    )  # fmt: skip
    parser.add_argument(
        "--statistics", type=str | None, metavar="TEXT",
        help="rms: text MODEL was trained on; in its train split gradients are as large as usual",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=int | None, help="mix in what followed the last so many positions"
    )
    parser.add_argument(
        "--cache-weight", type=float | None, help="the cache's share, below 1 (0.2)"
    )
    parser.add_argument(
        "--cache-flatness",
        type=float | None,
        help="how much it prefers states that are alike (0.3)",
    )
    parser.add_argument(
        "--dtype", type=str | None,
        help="products in bf16 (where the processor has them) or int8: quicker, at a small cost in bits "
             "per byte (default: fp32)",
    )  # fmt: skip
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _check_combination(options: Namespace) -> None:
    """Refuse options that do nothing together, and ask for those that are missing.

    Raises:
        ConfigError: Names the option and what to do.
    """
    protocol = options.protocol
    for name, why in _USELESS[protocol].items():
        if options[name] is not None:
            raise ConfigError(
                f"{_typed(name)} does nothing with --protocol {protocol}, {why}: leave one of them away"
            )
    for name, whole in _PARTS.items():
        if options[name] is not None and options[whole] is None:
            raise ConfigError(
                f"{_typed(name)} does nothing without {_typed(whole)}: add it, or leave both away"
            )
        if options[name] == 0 and name in ("dynamic_lr", "cache_weight"):
            raise ConfigError(f"{_typed(name)} 0 makes {_typed(whole)} do nothing: leave both away")
    if options.dynamic == "rms" and options.statistics is None:
        raise ConfigError(
            "--dynamic rms has to know how large gradients usually are: give --statistics TEXT, a text "
            "that the model was trained on, or take --dynamic sgd"
        )
    if options.dynamic == "sgd" and options.statistics is not None:
        raise ConfigError(
            "--statistics does nothing with --dynamic sgd: leave it away, or take rms"
        )
    if options.dynamic is not None and options.dtype is not None:
        raise ConfigError("--dtype does not go with --dynamic, which moves the weights: give one")
    if protocol == "ideal" and options.context is None:
        raise ConfigError(
            "--protocol ideal needs --context N: the number of tokens that each one is predicted from"
        )
    if protocol == "ideal" and options.window is not None and options.window > options.context:
        raise ConfigError(
            f"--window {options.window} reaches no further than --context {options.context}: give a "
            "longer context, or leave --window away"
        )


def _typed(name: str) -> str:
    """Return a setting's name as it is typed."""
    return "--" + name.replace("_", "-")


def _dynamic_rule(options: Namespace) -> DynamicRule | None:
    """Return how the weights move, None where they stay."""
    from sharnn.evaluate import RmsRule, SgdRule

    if options.dynamic is None:
        return None
    given = _given(lr=options.dynamic_lr, decay=options.dynamic_decay)
    return SgdRule(**given) if options.dynamic == "sgd" else RmsRule(**given)


def _cache(options: Namespace) -> ContinuousCache | None:
    from sharnn.evaluate import ContinuousCache

    if options.cache is None:
        return None
    given = _given(weight=options.cache_weight, flatness=options.cache_flatness)
    return ContinuousCache(options.cache, **given)


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that were given; the others have defaults where they are used."""
    return {name: value for name, value in settings.items() if value is not None}


def _check_adaptable(loaded: LoadedModel) -> None:
    """Refuse to adapt weights that are not what was trained.

    Raises:
        ConfigError: They are stored in int8.
    """
    if loaded.dtype == "int8":
        raise ConfigError(
            f"--dynamic does not go with {loaded.folder}: its weights are stored in int8, rounded to 8 "
            "bits, so what the updates start from and decay to is not what was trained; give the run "
            "folder, or the model saved as fp32 or bf16"
        )


def _check_statistics(trained_on: Corpus, corpus: Corpus, split_name: str) -> None:
    """Refuse statistics of the very text that is scored: it would be known before it is read.

    Raises:
        ConfigError: They are.
        DataError: There is no text to gather them from.
    """
    if trained_on.split("train").num_tokens == 0:
        raise DataError(
            f"--statistics {trained_on.name} has an empty train split: give a longer text"
        )
    if trained_on.digest == corpus.digest and split_name in ("train", "all"):
        raise ConfigError(
            f"--statistics {trained_on.name} is the text that is scored, and would be known before it is "
            "read: score its --split valid or test, or give the text that the model was trained on"
        )


def _score(
    options: Namespace,
    loaded: LoadedModel,
    corpus: Corpus,
    split_name: str,
    rule: DynamicRule | None,
    cache: ContinuousCache | None,
    trained_on: Corpus | None,
    progress: Progress | None,
) -> Score:
    from sharnn.evaluate import (
        PAPER_LANES,
        evaluate_dynamic,
        evaluate_ideal,
        evaluate_static,
        gather_statistics,
    )
    from sharnn.generation import scoring_reader

    text = loaded.model, loaded.tokenizer, corpus.split(split_name)
    reading = _given(segment_length=options.segment_length, window=options.window)
    report = _shown(progress, "scoring")
    if options.protocol == "ideal":
        reading |= _given(context=options.context, stride=options.stride)
        return evaluate_ideal(*text, **reading, report=report)
    if rule is not None:
        statistics = None
        if trained_on is not None:
            statistics = gather_statistics(
                loaded.model, loaded.tokenizer, trained_on.split("train"), **reading,
                report=_shown(progress, "gathering statistics"),
            )  # fmt: skip
        return evaluate_dynamic(
            *text, rule, statistics=statistics, cache=cache, **reading, report=report
        )
    if options.protocol == "paper":
        lanes = PAPER_LANES.get(split_name, PAPER_LANES["test"])
        defaults = {"num_lanes": lanes, "segment_length": 1024}
        reading = {**defaults, **_given(num_lanes=options.lanes), **reading}
    return evaluate_static(
        *text, protocol=options.protocol, cache=cache, **reading, report=report,
        hidden=scoring_reader(loaded.model, options.dtype or "fp32"),
    )  # fmt: skip


def _check_finite(score: Score, loaded: LoadedModel) -> None:
    """Refuse to pass off as a score what is none.

    Raises:
        CheckpointError: The sum of nats is infinite or not a number.
    """
    if not math.isfinite(score.nats):
        raise CheckpointError(
            f"{loaded.folder} gives the text no finite score ({score.nats} nats): its weights are not "
            "finite or too large, as after training that diverged: take an earlier checkpoint, train "
            "with a lower optim.lr, or lower --dynamic-lr where that is given"
        )


def _shown(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Return a report that a bar of that name shows; None where there is no bar."""
    return progress and (lambda done, total: progress(what, done, total))


def _print_table(score: Score, text: str, model: str, statistics: str | None) -> None:
    rows = [
        ("model", model),
        ("text", text),
        ("protocol", score.protocol),
        *((name, _listed(settings)) for name, settings in score.settings.items()),
        *([("statistics of", statistics)] if statistics is not None else []),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
        ("bits per char", f"{score.bits_per_char:.4f}"),
        ("bits per token", f"{score.bits_per_token:.4f}"),
        ("word perplexity", f"{score.word_perplexity:,.2f}"),
        ("scored", f"{score.num_bytes:,} bytes, {score.num_chars:,} characters, "
                   f"{score.num_words:,} words, {score.num_tokens:,} tokens"),
        ("not scored", f"{score.unscored_bytes:,} bytes, {score.unscored_tokens:,} tokens"),
        ("speed", f"{score.tokens_per_second:,.0f} tokens/s"),
    ]  # fmt: skip
    for name, value in rows:
        print(f"{name}  {value}")


def _listed(settings: dict[str, Any]) -> str:
    """Return settings as a line: `rule sgd, lr 0.1, segment length 32`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
    )  # fmt: skip
