"""The runs of the tokenization attack: tokenizers, trainings, and the breakdown of each model's score.

OUT/
  results.json                   every finished run (`comparison.run_store`)
  tokenizers/NAME-TEXT.json      the tokenizers, by the first digits of the text's digest
  runs/                          run folders and their logs (`comparison.runner`)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sharnn.checkpoint import LoadedModel, load_model
from sharnn.data.corpus import Corpus
from sharnn.data.prepare import Notice, prepare, train_tokenizer
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate.score import LN2
from sharnn.experiments.attack.dropout import encode_perturbed
from sharnn.experiments.attack.plan import AttackSettings, Tokenization, make_plans, tokenizer_of
from sharnn.experiments.attack.segmentations import within_words
from sharnn.experiments.attack.words import (
    WordClasses,
    WordedText,
    by_class,
    by_place,
    classify,
    lay_out,
    token_nats,
    word_nats,
)
from sharnn.experiments.comparison.contenders import Plan
from sharnn.experiments.comparison.run_store import Run, Store
from sharnn.experiments.comparison.runner import Runner, environment_for
from sharnn.experiments.comparison.scheduler import missing_runs, run_all
from sharnn.report import RunRecord
from sharnn.text import (
    ByteTokenizer,
    SpelledWordTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
    save_tokenizer,
)
from sharnn.train import resolve_device

#: Files and folders of an experiment.
RESULTS, RUNS, TOKENIZERS = "results.json", "runs", "tokenizers"
#: What earlier versions, which kept their runs in another way, wrote first.
_OLDER = "attack.json"
#: Shown while tokenizers are made.
Say = Callable[[str], None]


@dataclass(frozen=True)
class AttackText:
    """The bytes of the experiment.

    Attributes:
        source: As for `data.texts`.
        corpus: The text in bytes.
        scored: Whole lines of its test split.
    """

    source: str
    corpus: Corpus
    scored: bytes


def run_attack(
    settings: AttackSettings, text: str, out: Path, device: str, command: str, console: Console
) -> list[Run]:
    """Train and score what is missing, and return the figures of every run.

    Args:
        settings: What is compared.
        text: A file or a known corpus.
        out: Folder of everything; a stopped experiment is continued in it.
        device: As for `train.device`.
        command: The command line, noted with each run.
        console: Where progress is shown.

    Raises:
        ConfigError: The settings are impossible, or `out` holds an experiment of an earlier version.
        DataError: The text is missing, too short, or has no words, or the results are damaged.
        TrainingError: A run failed; runs finished before are kept.
        KeyboardInterrupt: A run was stopped and saved; the same call continues it.
    """
    if (out / _OLDER).exists():
        raise ConfigError(
            f"{out} holds an experiment of an earlier version of sharnn ({_OLDER}), which this version "
            "cannot continue: its report and results remain valid, give another folder (out)"
        )
    store = Store(out / RESULTS, {"command": command})
    finished = store.runs()  # damaged results are refused before any work
    notice = partial(console.print, highlight=False, markup=False)
    read = read_text(text, settings.score_bytes, notice)
    tokenizers = make_tokenizers(settings.tokenizations, read, out / TOKENIZERS, console.print)
    tokenizations = [t for t, _ in tokenizers.values()]
    plans = make_plans(
        settings, tokenizations, text, device, _spent(finished, settings, tokenizations)
    )
    words = {name: _laid_out(name, t, read) for name, (_, t) in tokenizers.items()}
    training = _bytes_of(read.corpus, "train")
    environment, _ = environment_for(None, 1)
    runner = AttackRunner(
        read.corpus, text, device, environment, out / RUNS, keeps=True, command=command,
        settings=settings, scored=read.scored, words=words,
        classes=classify(next(iter(words.values())), training, settings.window_bytes),
    )  # fmt: skip
    run_all(missing_runs(plans, store, console), 1, runner, store, console)
    return [run for run in store.find_all(plans) if run is not None]


def _spent(
    runs: Sequence[Run], settings: AttackSettings, tokenizations: Sequence[Tokenization]
) -> float | None:
    """Return the operations of each finished run with equal arithmetic; new runs spend the same."""
    digests = {t.digest for t in tokenizations}
    for run in runs:
        same = run.get("conditions") == settings.conditions and run["text_digest"] in digests
        if same and run["matching"] == "compute":
            return run["train_flops"]
    return None


# ----------------------------------------------------------------------------------------- text


def read_text(text: str, score_bytes: int, notice: Notice | None = None) -> AttackText:
    """Return the bytes to train on and those to score, the same for every tokenizer.

    Args:
        text: A file or a known corpus.
        score_bytes: Most bytes of the test split.
        notice: Called with a line that says what was read, see `prepare`.

    Raises:
        DataError: It is missing, or has nothing to score.
    """
    corpus = prepare([text], tokenizer=ByteTokenizer.name, notice=notice)
    test = _bytes_of(corpus, "test")
    if not corpus.own_splits:
        # Such a split may begin in the middle of a line; a closed vocabulary of words needs whole ones.
        whole_lines = test[test.find(b"\n") + 1 :]
        test = whole_lines if whole_lines.split() else test
    cut = test[:score_bytes]
    scored = cut[: cut.rfind(b"\n") + 1] or cut
    if not scored.split():
        raise DataError(
            f"{text} has no word in its test split, only {len(scored)} bytes of white space"
        )
    return AttackText(text, corpus, scored)


def _bytes_of(corpus: Corpus, split: str) -> bytes:
    return corpus.tokenizer.decode(np.asarray(corpus.split(split).tokens))


def _laid_out(name: str, tokenizer: Tokenizer, text: AttackText) -> WordedText:
    """Return the words to score in the tokens of a tokenization.

    Raises:
        DataError: It cannot encode them.
    """
    try:
        return lay_out(tokenizer, tokenizer.encode(text.scored))
    except DataError as failure:
        raise DataError(
            f"tokenization {name} cannot encode the {len(text.scored)} bytes of {text.corpus.name} to "
            f"score (score_bytes): {failure}"
        ) from failure


# ----------------------------------------------------------------------------------- tokenizers


def make_tokenizers(
    names: Sequence[str], text: AttackText, folder: Path, say: Say
) -> dict[str, tuple[Tokenization, Tokenizer]]:
    """Return the tokenizers, trained on the train split or read from `folder`.

    A closed vocabulary of words is left out, with a message, if the text does not have its form.

    Raises:
        DataError: The text is too small for a vocabulary, or no tokenization is left.
    """
    made: dict[str, tuple[Tokenization, Tokenizer]] = {}
    for name in names:
        path = folder / f"{name}-{text.corpus.digest[:8]}.json"
        try:
            if not path.is_file():
                save_tokenizer(_make_tokenizer(name, text), path)
        except DataError as failure:
            if name != WordTokenizer.name:
                raise DataError(f"tokenization {name}: {failure}") from failure
            say(f"tokenization {name} is left out: {failure}")
            continue
        tokenizer = load_tokenizer(path)
        source = ByteTokenizer.name if name == ByteTokenizer.name else str(path)
        corpus = prepare([text.source], tokenizer=source)
        train = corpus.split("train")
        bytes_per_token = train.num_bytes / max(train.num_tokens, 1)
        made[name] = (
            Tokenization(name, source, tokenizer.vocab_size, bytes_per_token, corpus.digest),
            tokenizer,
        )
    if not made:
        raise DataError("no tokenization is left: give another than word")
    return made


def _make_tokenizer(name: str, text: AttackText) -> Tokenizer:
    kind, size = tokenizer_of(name)
    if kind == ByteTokenizer.name:
        return ByteTokenizer()
    return train_tokenizer([text.source], kind, size)


# --------------------------------------------------------------------------------------- scores


@dataclass(kw_only=True)
class AttackRunner(Runner):
    """Runs a plan in a process of its own, then breaks the best model's score down.

    Attributes:
        settings: Of the experiment.
        scored: The bytes to score.
        words: Their words in the tokens of each tokenization.
        classes: The classes of these words.
    """

    settings: AttackSettings
    scored: bytes
    words: Mapping[str, WordedText]
    classes: WordClasses

    def score(self, plan: Plan, folder: Path, run: RunRecord) -> Run:
        """Return the score of a run's best model and its breakdown, as JSON values."""
        loaded = load_model(folder, resolve_device(self.device))
        model, tokenizer = loaded.model, loaded.tokenizer
        text = self.words[plan.facts["tokenization"]]
        nats = token_nats(model, tokenizer, text.tokens)
        num_words, check = self.settings.words, self.processes.check
        inside = within_words(model, tokenizer, text, nats, num_words, check=check)
        classes = by_class(self.classes, word_nats(text, nats))
        return {
            "scored_bytes": len(self.scored),
            "scored_words": len(text.words),
            "scored_tokens": len(text.tokens),
            "bits_per_byte": self._bits_per_byte(nats),
            "nats_per_word": float(nats.sum()) / len(text.words),
            "by_place": [dataclasses.asdict(mean) for mean in by_place(text, nats)],
            "by_class": [dataclasses.asdict(mean) for mean in classes],
            "within_words": dataclasses.asdict(inside),
            "perturbed": self._perturbed(loaded),
        }

    def _bits_per_byte(self, nats: np.ndarray[Any, Any]) -> float:
        return float(nats.sum()) / LN2 / len(self.scored)

    def _perturbed(self, loaded: LoadedModel) -> list[dict[str, float]]:
        """Score the same bytes in other tokens than the tokenizer gives them, where it has a choice."""
        tokenizer, scores = loaded.tokenizer, []
        if not isinstance(tokenizer, SubwordTokenizer | SpelledWordTokenizer):
            return []
        for rate in self.settings.dropouts:
            self.processes.check()
            rng = np.random.Generator(np.random.PCG64(0))
            tokens = encode_perturbed(tokenizer, self.scored, rate, rng)
            nats = token_nats(loaded.model, tokenizer, tokens)
            scores.append({"dropout": rate, "bits_per_byte": self._bits_per_byte(nats)})
        return scores
