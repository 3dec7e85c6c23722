"""Where a run lies: a folder, or any fsspec URL (``s3://…``, ``gs://…``, ``file://…``).

Behind a URL each machine works in a mirror below its cache folder. Before a stage, the results
that it needs are fetched; after it, its own files are sent, ``done.json`` last: a result that is
only half there is not there. Stages are named by the hash of their settings, so that a mirror can
never hold an older result under the same name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from servax.corpora.folders import cache_folder
from servax.errors import ServaxError, unwritable
from servax.experiments.remote import Remote, is_url, without_password
from servax.experiments.stages import DONE, Stage
from servax.files import whole_file
from servax.training.loop import CHECKPOINT

STAGES = "stages"


@dataclass(frozen=True)
class Storage:
    """Where a run lies."""

    place: str
    """As it was given: a folder or a URL."""
    folder: Path
    """Where this machine works: the folder itself, or its mirror of the URL."""
    remote: Remote | None = None
    """What lies behind the URL."""

    @classmethod
    def of(cls, place: str | Path) -> Storage:
        """Return the storage at a folder or a URL.

        Raises:
            ServaxError: The URL is of no known kind, or needs a package that is not installed.
        """
        text = str(place)
        if not is_url(text):
            return cls(text, Path(text))
        remote = Remote(text)
        return cls(text, mirror(text), remote)

    @property
    def shown(self) -> str:
        """The place as people may see it: without a password."""
        return without_password(self.place)

    @property
    def of_this_process(self) -> bool:
        """Whether no other process can see it (``memory://``)."""
        return self.remote is not None and self.remote.of_this_process

    def check(self) -> None:
        """Make sure that what lies behind a URL can be written; a folder tells by itself.

        Raises:
            ServaxError: It cannot.
        """
        if self.remote is not None:
            self.remote.probe()

    def fetch(self, stage: Stage) -> None:
        """Bring a stage's result here, if it is there and not here.

        Raises:
            ServaxError: It cannot be read, or the mirror cannot be written.
        """
        if self.remote is None or stage.result() is not None or not self._done_there(stage):
            return
        place = self._name(stage.folder)
        names = self.remote.names(place)
        stage.open()
        for name in [*sorted(set(names) - {DONE}), DONE]:
            self._receive(f"{place}/{name}", stage.folder / name)

    def push(self, stage: Stage) -> None:
        """Send a done stage's result, if it is not there yet.

        Raises:
            ServaxError: It cannot be written.
        """
        if self.remote is None or stage.result() is None or self._done_there(stage):
            return
        files = [path for path in _files(stage.folder) if path.name not in (DONE, CHECKPOINT)]
        self._send([*files, stage.folder / DONE])

    def publish(self) -> None:
        """Send records, models, logs and the report.

        Raises:
            ServaxError: They cannot be written.
        """
        if self.remote is not None:
            inside = (path for path in self.folder.iterdir() if path.name != STAGES)
            folders = sorted(path for path in inside if path.is_dir())
            files = [path for folder in folders for path in _files(folder)]
            self._send([*files, *sorted(self.folder.glob("*.npz"))])

    def _done_there(self, stage: Stage) -> bool:
        text = self.remote.read(f"{self._name(stage.folder)}/{DONE}") if self.remote else None
        try:
            done = json.loads(text or b"")
        except ValueError:
            return False
        return isinstance(done, dict) and done.get("settings") == stage.settings

    def _send(self, files: Iterable[Path]) -> None:
        for path in files:
            if self.remote is not None:
                self.remote.write(path, self._name(path))

    def _receive(self, name: str, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                if self.remote is not None:
                    self.remote.download(name, part)
        except OSError as error:
            raise ServaxError(f"{path}: {unwritable(error)}.") from None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


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
