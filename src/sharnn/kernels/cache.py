"""Where compiled kernels are kept: folders that nobody else can put a library into.

What is loaded from there runs as this user. So a folder is used only if this user owns it and nobody
else can write to it or rename it, and a library in it only if this user owns that, too. A cache folder
that fails this is not repaired, for somebody chose its mode: kernels are then kept in a private folder of
this user beside other temporary files, which costs one more compilation after a restart, or, where even
that one is not private, nowhere.
"""

from __future__ import annotations

import functools
import os
import platform
import stat
import struct
import tempfile
from pathlib import Path

try:
    import grp
    import pwd
except ImportError:  # Windows, where a user's folders are private by default
    grp = pwd = None  # type: ignore[assignment]

from sharnn.kernels.tell import tell_once


def folder() -> Path | None:
    """Return the folder of compiled kernels, which is there then; None where none is private.

    Says on stderr, once, why the preferred one is not used.
    """
    from sharnn.files import cache_folder  # its platformdirs is not there when a wheel is built

    return _private_folder(cache_folder() / "native")


@functools.cache
def _private_folder(preferred: Path) -> Path | None:
    fault = _fault(preferred)
    if fault is None:
        return preferred
    user = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"sharnn-kernels-{user}"
    second_fault = _fault(fallback)
    if second_fault is None:
        tell_once("folder", f"{fault}: compiled kernels are kept in {fallback} instead")
        return fallback
    tell_once("folder", f"{fault}; {second_fault}: going on without compiled kernels, more slowly")
    return None


def may_load(library: Path) -> bool:
    """Whether a library is there and this user's own; says on stderr if it is another's."""
    try:
        status = library.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or not _is_own(status) or _others_write(status):
        tell_once(
            "library", f"{library} is not a file that only this user writes: it is compiled again"
        )
        return False
    if not _is_whole(library, status.st_size):
        tell_once("library", f"{library} is cut short: it is compiled again")
        return False
    return True


def _is_whole(library: Path, size: int) -> bool:
    """Whether a library goes up to its end: to load one that does not would end the process.

    An ELF file of 64 bits says where its table of sections stands, which linkers write last.
    """
    with library.open("rb") as file:
        header = file.read(64)
    if header[:5] != b"\x7fELF\x02":
        return size > 0 and platform.system() != "Linux"
    if len(header) < 64:
        return False
    (offset,) = struct.unpack_from("<Q", header, 40)
    entry_size, num_entries = struct.unpack_from("<HH", header, 58)
    return offset + entry_size * num_entries <= size


def _fault(folder: Path) -> str | None:
    """Return why a folder, which is made if missing, cannot keep libraries; None where it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status, above = folder.stat(), folder.parent.stat()
    except OSError as failure:
        return f"{folder} cannot be made ({failure.strerror})"
    if not _is_own(status):
        return f"{folder} belongs to another user"
    if _others_write(status):
        return f"other users can write to {folder}"
    if _others_write(above) and not above.st_mode & stat.S_ISVTX:
        return f"other users can write to {folder.parent}"
    return None if os.access(folder, os.W_OK) else f"{folder} cannot be written to"


def _is_own(status: os.stat_result) -> bool:
    return grp is None or status.st_uid == os.getuid()


def _others_write(status: os.stat_result) -> bool:
    """Whether others than the owner can write; a group that is the owner alone does not count."""
    if grp is None or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return True
    return group.gr_name != owner or not {*group.gr_mem} <= {owner}
