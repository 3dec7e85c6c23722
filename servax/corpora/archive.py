"""Unpacking an archive from the net without letting it write anywhere else.

Only plain files and folders come out: links, devices, absolute paths, ``..``, encrypted members
and archives that grow beyond a limit are refused before or while they are unpacked.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from servax.errors import FetchError

__all__ = ["unpack"]

LARGEST_BYTES = 64 * 1024**3
"""No speech corpus that servax knows comes near 64 GiB."""
MOST_MEMBERS = 1_000_000
BLOCK = 1 << 20
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # an unknown compression of zip
)


@dataclass(frozen=True)
class Member:
    """One entry of an archive."""

    name: str
    """As the archive spells it."""
    kind: str
    """``file``, ``folder``, or what else it is."""
    bytes: int
    """Size that the archive states."""


def unpack(archive: Path, folder: Path, *, largest_bytes: int = LARGEST_BYTES) -> None:
    """Unpack a zip or tar archive into an empty folder.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, … (told by content, not by name).
        folder: Existing folder that everything is written below.
        largest_bytes: Most bytes that may come out.

    Raises:
        FetchError: The archive is of no known kind, is damaged, is too large, or has a member
            that is not a plain file or folder below `folder`. Something may have been unpacked
            before: the caller discards `folder`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _unpack_zip(archive, zipped, folder, largest_bytes)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                _unpack_tar(archive, tarred, folder, largest_bytes)
        else:
            raise FetchError(f"{archive.name}: is neither a zip nor a tar archive.")
    except DAMAGE as error:
        raise FetchError(f"{archive.name}: is damaged ({error}).") from None


def _unpack_zip(archive: Path, zipped: zipfile.ZipFile, folder: Path, largest: int) -> None:
    infos = zipped.infolist()
    members = [Member(i.filename, _zip_kind(i), i.file_size) for i in infos]
    budget = _Budget(archive, members, largest)
    for info, member in zip(infos, members, strict=True):
        target = _target(archive, folder, member)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
        else:
            with zipped.open(info) as source:
                budget.copy(source, target)


def _unpack_tar(archive: Path, tarred: tarfile.TarFile, folder: Path, largest: int) -> None:
    infos = list(_first(tarred, MOST_MEMBERS + 1))
    members = [Member(i.name, _tar_kind(i), i.size) for i in infos]
    budget = _Budget(archive, members, largest)
    for info, member in zip(infos, members, strict=True):
        target = _target(archive, folder, member)
        source = tarred.extractfile(info) if member.kind == "file" else None
        if source is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            with closing(source):
                budget.copy(source, target)


def _first(tarred: tarfile.TarFile, most: int) -> Iterator[tarfile.TarInfo]:
    for count, info in enumerate(tarred):
        if count >= most:
            return
        yield info


def _zip_kind(info: zipfile.ZipInfo) -> str:
    """Return what a member of a zip is; the upper half of its attributes is a Unix mode."""
    mode = info.external_attr >> 16
    if info.flag_bits & 1:
        return "an encrypted file"
    if stat.S_ISLNK(mode):
        return "a link"
    if info.is_dir():
        return "folder"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "a special file"


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "a link"
    if info.isdir():
        return "folder"
    return "file" if info.isreg() else "a special file"


def _target(archive: Path, folder: Path, member: Member) -> Path:
    """Return where a member goes, after refusing every way out of the folder."""
    if member.kind not in ("file", "folder"):
        raise FetchError(
            f"{archive.name}: {member.name!r} is {member.kind}, expected plain files and folders."
        )
    name = member.name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or any(":" in part for part in parts)
    if outside or "\0" in name:
        raise FetchError(f"{archive.name}: {member.name!r} would be written outside its folder.")
    return folder.joinpath(*parts)


class _Budget:
    """Counts what comes out, because an archive may state too little."""

    def __init__(self, archive: Path, members: list[Member], largest: int) -> None:
        self._archive, self._left, self._largest = archive, largest, largest
        if len(members) > MOST_MEMBERS or sum(member.bytes for member in members) > largest:
            raise self._too_large()

    def copy(self, source: IO[bytes], target: Path) -> None:
        """Write `source` as a new file, unless the archive grows too large."""
        if target.exists():
            raise FetchError(f"{self._archive.name}: {target.name!r} stands in it twice.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while block := source.read(BLOCK):
                self._left -= len(block)
                if self._left < 0:
                    raise self._too_large()
                file.write(block)

    def _too_large(self) -> FetchError:
        return FetchError(
            f"{self._archive.name}: would unpack to more than {self._largest} bytes or "
            f"{MOST_MEMBERS} files."
        )
