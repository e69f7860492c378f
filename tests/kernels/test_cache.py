from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from sharnn.kernels import cache, tell
from sharnn.kernels.build import compile_kernel, find_compiler
from sharnn.kernels.table import KERNELS, built_variants

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def _afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(tell, "_told", set())
    (tmp_path / "cache" / "native").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    cache._private_folder.cache_clear()


def test_a_private_folder_is_used_and_made(tmp_path: Path) -> None:
    (tmp_path / "cache" / "native").rmdir()
    folder = cache.folder()
    assert folder == tmp_path / "cache" / "native"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("opened", ["cache", "cache/native"])
@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_folder_that_others_can_write_to_is_told_once_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: str, mode: int
) -> None:
    (tmp_path / opened).chmod(mode)
    for _ in range(2):
        assert cache.folder() == tmp_path / "tmp" / f"sharnn-kernels-{os.getuid()}"
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert (
        f"sharnn: other users can write to {tmp_path / opened}: compiled kernels are kept" in told
    )


def test_a_group_with_others_in_it_is_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "native"
    folder.chmod(0o770)
    group = cache.grp.getgrgid(folder.stat().st_gid)
    owner = cache.pwd.getpwuid(os.getuid()).pw_name
    for members, name, expected in (
        ([], owner, False),
        ([owner], owner, False),
        ([owner, "mallory"], owner, True),
        ([], "staff", True),
    ):
        of_group = cache.grp.struct_group((name, "x", group.gr_gid, members))
        monkeypatch.setattr(cache.grp, "getgrgid", lambda gid, found=of_group: found)
        assert cache._others_write(folder.stat()) == expected


def test_a_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert cache.folder() is None
    told = capsys.readouterr().err
    assert f"{tmp_path / 'cache' / 'native'} belongs to another user" in told
    assert "continuing without compiled kernels, more slowly" in told


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHARNN_CACHE", str(tmp_path / "file"))
    assert cache.folder() == tmp_path / "tmp" / f"sharnn-kernels-{os.getuid()}"
    assert "cannot be created (Not a directory)" in capsys.readouterr().err


def test_only_own_private_files_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "cache" / "native" / "kernel.so"
    assert not cache.may_load(library)
    assert capsys.readouterr().err == ""
    library.write_bytes(b"\x7fELF\x02" + bytes(59))  # of no sections
    library.chmod(0o755)
    assert cache.may_load(library)
    library.chmod(0o757)
    assert not cache.may_load(library)
    assert "kernel.so is not a file that only this user writes" in capsys.readouterr().err
    library.chmod(0o755)
    link = library.with_name("link.so")
    link.symlink_to(library)
    assert not cache.may_load(link)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert not cache.may_load(library)


@pytest.mark.parametrize("length", [0, 40, 3000])
def test_a_library_that_was_cut_short_is_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    library = tmp_path / "cache" / "native" / "embed.so"
    kernel = next(kernel for kernel in KERNELS if kernel.source.stem == "embed")
    compile_kernel(compiler, kernel, built_variants()[0], False, library)
    assert cache.may_load(library)
    library.write_bytes(library.read_bytes()[:length])
    assert not cache.may_load(library)
    assert "is cut short: it is compiled again" in capsys.readouterr().err
