"""Known corpora: sources, checksums, splits and licences."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from sharnn.data.download import Progress, download
from sharnn.data.unpack import Reader, file_reader
from sharnn.errors import DataError


@dataclass(frozen=True)
class Located:
    """The location of a known corpus's text.

    Attributes:
        readers: Readers of train, valid and test; or of `all`, which `sizes` divides.
        sizes: Bytes of each split of `all`.
        content_sha256: Required digest of `all`.
    """

    readers: dict[str, list[Reader]]
    sizes: Mapping[str, int] | None = None
    content_sha256: str | None = None


@dataclass(frozen=True)
class ZipCorpus:
    """A corpus that is downloaded as a zip file.

    Attributes:
        name: Name on the command line.
        description: One line.
        licence: Licence of the text.
        tokenizer: Default tokenizer.
        url: URL of the zip file.
        zip_bytes: Size of the zip file.
        zip_sha256: Digest of the zip file.
        members: The file in the zip for each split; the same for all if `sizes` divides it.
        sizes: Bytes of each split if one member contains all of them.
        content_sha256: Digest of that member.
    """

    name: str
    description: str
    licence: str
    tokenizer: Literal["byte", "word"]
    url: str
    zip_bytes: int
    zip_sha256: str
    members: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    content_sha256: str | None = None

    @property
    def source(self) -> str:
        """The URL of the zip file."""
        return self.url

    def locate(self, local: Path | None, cache: Path, progress: Progress | None) -> Located:
        """Find the text in a local copy or an earlier download, or download it.

        Args:
            local: The zip file, the folder it unpacks to, or its only file; None to download.
            cache: Folder for the download.
            progress: Called with the progress of the download.

        Raises:
            DataError: The copy is missing or contains something else, or the download fails.
        """
        if local is None:
            local = cache / "downloads" / self.url.rsplit("/", 1)[1]
            download(self.url, local, self.zip_bytes, self.zip_sha256, progress)
        if not local.exists():
            raise DataError(f"there is nothing at {local}: give a copy of {self.url}")
        if not self.sizes:
            readers = {split: [self._reader(local, m)] for split, m in self.members.items()}
            return Located(readers)
        whole = self._reader(local, self.members["train"])
        return Located({"all": [whole]}, self.sizes, self.content_sha256)

    def _reader(self, local: Path, member: str) -> Reader:
        if local.is_dir():
            for path in (local / member, local / Path(member).name):
                if path.is_file():
                    return file_reader(path)
            raise DataError(f"{local} has no {Path(member).name}: it is not a copy of {self.name}")
        if zipfile.is_zipfile(local):
            return Reader(f"{local}:{member}", lambda: _open_member(local, member))
        if len(set(self.members.values())) > 1:
            raise DataError(
                f"{local} is not a zip file: give {self.url} or the folder that it unpacks to"
            )
        return file_reader(local)


@dataclass(frozen=True)
class StdlibCorpus:
    """The standard library of the running Python: its source, and its reference as text.

    It is on every machine and needs no network. A hash of a file's path chooses its split; the whole file
    belongs to that split, so no function is in two splits.
    """

    name: str = "python-stdlib"
    description: str = (
        f"source and documentation of Python {platform.python_version()}'s library, split by file"
    )
    licence: str = "PSF License"
    tokenizer: Literal["byte", "word"] = "byte"
    held_out_percent: int = 3

    @property
    def source(self) -> str:
        """Name and version: the library differs between versions of Python."""
        return f"standard library of Python {platform.python_version()}"

    def locate(self, local: Path | None, cache: Path, progress: Progress | None) -> Located:
        """Find the library's files.

        Args:
            local: Folder of another library to use instead.
            cache: Not used.
            progress: Not used.

        Raises:
            DataError: There is no source to read.
        """
        root = local or Path(sysconfig.get_paths()["stdlib"])
        readers: dict[str, list[Reader]] = {"train": [], "valid": [], "test": []}
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            relative = path.relative_to(root)
            if not _SKIPPED.intersection(relative.parts) and path.is_file():
                readers[self._split_of(relative)].append(file_reader(path))
        if not readers["train"]:
            raise DataError(
                f"Python {platform.python_version()} has no library source in {root}: give the folder of "
                "a library as the local copy"
            )
        return Located(readers)

    def _split_of(self, relative: Path) -> str:
        digest = hashlib.sha256(relative.as_posix().encode()).digest()
        bucket = int.from_bytes(digest[:4], "big") % 100
        if bucket < self.held_out_percent:
            return "test"
        return "valid" if bucket < 2 * self.held_out_percent else "train"


#: Folders that are not part of the library itself: installed packages, tests, bundled wheels.
_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    | {"lib2to3", "ensurepip"}
)

_CC = "CC BY-SA"


def _wikitext(size: str, raw: bool, zip_bytes: int, zip_sha256: str) -> ZipCorpus:
    form, ending = ("-raw", "raw") if raw else ("", "tokens")
    name = f"wikitext-{size}{form}"
    kind = "raw text" if raw else "words, rare ones as <unk>"
    return ZipCorpus(
        name=name,
        description=f"WikiText-{size}, Wikipedia's good and featured articles: {kind}",
        licence=_CC,
        tokenizer="byte" if raw else "word",
        url=f"https://wikitext.smerity.com/{name}-v1.zip",
        zip_bytes=zip_bytes,
        zip_sha256=zip_sha256,
        members={split: f"{name}/wiki.{split}.{ending}" for split in ("train", "valid", "test")},
    )


_ENWIK8 = ZipCorpus(
    name="enwik8",
    description="the first 100 MB of an English Wikipedia dump; 90/5/5 MB",
    licence=_CC,
    tokenizer="byte",
    url="http://mattmahoney.net/dc/enwik8.zip",
    zip_bytes=36_445_475,
    zip_sha256="547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    members=dict.fromkeys(("train", "valid", "test"), "enwik8"),
    sizes={"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000},
    content_sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
)

KNOWN_CORPORA: dict[str, ZipCorpus | StdlibCorpus] = {
    corpus.name: corpus
    for corpus in (
        StdlibCorpus(),
        _ENWIK8,
        _wikitext(
            "2",
            False,
            4_475_746,
            "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        ),
        _wikitext(
            "2", True, 4_721_645, "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"
        ),
        _wikitext(
            "103",
            False,
            190_229_076,
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        ),
        _wikitext(
            "103",
            True,
            191_984_949,
            "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
        ),
    )
}


def _open_member(archive: Path, member: str) -> IO[bytes]:
    """Open a file in a zip; closing it closes the archive, too."""
    try:
        opened = zipfile.ZipFile(archive)
        stream = opened.open(member)
    except (KeyError, zipfile.BadZipFile) as failure:
        raise DataError(f"{archive} has no {member}: it is another zip file") from failure
    except (RuntimeError, NotImplementedError) as failure:  # a password, a rare compression
        raise DataError(
            f"{archive} can't be unpacked ({failure}): unpack it, and give the folder"
        ) from failure
    opened.close()  # the stream keeps its own reference to the file
    return stream
