"""`sharnn evaluate`: score a text in bits per byte."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

from sharnn.cli.common import (
    DEVICE,
    MODEL_OR_TEXT,
    READING,
    WINDOW,
    add_model_and_texts,
    chosen_model,
    error_console,
    make_parser,
    model_and_texts,
    named,
    naming_options,
    notice_on,
    progress_bar,
    reading_of,
)
from sharnn.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from sharnn.checkpoint import LoadedModel
    from sharnn.cli.parser import VerbParser
    from sharnn.data.corpus import Corpus
    from sharnn.data.download import Progress
    from sharnn.evaluate import ContinuousCache, DynamicRule, Score

HELP = "score a text in bits per byte"

_DESCRIPTION = f"""\
Score TEXT with MODEL in bits per byte. A known corpus is scored on its test split, any other text as a
whole; --split takes another part.

--protocol strict reads the text in one lane and scores every byte exactly once. paper does what the 2019
code did: lanes start from an empty state, and a tail is not scored. ideal predicts every token from an
empty state and exactly the --context tokens before it.

With strict, the model can adapt to the text that it has read: --dynamic updates the weights of a copy
(dynamic evaluation), and --cache adds a continuous cache. Compare such scores with each other, not with
those of fixed weights.

{MODEL_OR_TEXT}"""

_EXAMPLES = """\
examples:
  sharnn evaluate my.txt                                  (with the model that comes with sharnn)
  sharnn evaluate runs/mine other.txt
  cat other.txt | sharnn evaluate runs/mine -
  sharnn evaluate runs/mine enwik8 --split valid
  sharnn evaluate runs/mine other.txt --window 20000      (a longer memory than trained with)
  sharnn evaluate runs/mine long.txt --dtype int8         (faster)
  sharnn evaluate runs/mine long.txt --recall-slots 1048576
  sharnn evaluate runs/mine other.txt --dynamic sgd --cache 2000
  sharnn evaluate runs/mine other.txt --dynamic rms --statistics my.txt
  sharnn evaluate runs/mine other.txt --protocol ideal --context 512 --stride 16
  sharnn evaluate runs/paper enwik8 --protocol paper --segment-length 1024"""


#: Options without effect in each protocol, and the reason.
_USELESS = {
    "strict": {
        "lanes": "which reads one lane",
        "context": "which carries the state through the text",
        "stride": "which has no windows",
    },
    "paper": {
        "context": "which carries the state through each lane",
        "stride": "which has no windows",
        "dynamic": "which scores fixed weights, as in 2019",
        "cache": "which has no cache, as in 2019",
        "dtype": "which scores the weights as stored",
    },
    "ideal": {
        "lanes": "which reads windows in parallel instead",
        "segment_length": "which reads each window at once",
        "dynamic": "which carries nothing from window to window",
        "cache": "which carries nothing from window to window",
        "dtype": "which scores the weights as stored",
    },
}
#: Options without effect unless another one is given.
_PARTS = {
    "dynamic_lr": "dynamic",
    "dynamic_decay": "dynamic",
    "statistics": "dynamic",
    "cache_weight": "cache",
    "cache_flatness": "cache",
}
#: Word perplexities from here on are printed as powers of ten.
_HUGE = 1e9
#: The options that give arguments of the library, for its messages.
_ARGUMENTS = {
    "size": "--cache", "weight": "--cache-weight", "flatness": "--cache-flatness",
    "lr": "--dynamic-lr", "decay": "--dynamic-decay", "num_lanes": "--lanes",
    "segment_length": "--segment-length", "stride": "--stride", "context": "--context",
    "model.recall_slots": "--recall-slots",
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
        if not loaded.model.config.recall_orders:
            raise ConfigError(
                f"--recall-slots does nothing with {loaded.folder}, which has no recall: leave it out"
            )
        loaded.model.set_recall_slots(options.recall_slots)
    if rule is not None:
        _check_adaptable(loaded)
    trained_on = None
    with progress_bar(console) as progress:
        how = {"tokenizer": loaded.tokenizer, **reading_of(options), "progress": progress}
        corpus = prepare(texts, **how, notice=notice_on(console))
        if options.statistics is not None:
            trained_on = prepare([options.statistics], **how)
    split_name = options.split or ("test" if corpus.own_splits else "all")
    if trained_on is not None:
        _check_statistics(trained_on, corpus, split_name)
    with progress_bar(console) as progress:
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
    add_model_and_texts(parser, "to score")
    protocols = Literal["strict", "paper", "ideal"]
    parser.add_argument("--protocol", type=protocols, default="strict", help="see above")
    parser.add_options({
        "--split": (str, "train, valid, test or all (default: test of a known corpus, else all)"),
        **READING,
        **WINDOW,
        "--recall-slots": (int, "slots of each recall table, a power of two (default: the model's)"),
        "--segment-length": (int, "tokens per forward pass (default: 512, with paper 1024); with "
                                  "--dynamic, tokens between two updates (default: 32)"),
        "--lanes": (int, "paper: number of lanes (default: valid 16, others 8)"),
        "--context": (int, "ideal: number of tokens that each one is predicted from"),
        "--stride": (int, "ideal: tokens scored per window, in the time of one (default: 1; only 1 "
                          "is exact, and as many as --context are blocks that start from an empty "
                          "state)"),
        "--dynamic": (Literal["sgd", "rms"], "dynamic evaluation: update the weights by their "
                                             "gradients (sgd), or by gradients relative to their "
                                             "usual size (rms)", "{sgd,rms}"),
        "--dynamic-lr": (float, "learning rate (default: sgd 0.06, rms 0.001)"),
        "--dynamic-decay": (float, "decay towards the original weights per update (default: sgd "
                                   "0.003, rms 0.01)"),
        "--statistics": (str, "rms: text MODEL was trained on; its train split gives the usual "
                              "size of gradients", "TEXT"),
        "--cache": (int, "continuous cache over this many previous positions"),
        "--cache-weight": (float, "share of the cache, below 1 (default: 0.2)"),
        "--cache-flatness": (float, "how strongly the cache prefers similar states (default: 0.3)"),
        "--dtype": (str, "products in bf16 (if the processor supports it) or int8: faster, at a "
                         "small cost in bits per byte (default: fp32)"),
        **DEVICE,
        "--json": (False, "print a JSON object"),
    })  # fmt: skip
    return parser


def _check_combination(options: Namespace) -> None:
    """Refuse options that have no effect together, and require those that are missing.

    Raises:
        ConfigError: The message names the option and what to do.
    """
    protocol = options.protocol
    for name, why in _USELESS[protocol].items():
        if options[name] is not None:
            raise ConfigError(
                f"{_typed(name)} does nothing with --protocol {protocol}, {why}: leave one out"
            )
    for name, whole in _PARTS.items():
        if options[name] is not None and options[whole] is None:
            raise ConfigError(
                f"{_typed(name)} does nothing without {_typed(whole)}: add it, or leave both out"
            )
        if options[name] == 0 and name in ("dynamic_lr", "cache_weight"):
            raise ConfigError(f"{_typed(name)} 0 makes {_typed(whole)} do nothing: leave both out")
    if options.dynamic == "rms" and options.statistics is None:
        raise ConfigError(
            "--dynamic rms needs the usual size of gradients: give --statistics TEXT, a text that the "
            "model was trained on, or use --dynamic sgd"
        )
    if options.dynamic == "sgd" and options.statistics is not None:
        raise ConfigError("--statistics does nothing with --dynamic sgd: leave it out, or use rms")
    if options.dynamic is not None and options.dtype is not None:
        raise ConfigError("--dtype does not go with --dynamic, which updates the weights: give one")
    if protocol == "ideal" and options.context is None:
        raise ConfigError(
            "--protocol ideal needs --context N, the number of tokens that each one is predicted from"
        )
    if protocol == "ideal" and options.window is not None and options.window > options.context:
        raise ConfigError(
            f"--window {options.window} reaches no further than --context {options.context}: give a "
            "longer context, or leave --window out"
        )


def _typed(name: str) -> str:
    """Return the option of a setting."""
    return "--" + name.replace("_", "-")


def _dynamic_rule(options: Namespace) -> DynamicRule | None:
    """Return the rule that updates the weights; None if they are fixed."""
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
    """Return the settings that are not None; the library has defaults for the others."""
    return {name: value for name, value in settings.items() if value is not None}


def _check_adaptable(loaded: LoadedModel) -> None:
    """Refuse to adapt rounded weights.

    Raises:
        ConfigError: The weights are stored in int8.
    """
    if loaded.dtype == "int8":
        raise ConfigError(
            f"--dynamic does not go with {loaded.folder}: its weights are stored in int8, rounded to 8 "
            "bits, so updates would start from and decay to other weights than the trained ones; give "
            "the run folder, or the model saved as fp32 or bf16"
        )


def _check_statistics(trained_on: Corpus, corpus: Corpus, split_name: str) -> None:
    """Refuse statistics of the scored text: they would use it before the model has read it.

    Raises:
        ConfigError: The statistics are of the scored text.
        DataError: The text for the statistics has an empty train split.
    """
    if trained_on.split("train").num_tokens == 0:
        raise DataError(
            f"--statistics {trained_on.name} has an empty train split: give a longer text"
        )
    if trained_on.digest == corpus.digest and split_name in ("train", "all"):
        raise ConfigError(
            f"--statistics {trained_on.name} is the text that is scored, and would be used before it is "
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
    report = named(progress, "scoring")
    if options.protocol == "ideal":
        reading |= _given(context=options.context, stride=options.stride)
        return evaluate_ideal(*text, **reading, report=report)
    if rule is not None:
        statistics = None
        if trained_on is not None:
            statistics = gather_statistics(
                loaded.model, loaded.tokenizer, trained_on.split("train"), **reading,
                report=named(progress, "gathering statistics"),
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
    """Refuse a score that is not finite.

    Raises:
        CheckpointError: The sum of nats is infinite or not a number.
    """
    if not math.isfinite(score.nats):
        raise CheckpointError(
            f"{loaded.folder} gives the text no finite score ({score.nats} nats): its weights are not "
            "finite or too large, as after training that diverged; use an earlier checkpoint, train with "
            "a lower optim.lr, or lower --dynamic-lr if that is given"
        )


def _print_table(score: Score, text: str, model: str, statistics: str | None) -> None:
    rows = [
        ("model", model),
        ("text", text),
        ("protocol", score.protocol),
        *((name, _listed(settings)) for name, settings in score.settings.items()),
        *([("statistics of", statistics)] if statistics is not None else []),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
        ("bits per char", f"{score.bits_per_char:.4f}" if score.num_chars else "none: no characters"),
        ("bits per token", f"{score.bits_per_token:.4f}"),
        ("word perplexity", word_perplexity(score)),
        ("scored", f"{score.num_bytes:,} bytes, {score.num_chars:,} characters, "
                   f"{score.num_words:,} words, {score.num_tokens:,} tokens"),
        ("not scored", f"{score.unscored_bytes:,} bytes, {score.unscored_tokens:,} tokens"),
        ("speed", f"{score.tokens_per_second:,.0f} tokens/s"),
    ]  # fmt: skip
    for name, value in rows:
        print(f"{name}  {value}")


def word_perplexity(score: Score) -> str:
    """Return the word perplexity; as a power of ten if the text has so few words that it is huge."""
    if score.num_words == 0:
        return "none: the text has no words"
    if score.word_perplexity < _HUGE:
        return f"{score.word_perplexity:,.2f}"
    return f"10^{score.nats / score.num_words / math.log(10):,.1f}"


def _listed(settings: dict[str, Any]) -> str:
    """Return settings in one line, such as `rule sgd, lr 0.1, segment length 32`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
    )  # fmt: skip
