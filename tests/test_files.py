"""Files and folders that appear whole, also when several processes write the same one."""

import multiprocessing
from pathlib import Path

from sharnn.files import atomic_folder


def _write_often(path: str, times: int) -> None:
    for _ in range(times):
        with atomic_folder(Path(path)) as folder:
            (folder / "content").write_text("whole")


def test_processes_that_write_one_folder_do_not_fail_each_other(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(str(path), 60)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert (path / "content").read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]
