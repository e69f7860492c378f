"""Names of other programs lead to ours, and every suggestion exists."""

from __future__ import annotations

import pytest

from cli.calls import fails
from sharnn.cli import synonyms
from sharnn.cli.main import VERBS, main


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["sample"], "use sharnn generate"),
        (["finetune", "x"], "use sharnn train --from"),
        (["genrate"], "did you mean 'generate'?"),
        (["train", "--lr", "1"], "use --optim.lr"),
        (["train", "--batch-size=4"], "use --data.num_lanes"),
        (["train", "--batch_size", "4"], "use --data.num_lanes"),
        (["train", "--epochs", "3"], "use --budget Nepochs"),
        (["train", "--output_dir", "x"], "use --out)"),
        (["train", "--optim.learning_rate", "1"], "did you mean"),
        (["train", "--data", "x"], "use TEXT"),
        (["generate", "--temp", "1"], "use --temperature"),
        (["generate", "--max_new_tokens", "1"], "use --max-bytes"),
        (["generate", "--top_k", "1"], "did you mean '--top-k'?"),
        (["evaluate", "--batch_size", "1"], "use --lanes"),
    ],
)
def test_other_names_lead_to_ours(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(argv, 2, hint, capsys)


def test_every_suggestion_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert {ours.split()[0] for ours in synonyms._VERBS} <= set(VERBS)
    for verb, options in synonyms._OPTIONS.items():
        with pytest.raises(SystemExit):
            main([verb, "--help-all" if verb == "train" else "--help"])
        text = capsys.readouterr().out
        for ours in options:
            assert ours.split()[0] in text or not ours.startswith("--"), (verb, ours)


def test_the_help_of_training_begins_with_what_most_people_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for option in ("--help", "--help-all", "--help"):
        with pytest.raises(SystemExit):
            main(["train", option])
        shown.append(capsys.readouterr().out)
    short, whole, _ = shown
    assert len(short.splitlines()) < 85 < len(whole.splitlines()) / 2
    for name in ("-o RUN, --out RUN", "--optim.lr", "--budget", "--help-all"):
        assert name in short
    assert "(default: chosen by the run)" in " ".join(short.split())
    assert "--optim.betas" in whole
    assert "--optim.betas" not in short
    for unwanted in ("type:", "null", "+ "):
        assert unwanted not in whole.split("examples:")[0]


def test_no_name_means_two_things() -> None:
    for meant in (synonyms._VERBS, *synonyms._OPTIONS.values()):
        names = " ".join(meant.values()).split()
        assert len(names) == len(set(names))
