"""One process at a time runs a recipe into a folder.

The lock is the system's own, on ``<run>/lock``: it ends with the process, also after ``kill -9``,
so that no stale one is ever in the way. The file tells people who holds it. On Windows, and on file
systems that know no locks, two runs at a time are not noticed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from servax.errors import ServaxError, unwritable
from servax.files import lives

if sys.platform != "win32":
    import fcntl

LOCK = "lock"


@dataclass(frozen=True)
class Holder:
    """The process that runs a recipe into a folder."""

    pid: int
    """Number of the process."""
    host: str
    """Name of its machine."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep the folder of a run for this process while the block runs.

    Raises:
        ServaxError: Another process has it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ServaxError(f"{folder}: {unwritable(error)}.") from None
    with file:
        if not _locked(file):
            who = _told(folder) or "another process"
            raise ServaxError(
                f"{folder}: is being run by {who}; wait until it ends (servax run --status shows "
                "how far the run of a recipe is), or choose another folder with --out."
            )
        with suppress(OSError):  # the lock holds even where the disk has no room for its story
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def holder(folder: Path) -> Holder | None:
    """Return the living process of this machine that runs a recipe into `folder`, if any.

    It takes no lock and touches nothing. A process of another machine is not known to be alive.
    """
    told = _told(folder)
    if sys.platform == "win32" or told is None or told.host != socket.gethostname():
        return None
    return told if lives(told.pid) else None


def ended(folder: Path) -> bool:
    """Tell whether the run that last had `folder` is known to have ended, or to have been killed.

    False where nothing is known: it was never run, or by another machine.
    """
    told = _told(folder)
    if told is None:
        return (folder / LOCK).exists()
    return told.host == socket.gethostname() and sys.platform != "win32" and not holder(folder)


def _locked(file: IO[str]) -> bool:
    """Take the lock and tell whether it was free."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks
        return True
    return True


def _told(folder: Path) -> Holder | None:
    try:
        told = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return Holder(int(told["pid"]), str(told["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
