"""Make 100 MB of English with markup from the documentation of Debian 12: as large as enwik8, and free.

    apt-get download linux-doc-6.1 dict-gcide wordnet-base perl-doc python3.11-doc postgresql-doc-15 \\
        sqlite3-doc git-doc dict-foldoc dict-jargon fortunes apache2-doc debian-handbook manpages \\
        manpages-dev developers-reference
    for package in *.deb; do dpkg -x $package unpacked; done
    python scripts/documentation_text.py unpacked docs100.txt

Dictionaries, manual pages and documentation of Linux, Python, SQLite, PostgreSQL, Perl, Apache and git.
Files are cut into pieces of 256 KiB, shuffled with a fixed seed, joined and cut to length, so that each
split of the text has some of everything. The text depends on the versions of the packages; its SHA-256 is
printed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sharnn.errors import SharnnError
from sharnn.files import atomic_file

_PIECE = 1 << 18
#: Shorter files are left out.
_SHORTEST = 500
#: Folders below FOLDER/usr/share, the pattern of their files, and a filter of their paths.
_PARTS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("dictd", "*.dict.dz", lambda name: True),
    (
        "doc/linux-doc-6.1", "**/*.gz",
        lambda name: name.endswith((".rst.gz", ".txt.gz")) and "_sources" not in name,
    ),
    ("doc/python3.11", "**/*.txt", lambda name: True),
    ("doc/sqlite3", "**/*.html", lambda name: True),
    ("doc/postgresql-doc-15", "**/*.html", lambda name: True),
    ("doc/apache2-doc", "**/*.html", lambda name: "/en/" in name),
    ("", "**/*.pod", lambda name: True),
    ("man", "**/*.gz", lambda name: True),
    ("doc/git-doc", "**/*.txt", lambda name: True),
    ("wordnet", "**/data.*", lambda name: True),
    ("games", "**/*", lambda name: True),
    ("doc/debian-handbook", "**/*.html", lambda name: "en-US" in name),
)  # fmt: skip


def texts(share: Path) -> Iterator[bytes]:
    """Yield the unpacked contents of the chosen files, in the order of their names."""
    for folder, pattern, wanted in _PARTS:
        for path in sorted((share / folder).glob(pattern)):
            if path.is_symlink() or not path.is_file() or not wanted(str(path)):
                continue
            content = path.read_bytes()
            if path.suffix in (".gz", ".dz"):
                content = gzip.decompress(content)
            if len(content) >= _SHORTEST and b"\0" not in content:
                yield content


def pieces_of(content: bytes) -> list[bytes]:
    """Return a file's content in pieces."""
    return [content[start : start + _PIECE] for start in range(0, len(content), _PIECE)]


def main() -> int:
    """Write the text; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, help="folder of the unpacked packages")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument(
        "--bytes", type=int, default=100_000_000, help="length of the text (100000000)"
    )
    options = parser.parse_args()
    pieces = [p for content in texts(options.folder / "usr/share") for p in pieces_of(content)]
    random.Random(0).shuffle(pieces)
    text = b"".join(pieces)[: options.bytes]
    if len(text) < options.bytes:
        print(
            f"documentation_text: error: {options.folder} has {len(text):,} bytes of text below "
            f"usr/share, but --bytes is {options.bytes:,}: unpack more packages, or lower --bytes",
            file=sys.stderr,
        )
        return 1
    try:
        with atomic_file(options.out) as file:
            file.write(text)
    except SharnnError as failure:
        print(f"documentation_text: error: {failure}", file=sys.stderr)
        return failure.exit_code
    print(f"{options.out}: {len(text):,} bytes, SHA-256 {hashlib.sha256(text).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
