"""Files behind a URL, through fsspec: read, listed, and written so that each appears whole."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fsspec import available_protocols
from fsspec.core import url_to_fs

from servax.errors import PathError, ServaxError, nearest

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf")
"""Where an object appears whole or not at all, and a folder is only the beginning of a name."""
OF_THIS_PROCESS = ("memory",)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
"""What the files of a stage are called; `..` and a leading `/` are none of these."""


def is_url(place: str) -> bool:
    """Tell whether a place is a URL and no path."""
    return "://" in place


def without_password(url: str) -> str:
    """Return a URL as people may see it."""
    if not is_url(url) or "@" not in url:
        return url
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:***@{host}" if ":" in user else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc))


class Remote:
    """The files behind a URL.

    Args:
        url: Anything that fsspec opens and that can be written; chains (``::``) are not taken.

    Raises:
        ServaxError: It is of no known kind, or needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        self.shown = without_password(url)
        self.protocol = url.partition("://")[0]
        if "::" in url:
            raise PathError(self.shown, "is a chain of URLs, expected one, such as s3://…")
        if self.protocol not in available_protocols():
            hint = nearest(self.protocol, available_protocols())
            raise PathError(
                self.shown,
                f"unknown protocol {self.protocol!r}, expected a folder or a URL that fsspec "
                f"knows, such as s3://, gs://, sftp:// or file://.{hint}",
            )
        try:
            self._fs, root = url_to_fs(url)
        except ImportError as error:
            raise ServaxError(
                f"{self.shown}: {self.protocol}:// needs a package that is not installed ({error})."
            ) from None
        except Exception as error:  # each file system has errors of its own
            raise ServaxError(f"{self.shown}: cannot be opened ({_reason(error)}).") from error
        self._root = str(root).rstrip("/")

    @property
    def of_this_process(self) -> bool:
        """Whether no other process can see the files."""
        return self.protocol in OF_THIS_PROCESS

    def probe(self) -> None:
        """Write and delete an empty file: a refusal now, not when hours of work are to be kept.

        Raises:
            ServaxError: It cannot be written.
        """
        place = self._path(f"probe-{uuid.uuid4().hex[:12]}.tmp")
        with self._told("", "written"):
            if self.protocol not in OBJECT_STORES:
                self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(place, b"")
            self._fs.rm_file(place)

    def read(self, name: str) -> bytes | None:
        """Return what is in a small file, or none when there is none."""
        with self._told(name, "read"):
            self._fs.invalidate_cache()
            try:
                content = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return bytes(content)

    def names(self, folder: str) -> list[str]:
        """Return the files below a folder, named from there.

        Raises:
            ServaxError: A name leads out of the folder, or is none that servax gives.
        """
        with self._told(folder, "read"):
            found = self._fs.find(self._path(folder))
        start = self._path(folder).lstrip("/") + "/"
        names = []
        for path in found:
            name = str(path).lstrip("/").removeprefix(start)
            if name.endswith(".tmp"):
                continue
            if not NAME.fullmatch(name):
                raise ServaxError(
                    f"{self.shown}/{folder}: holds {name!r}, which is no file of a stage; "
                    "delete the folder and run again."
                )
            names.append(name)
        return names

    def download(self, name: str, path: Path) -> None:
        """Copy a file to this machine."""
        with self._told(name, "read"):
            self._fs.get_file(self._path(name), str(path))

    def write(self, path: Path, name: str) -> None:
        """Copy a file of this machine; another machine sees all of it or none.

        Raises:
            ServaxError: It cannot be written.
        """
        place = self._path(name)
        with self._told(name, "written"):
            if self.protocol in OBJECT_STORES:
                self._fs.put_file(str(path), place)
                return
            temporary = f"{place}.{uuid.uuid4().hex[:12]}.tmp"
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            try:
                self._fs.put_file(str(path), temporary)
                self._fs.mv(temporary, place)
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
                raise

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        """Turn the error of whichever file system this is into a sentence."""
        try:
            yield
        except ServaxError:
            raise
        except Exception as error:
            where = f"{self.shown.rstrip('/')}/{name}".rstrip("/")
            raise ServaxError(f"{where}: cannot be {what} ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    """Return what an error says, in one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split()).rstrip(".")
