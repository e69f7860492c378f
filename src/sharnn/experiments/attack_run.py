"""The tokenization attack, run: tokenizers, trainings, and the score of each model taken apart.

OUT/
  attack.json         what is equal for all, and the text: another experiment goes elsewhere
  tokenizers/NAME.json
  runs/NAME/          a run folder for each training
  scores/NAME.json    what came of it; a training that has one is not run again
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sharnn.checkpoint import RunFolder, load_model
from sharnn.config import to_dict
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import prepare, train_tokenizer
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate.score import LN2
from sharnn.evaluate.tokenization import (
    WordClasses,
    WordedText,
    by_class,
    by_place,
    classify,
    lay_out,
    token_nats,
    within_words,
    word_nats,
)
from sharnn.experiments.attack import (
    AttackPlan,
    AttackSettings,
    Tokenization,
    equal_flops,
    make_plans,
    tokenizer_of,
)
from sharnn.files import read_json, write_json
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer, Tokenizer, WordTokenizer, load_tokenizer, save_tokenizer
from sharnn.text.unit_tokenizer import UnitTokenizer
from sharnn.train import resume_run, start_run

#: Shown while a tokenizer is made: what is done.
Say = Callable[[str], None]
_SETTINGS, _TOKENIZERS, _RUNS, _SCORES = "attack.json", "tokenizers", "runs", "scores"
_COMPUTE_FLOPS = "compute_flops"
#: Every figure, written when all is done (`attack_report`).
RESULTS = "results.json"


@dataclass(frozen=True)
class AttackText:
    """The bytes of the experiment.

    Attributes:
        name: For people.
        source: What `sharnn train` is told to read.
        training: Train split.
        scored: Whole lines of the test split.
        digest: Of the corpus.
    """

    name: str
    source: str
    training: bytes
    scored: bytes
    digest: str


def run_attack(
    settings: AttackSettings, text: str, out: Path, device: str, console: Console
) -> list[dict[str, Any]]:
    """Do all that is not done yet, and return what came of every training.

    Args:
        settings: What is to be found out.
        text: A file or a known corpus.
        out: Takes everything; a stopped experiment goes on in it.
        device: As `train.device`.
        console: Where progress is shown.

    Raises:
        ConfigError: Settings that cannot be, or another experiment in `out`.
        DataError: The text is missing, too short, or has no words.
        KeyboardInterrupt: A training was stopped, and saved; the same call goes on with it.
    """
    read = read_text(text, settings.score_bytes)
    equal = _equal_for_all(settings, read)
    found = _found(out, equal)
    tokenizers = make_tokenizers(
        settings.tokenizations, read, out / _TOKENIZERS, console.print, reuse=bool(found)
    )
    tokenizations = [t for t, _ in tokenizers.values()]
    flops = found.get(_COMPUTE_FLOPS) or equal_flops(
        settings, tokenizations[0], read.source, device
    )
    plans = make_plans(settings, tokenizations, read.source, device, flops)
    scored = {name: _laid_out(name, t, read) for name, (_, t) in tokenizers.items()}
    classes = classify(next(iter(scored.values())), read.training, settings.window_bytes)
    results = []
    with _claimed(out, {**equal, _COMPUTE_FLOPS: flops}):
        for number, plan in enumerate(plans, start=1):
            path = out / _SCORES / f"{plan.name}.json"
            if not path.is_file():
                progress = f"[bold]{number} of {len(plans)}[/bold]: {plan.name}"
                console.print(progress, highlight=False)
                train(plan, out / _RUNS / plan.name, console)
                parts = Parts(settings, read, scored[plan.tokenization.name], classes)
                write_json(path, {**facts(plan), **parts.of(out / _RUNS / plan.name)}, DataError)
            results.append(read_json(path, DataError))
    return results


# ----------------------------------------------------------------------------------------- text


def read_text(text: str, score_bytes: int) -> AttackText:
    """Return the bytes to train on and those to score, the same for every tokenizer.

    Args:
        text: A file or a known corpus.
        score_bytes: Bytes of the test split at most.

    Raises:
        DataError: It is missing, or has nothing to score.
    """
    corpus = prepare([text], tokenizer=ByteTokenizer.name)
    training, test = (_bytes_of(corpus, split) for split in ("train", "test"))
    if not corpus.own_splits:
        # Splits are cut in the middle of a line; a closed vocabulary of words reads whole ones.
        whole_lines = test[test.find(b"\n") + 1 :]
        test = whole_lines if whole_lines.split() else test
    cut = test[:score_bytes]
    scored = cut[: cut.rfind(b"\n") + 1] or cut
    if not scored.split():
        raise DataError(
            f"{text} has no word in its test split, only {len(scored)} bytes of white space"
        )
    return AttackText(corpus.name, text, training, scored, corpus.digest)


def _bytes_of(corpus: Corpus, split: str) -> bytes:
    return corpus.tokenizer.decode(np.asarray(corpus.split(split).tokens))


def _laid_out(name: str, tokenizer: Tokenizer, text: AttackText) -> WordedText:
    """Return the words to score in the tokens of a tokenization.

    Raises:
        DataError: It cannot read them.
    """
    try:
        return lay_out(tokenizer, tokenizer.encode(text.scored))
    except DataError as failure:
        raise DataError(
            f"tokenization {name} cannot read the {len(text.scored)} bytes of {text.name} to score, "
            f"which --score-bytes cuts: {failure}"
        ) from failure


def _equal_for_all(settings: AttackSettings, text: AttackText) -> dict[str, Any]:
    """Return what every training and score of an experiment shares: others need another folder."""
    may_grow = ("seeds", "architectures", "tokenizations", "matchings")
    shared = {name: value for name, value in to_dict(settings).items() if name not in may_grow}
    return {**shared, "text_digest": text.digest}


def _found(out: Path, equal: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder says of this experiment; nothing where it holds none.

    Raises:
        ConfigError: It holds another one, or results of something else.
    """
    path = out / _SETTINGS
    if not path.is_file():
        if (out / RESULTS).exists():
            raise ConfigError(
                f"{out} holds the {RESULTS} of something else, which would be lost: give another --out"
            )
        return {}
    found: dict[str, Any] = read_json(path, DataError)
    for name, value in equal.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{out} holds an experiment with {name} = {found.get(name)}, this one has {value}: give "
                "another --out"
            )
    return found


@contextlib.contextmanager
def _claimed(out: Path, content: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder this experiment's, unless nothing comes of it: then it is free for another."""
    path = out / _SETTINGS
    if not path.is_file():
        write_json(path, content, DataError)
    try:
        yield
    except BaseException:
        if not (out / _RUNS).is_dir():
            path.unlink(missing_ok=True)
        raise


# ----------------------------------------------------------------------------------- tokenizers


def make_tokenizers(
    names: Sequence[str], text: AttackText, folder: Path, say: Say, reuse: bool
) -> dict[str, tuple[Tokenization, Tokenizer]]:
    """Return the tokenizers, made of the text to train on; with `reuse`, those in `folder` are read.

    A closed vocabulary of words is left out, and it is said, where the text has not its form.

    Raises:
        DataError: The text is too small for a vocabulary, or none is left.
    """
    made: dict[str, tuple[Tokenization, Tokenizer]] = {}
    for name in names:
        path = folder / f"{name}.json"
        try:
            if not (reuse and path.is_file()):
                save_tokenizer(_make_tokenizer(name, text), path)
        except DataError as failure:
            if name != WordTokenizer.name:
                raise DataError(f"tokenization {name}: {failure}") from failure
            say(f"tokenization {name} is left out: {failure}")
            continue
        tokenizer = load_tokenizer(path)
        source = ByteTokenizer.name if name == ByteTokenizer.name else str(path)
        train = prepare([text.source], tokenizer=source).split("train")
        bytes_per_token = train.num_bytes / max(train.num_tokens, 1)
        made[name] = (
            Tokenization(name, source, tokenizer.vocab_size, bytes_per_token), tokenizer,
        )  # fmt: skip
    if not made:
        raise DataError("no tokenization is left: name another than word")
    return made


def _make_tokenizer(name: str, text: AttackText) -> Tokenizer:
    kind, size = tokenizer_of(name)
    if kind == ByteTokenizer.name:
        return ByteTokenizer()
    return train_tokenizer([text.source], kind, size)


# ------------------------------------------------------------------------------------ trainings


def train(plan: AttackPlan, folder: Path, console: Console) -> None:
    """Train a plan's model, or go on where it was stopped.

    Raises:
        KeyboardInterrupt: It was stopped again.
    """
    if RunFolder(folder).exists():
        outcome = resume_run(folder, console)
    else:
        outcome = start_run(plan.recipe, folder, console)
    if outcome.interrupted:
        raise KeyboardInterrupt


def facts(plan: AttackPlan) -> dict[str, Any]:
    """Return what is known of a training before it, as JSON values."""
    t, model = plan.tokenization, plan.recipe.model
    return {
        "architecture": plan.architecture, "tokenization": t.name, "matching": plan.matching,
        "seed": plan.recipe.train.seed, "vocab_size": t.vocab_size,
        "bytes_per_token": t.bytes_per_token, "embed_dim": model.embed_dim,
        "num_layers": model.num_layers, "train_bytes": plan.train_bytes,
        "train_flops": plan.train_flops,
    }  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What every model is asked.

    Attributes:
        settings: Of the experiment.
        text: Its bytes.
        words: Of the bytes to score, in the tokens of the model.
        classes: Of these words.
    """

    settings: AttackSettings
    text: AttackText
    words: WordedText
    classes: WordClasses

    def of(self, run: Path) -> dict[str, Any]:
        """Score the best model of a run and take the score apart; JSON values."""
        loaded = load_model(run)
        model, tokenizer = loaded.model, loaded.tokenizer
        nats = token_nats(model, tokenizer, self.words.tokens)
        inside = within_words(model, tokenizer, self.words, nats, self.settings.words)
        return {
            "num_parameters": model.num_parameters(),
            "training_seconds": loaded.card["training seconds"],
            "machine": loaded.card["machine"],
            "scored_bytes": len(self.text.scored),
            "scored_words": len(self.words.words),
            "scored_tokens": len(self.words.tokens),
            "bits_per_byte": float(nats.sum()) / LN2 / len(self.text.scored),
            "nats_per_word": float(nats.sum()) / len(self.words.words),
            "by_place": [dataclasses.asdict(mean) for mean in by_place(self.words, nats)],
            "by_class": [
                dataclasses.asdict(mean)
                for mean in by_class(self.classes, word_nats(self.words, nats))
            ],
            "within_words": dataclasses.asdict(inside),
            "perturbed": self._perturbed(loaded.model, tokenizer),
        }

    def _perturbed(self, model: LanguageModel, tokenizer: Tokenizer) -> list[dict[str, float]]:
        """Score the same bytes in other tokens than the tokenizer gives them."""
        if not isinstance(tokenizer, UnitTokenizer):
            return []
        scores = []
        for rate in self.settings.dropouts:
            rng = np.random.Generator(np.random.PCG64(0))
            tokens = tokenizer.encode_perturbed(self.text.scored, rate, rng)
            nats = float(token_nats(model, tokenizer, tokens).sum())
            scores.append({"dropout": rate, "bits_per_byte": nats / LN2 / len(self.text.scored)})
        return scores
