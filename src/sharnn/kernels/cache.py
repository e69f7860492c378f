"""The folder of compiled kernels, which no other user may be able to write to.

A library loaded from there runs with the rights of this user. So a folder is used only if this user owns
it and nobody else can write to it or rename it, and a library only if this user owns it, too. The mode of
a cache folder that fails this check is not changed, because somebody chose it. Kernels are then kept in a
private folder of this user among the temporary files, which costs another compilation after a restart. If
that folder is not private either, no compiled kernels are kept or used.
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
    """Return the folder of compiled kernels, which then exists; None if no folder is private.

    Prints once on stderr why the preferred folder is not used.
    """
    from sharnn.files import cache_folder  # it imports platformdirs, which a wheel's build lacks

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
    tell_once(
        "folder", f"{fault}; {second_fault}: continuing without compiled kernels, more slowly"
    )
    return None


def may_load(library: Path) -> bool:
    """Return whether a library exists, is complete, and can be written by this user only.

    Prints on stderr why a library that exists is not loaded.
    """
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
    """Return whether a library is complete: loading a truncated one would crash the process.

    The header of a 64-bit ELF file has the offset of the section table, which linkers write last.
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
    """Return why libraries cannot be kept in a folder, which is created if missing; None if they can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status, above = folder.stat(), folder.parent.stat()
    except OSError as failure:
        return f"{folder} cannot be created ({failure.strerror})"
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
    """Return whether other users can write; a group with the owner as its only member does not count."""
    if grp is None or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return True
    return group.gr_name != owner or not {*group.gr_mem} <= {owner}
