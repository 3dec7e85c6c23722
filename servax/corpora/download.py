"""A corpus from its public home to its folder: load, check, unpack, rename into place.

A file is resumed where it stopped and kept only with the right checksum. Unpacking cannot write
anywhere else: only plain files and folders come out; links, devices, absolute paths, ``..``,
encrypted members and archives that grow beyond a limit are refused before or while they are
unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import ipaddress
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from servax.corpora import synthetic
from servax.corpora.description import Download, Progress
from servax.corpora.loading import data_folder, describe, spoken
from servax.errors import CorpusError, FetchError, SettingError, unwritable
from servax.kinds import Choice

BLOCK = 1 << 18
TIMEOUT_SECONDS = 60
LARGEST_BYTES = 64 * 1024**3
"""No speech corpus that servax knows comes near 64 GiB."""
MOST_MEMBERS = 1_000_000
DIGITS = {"md5": 32, "sha256": 64}
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # an unknown compression of zip
)


def fetch(
    name: str,
    root: str | Path | None = None,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of a corpus after loading it; the folder appears whole or not at all.

    Args:
        name: One of `servax.corpora.NAMES`; the synthetic corpus is spoken, not loaded.
        root: Folder to make; default ``$SERVAX_DATA/<name>``.
        url: Another address of the archive, for instance a mirror; needs `sha256`.
        sha256: Checksum of what `url` serves.
        progress: Told the bytes that are there, and how many there will be (0: unknown).

    Raises:
        CorpusError: The corpus must be fetched by hand, `root` holds something already, the
            download fails, its checksum is wrong, or the archive is not safe to unpack.
        SettingError: `name` is unknown, or `url` and `sha256` are not given together.
    """
    if name == synthetic.DESCRIPTION.name and url is None:
        return spoken(None if root is None else Path(root))
    description = describe(name)
    if (url is None) != (sha256 is None):
        raise SettingError("sha256", sha256, "the checksum of what url serves: give both or none")
    what = description.download
    if url is not None and sha256 is not None:
        what = Download(url=url, algorithm="sha256", checksum=sha256)
    if what is None:
        raise CorpusError(f"{name} must be fetched by hand: {description.by_hand}.")
    target = Path(root) if root is not None else data_folder() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CorpusError(f"{target}: is not empty, remove it or choose another folder.")
    part = target.parent / f".{target.name}-{what.checksum[:12].lower()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download(what, part, progress=progress)
        _unpack_into(part, target)
    except OSError as error:
        raise FetchError(f"{target}: {unwritable(error)}.") from None
    return target


def _unpack_into(archive: Path, target: Path) -> None:
    """Unpack beside `target` and rename; the archive is removed whatever happens.

    An archive that cannot be unpacked has the right checksum, so loading it again is no help.
    """
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        unpack(archive, work)
        if target.exists():
            target.rmdir()  # it is empty
        work.rename(target)
        target.chmod(0o755)  # mkdtemp makes folders that only their owner may read
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)


def download(what: Download, part: Path, *, progress: Progress | None = None) -> None:
    """Load a file into `part`; afterwards its checksum is right.

    What `part` already holds is kept, and only the rest is asked for (RFC 9110, section 14.2). A
    server that sends everything again is obeyed.

    Args:
        what: Address and checksum.
        part: File to write; it survives an interruption, so that the next call goes on.
        progress: Told the bytes that are there, and how many there will be (0: unknown).

    Raises:
        FetchError: The server refuses, the connection breaks, or the checksum is wrong (then
            `part` is removed).
        SettingError: The address is not https (http is allowed on this machine only), or the
            checksum is not one.
    """
    _check(what)
    have = _size(part)
    try:
        _load(what, part, have, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if not (error.code == 416 and have):  # nothing behind what is there: the checksum decides
            reason = f"the server answers {error.code} {error.reason}"
            raise FetchError(f"{what.url}: {reason}.") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = str(getattr(error, "reason", None) or error)
        have = _size(part)
        advice = "run the command again to go on" if have else "try again later"
        kept = f"{have} bytes are kept, {advice}" if have else advice
        raise FetchError(f"{what.url}: cannot be loaded ({reason}): {kept}.") from None
    with part.open("rb") as file:
        found = hashlib.file_digest(file, what.algorithm).hexdigest()
    if found != what.checksum.lower():
        part.unlink()
        raise FetchError(
            f"{what.url}: has {what.algorithm} {found}, expected {what.checksum}. "
            f"The file was removed; try again, or fetch the corpus by hand."
        )


def _check(what: Download) -> None:
    """Refuse an address that could be read or changed on its way, and a malformed checksum."""
    if not _is_safe(what.url):
        raise SettingError("url", what.url, "an https address (http only on this machine)")
    Choice(DIGITS).check("checksum algorithm", what.algorithm)
    digits = DIGITS[what.algorithm]
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", what.checksum):
        raise SettingError(what.algorithm, what.checksum, f"{digits} hexadecimal digits")


def _is_safe(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where the first address could have pointed."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl) or (req.type == "https" and not newurl.startswith("https:")):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _load(what: Download, part: Path, have: int, progress: Progress | None) -> None:
    """Append to `part` what it lacks behind the bytes that it has."""
    request = urllib.request.Request(what.url, headers={"User-Agent": "servax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects()]
    if _is_this_machine(urllib.parse.urlsplit(what.url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise urllib.error.URLError("it resumes at the wrong place")
        written = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = written + int(length) if length.isdigit() else 0
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(BLOCK):
                written += len(block)
                if written > LARGEST_BYTES:
                    raise urllib.error.URLError(f"it sends more than {LARGEST_BYTES} bytes")
                file.write(block)
                if progress is not None:
                    progress(written, total)
    if total and written != total:
        raise urllib.error.URLError(f"it stopped at {written} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


@dataclass(frozen=True)
class _Member:
    """One entry of an archive."""

    name: str
    """As the archive spells it."""
    kind: str
    """``file``, ``folder``, or what else it is."""
    size: int
    """Bytes that the archive states."""
    open: Callable[[], IO[bytes] | None]
    """Gives what a file holds."""


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
                _unpack(archive.name, list(_of_zip(zipped)), folder, largest_bytes)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                members = list(islice(_of_tar(tarred), MOST_MEMBERS + 1))
                _unpack(archive.name, members, folder, largest_bytes)
        else:
            raise FetchError(f"{archive.name}: is neither a zip nor a tar archive.")
    except DAMAGE as error:
        raise FetchError(f"{archive.name}: is damaged ({error}).") from None


def _of_zip(zipped: zipfile.ZipFile) -> Iterator[_Member]:
    """Yield the members of a zip; the upper half of their attributes is a Unix mode."""
    for info in zipped.infolist():
        mode = info.external_attr >> 16
        if info.flag_bits & 1:
            kind = "an encrypted file"
        elif stat.S_ISLNK(mode):
            kind = "a link"
        elif info.is_dir():
            kind = "folder"
        else:
            kind = "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "a special file"
        yield _Member(info.filename, kind, info.file_size, partial(zipped.open, info))


def _of_tar(tarred: tarfile.TarFile) -> Iterator[_Member]:
    for info in tarred:
        if info.issym() or info.islnk():
            kind = "a link"
        elif info.isdir():
            kind = "folder"
        else:
            kind = "file" if info.isreg() else "a special file"
        yield _Member(info.name, kind, info.size, partial(tarred.extractfile, info))


def _unpack(archive: str, members: Sequence[_Member], folder: Path, largest: int) -> None:
    """Write members; what comes out is counted, because an archive may state too little."""
    too_large = FetchError(
        f"{archive}: would unpack to more than {largest} bytes or {MOST_MEMBERS} files."
    )
    if len(members) > MOST_MEMBERS or sum(member.size for member in members) > largest:
        raise too_large
    left = largest
    for member in members:
        target = _target(archive, folder, member)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        if target.exists():
            raise FetchError(f"{archive}: {target.name!r} stands in it twice.")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        assert source is not None  # it is a file
        with source, target.open("xb") as file:
            while block := source.read(BLOCK):
                left -= len(block)
                if left < 0:
                    raise too_large
                file.write(block)


def _target(archive: str, folder: Path, member: _Member) -> Path:
    """Return where a member goes, after refusing every way out of the folder."""
    if member.kind not in ("file", "folder"):
        raise FetchError(
            f"{archive}: {member.name!r} is {member.kind}, expected plain files and folders."
        )
    name = member.name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or any(":" in part for part in parts)
    if outside or "\0" in name:
        raise FetchError(f"{archive}: {member.name!r} would be written outside its folder.")
    return folder.joinpath(*parts)
