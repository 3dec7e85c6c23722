"""Files that appear whole or not at all, and JSON that every reader takes.

What is being written lies beside its target, hidden, under a name of its own that ends in
``.part``; when it is whole it takes the place of the target. So a reader sees the old file or the
new one, a kill loses neither, and processes that write one target do not disturb each other.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import math
import os
import re
import socket
import stat
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from servax.errors import PathError, unwritable

UNFINISHED = re.compile(r"\.(?P<where>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.part")
"""Name of a file that is still being written: where, by which process, and something random."""


def expanded(path: str | Path) -> Path:
    """Return a path whose ``~`` or ``~user`` is a home folder; a name of no user stays a name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises for no user


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Yield an empty file to write to; at the end it takes the place of the target.

    A target that is a link stays one: the file behind it is replaced. A file that is replaced
    hands down its permissions.

    Raises:
        OSError: It cannot be written, or is there and is no regular file; nothing is left then.
    """
    place = Path(os.path.realpath(target))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if place.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "it is there, and is no regular file")
    part = place.with_name(f".{_where()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        part.touch(exist_ok=False)
        yield part
        with suppress(FileNotFoundError):
            part.chmod(stat.S_IMODE(place.stat().st_mode))
        part.replace(place)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: str | Path, data: bytes) -> None:
    """Replace a file by `data`, on the disk before the old one goes; its folder is made.

    Raises:
        PathError: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PathError(path, unwritable(error)) from None


def remove_unfinished(folder: Path, *, alone: bool = False) -> None:
    """Remove what killed processes were still writing, in `folder` and below.

    Args:
        folder: Need not be there.
        alone: Nobody else writes there: all of it goes. Else only what belonged to a process of
            this machine that is no more.
    """
    for top, _, names in os.walk(folder):
        for name in fnmatch.filter(names, ".*.part"):
            made = UNFINISHED.fullmatch(name)
            if alone or (made and made["where"] == _where() and not lives(int(made["pid"]))):
                with suppress(OSError):  # where it cannot go it is in nobody's way
                    Path(top, name).unlink(missing_ok=True)


def json_text(
    value: Any, *, indent: int | None = 2, sort_keys: bool = False, ascii_only: bool = False
) -> str:
    r"""Return a value as JSON that any reader takes (RFC 8259).

    NaN and the infinities are null; bytes of a name that are not UTF-8 are shown as ``\udcXX``;
    NumPy's numbers and arrays are numbers and lists; what JSON has no word for is its ``str``.
    """
    return json.dumps(
        _plain(value),
        indent=indent,
        sort_keys=sort_keys,
        ensure_ascii=ascii_only,
        allow_nan=False,
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    listed = getattr(value, "tolist", None)
    return _plain(str(value) if listed is None else listed())


def _where() -> str:
    """Return the machine; where containers share its name, the one whose processes these are."""
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    except OSError:
        space = ""
    return f"{socket.gethostname()}{space}"


def lives(pid: int) -> bool:
    """Tell whether a process of this machine is there; on Windows, where asking ends it, yes."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
