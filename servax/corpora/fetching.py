"""A corpus from its public home to its folder: download, check, unpack, rename into place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from servax.corpora import synthetic
from servax.corpora.archive import unpack
from servax.corpora.description import Download
from servax.corpora.download import Progress, download
from servax.corpora.folders import data_folder
from servax.corpora.loading import describe
from servax.errors import CorpusError, FetchError, SettingError, unwritable

__all__ = ["fetch"]


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
        return synthetic.generate(root)
    what = _what(name, url, sha256)
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


def _what(name: str, url: str | None, sha256: str | None) -> Download:
    """Return what to load: the caller's address, or the description's."""
    description = describe(name)
    if (url is None) != (sha256 is None):
        raise SettingError("sha256", sha256, "the checksum of what url serves: give both or none")
    if url is not None and sha256 is not None:
        return Download(url=url, algorithm="sha256", checksum=sha256)
    if description.download is None:
        raise CorpusError(f"{name} must be fetched by hand: {description.by_hand}.")
    return description.download


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
