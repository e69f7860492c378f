"""What is documented runs, and every recipe trains."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sharnn.cli.main import VERBS, main
from sharnn.config import Recipe
from sharnn.recipe import load_recipe_settings, recipe_from_settings, shipped_recipes
from texts import write_text

ROOT = Path(__file__).parents[1]
SHORT = [
    "--data.num_lanes", "4", "--data.segment_length", "16", "--budget", "3steps", "--device", "cpu",
    "--train.validation_tokens", "300", "--train.validate_every", "2steps",
]  # fmt: skip
SMALL_ATTACK = [
    "--architectures", "sha-rnn", "--tokenizations", "byte", "bpe-320", "--match", "bytes",
    "--num-parameters", "40000", "--train-bytes", "4000", "--num-lanes", "4", "--segment-bytes", "32",
    "--score-bytes", "200", "--words", "3", "--seeds", "1",
]  # fmt: skip
TINY = ["--model.embed_dim", "16", "--model.num_layers", "2", *SHORT]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_is_valid_and_comes_back_from_yaml(name: str, tmp_path: Path) -> None:
    recipe = recipe_from_settings(load_recipe_settings(name))
    assert recipe != Recipe()
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert recipe_from_settings(load_recipe_settings(str(path))) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_trains_in_small(name: str, tmp_path: Path) -> None:
    text = write_text(tmp_path, 6_000)
    boom = ["--model.boom_dim", "64"] if name.startswith(("paper", "transformer")) else []
    halving = ["--train.grad_accum_steps", "2"]
    out = tmp_path / "run"
    assert (
        main(["train", str(text), "--recipe", name, "--out", str(out), *TINY, *boom, *halving]) == 0
    )
    assert main(["evaluate", str(out), str(text), "--split", "test"]) == 0


def shell_lines(document: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), flags=re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]


README_COMMANDS = [line for line in shell_lines(ROOT / "README.md") if "sharnn " in line]


def test_readme_names_the_two_commands() -> None:
    lines = shell_lines(ROOT / "README.md")
    assert "make demo" in lines
    assert "make test" in lines
    assert (
        {"train", "evaluate", "generate", "report", "info", "attention", "compare", "tokenizer"}
        <= {shlex.split(line.split("sharnn ", 1)[1])[0] for line in README_COMMANDS}
        <= set(VERBS)
    )


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_on_pages_runs_in_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, 6_000, "my.txt")
    assert main(["train", "my.txt", "--out", "runs/mine", *TINY]) == 0
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    code = "".join(blocks)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert float(result.stdout.split("\n")[0]) > 0
    assert (tmp_path / "runs" / "session").is_dir()


def test_readme_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but on a small text and a small model, so that it takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)  # no prompt is piped in
    write_text(tmp_path, 6_000, "my.txt")
    write_text(tmp_path, 2_000, "other.txt")
    for line in README_COMMANDS:
        arguments = shlex.split(line.split("sharnn ", 1)[1])
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments += SHORT if "--from" in arguments else TINY
        if arguments[0] == "train" and "--resume" in arguments:
            arguments[arguments.index("--budget") + 1] = "5steps"
        if arguments[0] == "compare":
            arguments[arguments.index("--budget") + 1] = "2steps"
            arguments += ["--seeds", "1", "--scale", "0.02"]
        if arguments[0] == "tokenization-attack":
            arguments += SMALL_ATTACK
        assert main(arguments) == 0, line


def test_makefile_has_what_is_promised() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "bench"):
        assert f"\n{target}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
