"""Where a run lies: a folder, or any fsspec URL (``s3://…``, ``gs://…``, ``file://…``).

Behind a URL each machine works in a mirror below its cache folder. Before a stage, the results
that it needs are fetched; after it, its own files are sent, ``done.json`` last: a result that is
only half there is not there. Stages are named by the hash of their settings, so that a mirror can
never hold an older result under the same name.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fsspec import available_protocols
from fsspec.core import url_to_fs

from servax.corpora import cache_folder
from servax.errors import PathError, ServaxError, nearest, unwritable
from servax.files import whole_file
from servax.stages.stage import DONE, STAGES, Stage, Task, Watcher
from servax.training import CHECKPOINT

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf")
"""Where an object appears whole or not at all, and a folder is only the beginning of a name."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
"""What the files of a stage are called; `..` and a leading `/` are none of these."""


class Storage:
    """The folder or URL of a run; of a folder nothing need be brought or sent.

    Args:
        place: A folder, or what fsspec opens and can write; chains (``::``) are not taken.

    Raises:
        ServaxError: The URL is of no known kind, or needs a package that is not installed.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.remote = is_url(self.place)
        self.folder = mirror(self.place) if self.remote else Path(place)
        """Where this machine works: the folder itself, or its mirror of the URL."""
        self.shown = without_password(self.place)
        self._protocol = self.place.partition("://")[0] if self.remote else ""
        if self.remote:
            self._fs, self._root = self._opened()

    @property
    def of_this_process(self) -> bool:
        """Whether no other process can see it."""
        return self._protocol == "memory"

    def _opened(self) -> tuple[Any, str]:
        if "::" in self.place:
            raise PathError(self.shown, "is a chain of URLs, expected one, such as s3://…")
        if self._protocol not in available_protocols():
            hint = nearest(self._protocol, available_protocols())
            raise PathError(
                self.shown,
                f"unknown protocol {self._protocol!r}, expected a folder or a URL that fsspec "
                f"knows, such as s3://, gs://, sftp:// or file://.{hint}",
            )
        try:
            fs, root = url_to_fs(self.place)
        except ImportError as error:
            needs = f"{self._protocol}:// needs a package that is not installed ({error})"
            raise ServaxError(f"{self.shown}: {needs}.") from None
        except Exception as error:  # each file system has errors of its own
            raise ServaxError(f"{self.shown}: cannot be opened ({_reason(error)}).") from error
        return fs, str(root).rstrip("/")

    def check(self) -> None:
        """Write and delete an empty file behind a URL: a refusal now, not after hours of work.

        Raises:
            ServaxError: It cannot be written.
        """
        if not self.remote:
            return
        place = f"{self._root}/probe-{uuid.uuid4().hex[:12]}.tmp"
        with self._refusing("", "written"):
            if self._protocol not in OBJECT_STORES:
                self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(place, b"")
            self._fs.rm_file(place)

    def perform(self, task: Task, watcher: Watcher, *, threads: int | None = None) -> None:
        """Perform a stage with what it needs from there, and send its result there.

        Args:
            task: Its stage; those that it needs are done.
            watcher: Is told how far it is.
            threads: That its work may use; default as many as before.

        Raises:
            ServaxError: Something cannot be read or written, or the work itself was refused.
        """
        self.fetch(task.stage)
        if task.stage.result() is None:
            for need in task.needs:
                self.fetch(need)
        task.perform(watcher, threads=threads)
        self.push(task.stage)

    def fetch(self, stage: Stage) -> None:
        """Bring a stage's result here, if it is there and not here; ``done.json`` comes last.

        Raises:
            ServaxError: It cannot be read, or the mirror cannot be written.
        """
        if not self.remote or stage.result() is not None or not self._done_there(stage):
            return
        place = self._name(stage.folder)
        names = self._names(place)
        stage.open()
        for name in [*sorted(set(names) - {DONE}), DONE]:
            path = stage.folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as part, self._refusing(f"{place}/{name}", "read"):
                    self._fs.get_file(f"{self._root}/{place}/{name}", str(part))
            except OSError as error:
                raise ServaxError(f"{path}: {unwritable(error)}.") from None

    def push(self, stage: Stage) -> None:
        """Send a done stage's result, if it is not there yet; ``done.json`` goes last.

        Raises:
            ServaxError: It cannot be written.
        """
        if not self.remote or stage.result() is None or self._done_there(stage):
            return
        files = [path for path in _files(stage.folder) if path.name not in (DONE, CHECKPOINT)]
        self._send([*files, stage.folder / DONE])

    def publish(self) -> None:
        """Send records, models, logs and the report.

        Raises:
            ServaxError: They cannot be written.
        """
        if not self.remote:
            return
        inside = (path for path in self.folder.iterdir() if path.name != STAGES)
        folders = sorted(path for path in inside if path.is_dir())
        files = [path for folder in folders for path in _files(folder)]
        self._send([*files, *sorted(self.folder.glob("*.npz"))])

    def _done_there(self, stage: Stage) -> bool:
        name = f"{self._name(stage.folder)}/{DONE}"
        with self._refusing(name, "read"):
            self._fs.invalidate_cache()
            try:
                text = bytes(self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return False
        return stage.told(text) is not None

    def _names(self, folder: str) -> list[str]:
        """Return the files below a folder, named from there; one that leads out is refused."""
        with self._refusing(folder, "read"):
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
            with self._refusing(name, "written"):
                if self._protocol in OBJECT_STORES:
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
    def _refusing(self, name: str, what: str) -> Iterator[None]:
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
