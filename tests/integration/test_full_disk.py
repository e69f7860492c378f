"""A disk that fills up in the middle of a run: told in one line, and nothing written before is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sharnn.checkpoint import load_model
from sharnn.cli.main import main
from texts import write_text

SETTINGS = [
    "--recipe", "demo", "--device", "cpu", "--train.dtype", "fp32", "--model.embed_dim", "32",
    "--model.window", "16", "--data.num_lanes", "2", "--data.segment_length", "16",
    "--train.checkpoint_every", "2steps", "--train.validation_tokens", "200",
]  # fmt: skip


def test_a_full_disk_in_the_middle_of_a_run(tmp_path: Path) -> None:
    text, run = str(write_text(tmp_path, 3_000)), tmp_path / "run"
    assert main(["train", text, "--out", str(run), "--budget", "4steps", *SETTINGS]) == 0
    before = load_model(run / "last").model.embedding.weight.sum()
    # From now on no file may grow beyond 32 KiB, as on a disk with no room for more weights.
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))\n"
        "from sharnn.cli.main import main\n"
        f"sys.exit(main(['train', '--resume', {str(run)!r}, '--budget', '9steps']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "sharnn: error: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert load_model(run / "last").model.embedding.weight.sum() == before
    assert not list((run / "checkpoints").glob(".*"))
    assert main(["train", "--resume", str(run), "--budget", "6steps"]) == 0


def test_a_run_folder_where_a_file_stands(tmp_path: Path) -> None:
    text, run = str(write_text(tmp_path, 3_000)), tmp_path / "run"
    assert main(["train", text, "--out", str(run), "--budget", "2steps", *SETTINGS]) == 0
    checkpoints = run / "checkpoints"
    checkpoints.rename(run / "elsewhere")
    checkpoints.write_text("")
    assert main(["train", "--resume", str(run), "--budget", "4steps"]) == 1
