"""Where a run lies: a folder, or any fsspec URL (``s3://…``, ``gs://…``, ``file://…``).

Behind a URL each machine works in a mirror below its cache folder. Before a stage, the results
that it needs are fetched; after it, its own files are sent, ``done.json`` last: a result that is
only half there is not there. Stages are named by the hash of their settings, so that a mirror can
never hold an older result under the same name.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fsspec import available_protocols
from fsspec.core import url_to_fs

from servax.corpora import cache_folder
from servax.errors import PathError, ServaxError, nearest, unwritable
from servax.files import whole_file
from servax.stages.stage import DONE, STAGES, Stage
from servax.training import CHECKPOINT

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf")
"""Where an object appears whole or not at all, and a folder is only the beginning of a name."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
"""What the files of a stage are called; `..` and a leading `/` are none of these."""


class Storage:
    """Where a run lies: here a folder, which needs nothing brought or sent.

    Args:
        place: The folder or URL as it was given.
        folder: Where this machine works: the folder itself, or its mirror of the URL.
    """

    of_this_process = False
    """Whether no other process can see it (``memory://``)."""

    def __init__(self, place: str, folder: Path) -> None:
        self.place, self.folder = place, folder

    @staticmethod
    def of(place: str | Path) -> Storage:
        """Return the storage at a folder or a URL.

        Raises:
            ServaxError: The URL is of no known kind, or needs a package that is not installed.
        """
        text = str(place)
        return Remote(text) if is_url(text) else Storage(text, Path(text))

    @property
    def shown(self) -> str:
        """The place as people may see it: without a password."""
        return without_password(self.place)

    def check(self) -> None:
        """Make sure that what lies behind a URL can be written; a folder tells by itself.

        Raises:
            ServaxError: It cannot.
        """

    def fetch(self, stage: Stage) -> None:
        """Bring a stage's result here, if it is there and not here.

        Raises:
            ServaxError: It cannot be read, or the mirror cannot be written.
        """

    def push(self, stage: Stage) -> None:
        """Send a done stage's result, if it is not there yet.

        Raises:
            ServaxError: It cannot be written.
        """

    def publish(self) -> None:
        """Send records, models, logs and the report.

        Raises:
            ServaxError: They cannot be written.
        """


class Remote(Storage):
    """The files behind a URL, through fsspec: each appears whole.

    Args:
        url: Anything that fsspec opens and that can be written; chains (``::``) are not taken.

    Raises:
        ServaxError: It is of no known kind, or needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, mirror(url))
        self.protocol = url.partition("://")[0]
        self.of_this_process = self.protocol == "memory"
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

    def check(self) -> None:
        """Write and delete an empty file: a refusal now, not when hours of work are to be kept."""
        place = f"{self._root}/probe-{uuid.uuid4().hex[:12]}.tmp"
        with self._told("", "written"):
            if self.protocol not in OBJECT_STORES:
                self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(place, b"")
            self._fs.rm_file(place)

    def fetch(self, stage: Stage) -> None:
        """Bring a stage's result here, if it is there and not here; ``done.json`` comes last."""
        if stage.result() is not None or not self._done_there(stage):
            return
        place = self._name(stage.folder)
        names = self._names(place)
        stage.open()
        for name in [*sorted(set(names) - {DONE}), DONE]:
            path = stage.folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as part, self._told(f"{place}/{name}", "read"):
                    self._fs.get_file(f"{self._root}/{place}/{name}", str(part))
            except OSError as error:
                raise ServaxError(f"{path}: {unwritable(error)}.") from None

    def push(self, stage: Stage) -> None:
        """Send a done stage's result, if it is not there yet; ``done.json`` goes last."""
        if stage.result() is None or self._done_there(stage):
            return
        files = [path for path in _files(stage.folder) if path.name not in (DONE, CHECKPOINT)]
        self._send([*files, stage.folder / DONE])

    def publish(self) -> None:
        """Send records, models, logs and the report."""
        inside = (path for path in self.folder.iterdir() if path.name != STAGES)
        folders = sorted(path for path in inside if path.is_dir())
        files = [path for folder in folders for path in _files(folder)]
        self._send([*files, *sorted(self.folder.glob("*.npz"))])

    def _done_there(self, stage: Stage) -> bool:
        name = f"{self._name(stage.folder)}/{DONE}"
        with self._told(name, "read"):
            self._fs.invalidate_cache()
            try:
                text = bytes(self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return False
        try:
            done = json.loads(text)
        except ValueError:
            return False
        return isinstance(done, dict) and done.get("settings") == stage.settings

    def _names(self, folder: str) -> list[str]:
        """Return the files below a folder, named from there; one that leads out is refused."""
        with self._told(folder, "read"):
            found = self._fs.find(f"{self._root}/{folder}")
        start = f"{self._root}/{folder}".lstrip("/") + "/"
        names = [str(path).lstrip("/").removeprefix(start) for path in found]
        names = [name for name in names if not name.endswith(".tmp")]
        for name in names:
            if not NAME.fullmatch(name):
                raise ServaxError(
                    f"{self.shown}/{folder}: holds {name!r}, which is no file of a stage; "
                    "delete the folder and run again."
                )
        return names

    def _send(self, paths: Iterable[Path]) -> None:
        """Copy files of this machine; another machine sees all of each or none."""
        for path in paths:
            name = self._name(path)
            place = f"{self._root}/{name}"
            with self._told(name, "written"):
                if self.protocol in OBJECT_STORES:
                    self._fs.put_file(str(path), place)
                    continue
                temporary = f"{place}.{uuid.uuid4().hex[:12]}.tmp"
                self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
                try:
                    self._fs.put_file(str(path), temporary)
                    self._fs.mv(temporary, place)
                except BaseException:
                    with suppress(Exception):
                        self._fs.rm_file(temporary)
                    raise

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

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


def mirror(url: str) -> Path:
    """Return the folder of this machine that mirrors a run behind a URL."""
    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]
    return cache_folder() / "runs" / name


def _files(folder: Path) -> list[Path]:
    """Return the whole files below a folder: none that is still being written."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".tmp"
    )


def _reason(error: Exception) -> str:
    """Return what an error says, in one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split()).rstrip(".")
