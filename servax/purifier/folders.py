"""What lies in a folder: every file once, whatever links, pipes and closed folders are there."""

from __future__ import annotations

import heapq
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servax.errors import AudioError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
MOST_NAMES = 3
"""Files of a kind that a sentence names."""
Identity = tuple[int, int] | str
"""Device and number of a file, the same under all its names; its path where it has no number."""


@dataclass(frozen=True)
class Found:
    """All that lies in a folder and those below it, by name."""

    files: list[Path] = field(default_factory=list)
    """All that is no folder: also links to nothing, pipes and devices."""
    closed: list[tuple[Path, str]] = field(default_factory=list)
    """What cannot be reached, and folders that cannot be read, each with the reason."""
    again: list[Path] = field(default_factory=list)
    """Links to folders that were read already."""
    met: list[Path] = field(default_factory=list)
    """Ways to the folder apart."""


def files_below(folder: Path, *, apart: Path | None = None) -> Found:
    """Return what lies in a folder and those below it.

    Each folder is read once: under its own name where it lies below, else behind the first link to
    it, by name. So folders that are linked to one another do not multiply.

    Args:
        folder: Where to look.
        apart: A folder whose files do not count, wherever it is.
    """
    found = Found()
    avoided = None if apart is None else identity(apart)
    read: set[Identity | None] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        place = waiting.pop() if waiting else heapq.heappop(links)
        here = identity(place)
        if here is not None and here == avoided:
            found.met.append(place)
        elif here in read:
            found.again.append(place)
        else:
            read.add(here)
            _read(place, found, waiting, links)
    for each in (found.files, found.closed, found.again, found.met):
        each.sort()
    return found


def _read(place: Path, found: Found, waiting: list[Path], links: list[Path]) -> None:
    """Note what a folder holds; folders below it join those that wait, links to folders the links.

    No function here raises for a name: the entries of a folder that may be listed and not entered
    cannot be reached, nor can a path that is longer than the system takes.
    """
    try:
        for path in place.iterdir():
            if os.path.isdir(path):  # noqa: PTH112
                if os.path.islink(path):  # noqa: PTH114
                    heapq.heappush(links, path)
                else:
                    waiting.append(path)
                continue
            try:
                path.lstat()
            except OSError as error:
                found.closed.append((path, f"cannot be reached ({error.strerror})"))
            else:
                found.files.append(path)
    except OSError as error:
        found.closed.append((place, f"cannot be read ({error.strerror})"))


def unread(
    found: Found, source: Path, out: Path, endings: Sequence[str], targets: Container[str]
) -> tuple[str, ...]:
    """Return a sentence for what lies below a folder and is not read, of each kind.

    Of the output folder that is sound which this run would not write: originals, perhaps.
    """
    notes = []
    if found.met:
        below = (Path(top, name) for top, _, names in os.walk(out) for name in names)
        left = [p for p in below if p.suffix.lower() in endings and str(p) not in targets]
        if left:
            notes.append(f"not read in the output folder: {_counted(len(left), 'file')}")
    if found.again:
        names = ", ".join(str(path.relative_to(source)) for path in found.again[:MOST_NAMES])
        more = ", …" if len(found.again) > MOST_NAMES else ""
        links = _counted(len(found.again), "link")
        notes.append(f"folders read under another name, not through {links} ({names}{more})")
    return tuple(notes)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def sounds_below(folder: Path) -> list[Path]:
    """Return the sound files of a folder and those below it, by name.

    Raises:
        AudioError: There is none.
    """
    files = files_below(folder).files
    sounds = [path for path in files if path.suffix.lower() in SOUNDS]
    if not sounds:
        raise no_sound(folder, SOUNDS, files)
    return sounds


def same_file(first: Path, second: Path) -> bool:
    """Tell whether two paths lead to one file that is there, by whatever links."""
    found = identity(first)
    return found is not None and found == identity(second)


def no_sound(
    folder: Path, endings: Sequence[str], files: Sequence[Path], *notes: str
) -> AudioError:
    """Return the refusal of a folder that holds other files alone; notes say what was not read."""
    others = ", ".join(sorted({path.suffix.lower() or "no ending" for path in files}))
    beside = f"; its {len(files)} files are other ones ({others})" if files else ""
    more = "".join(f"; {note}" for note in notes)
    return AudioError(folder, f"holds no sound file ({', '.join(endings)}){beside}{more}")


def identity(path: Path) -> Identity | None:
    """Return what tells a file from all others, or none where it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
