"""What lies in a folder: every file once, whatever links, pipes and closed folders are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from servax.errors import AudioError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
Identity = tuple[int, int] | str
"""Device and number of a file, the same under all its names; its path where it has no number."""


def files_below(
    folder: Path, *, apart: Path | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return all files of a folder and those below it, by name, and the folders without access.

    Folders behind links are entered, but not one that leads back to where it stands. All that is no
    folder counts: also links to nothing, pipes and devices.

    Args:
        folder: Where to look.
        apart: A folder whose files do not count, wherever it is.

    Returns:
        The files; and each folder that cannot be read, with the reason.
    """
    files, closed = [], []
    avoided = None if apart is None else identity(apart)
    waiting: list[tuple[Path, frozenset[Identity]]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        here = identity(place)
        if here is None or here in above or here == avoided:
            continue
        try:
            for path in place.iterdir():
                if os.path.isdir(path):  # noqa: PTH112
                    waiting.append((path, above | {here}))
                else:
                    files.append(path)
        except OSError as error:
            closed.append((place, f"cannot be read ({error.strerror})"))
    return sorted(files), sorted(closed)


def sounds_below(folder: Path) -> list[Path]:
    """Return the sound files of a folder and those below it, by name.

    Raises:
        AudioError: There is none.
    """
    files, _ = files_below(folder)
    sounds = [path for path in files if path.suffix.lower() in SOUNDS]
    if not sounds:
        raise no_sound(folder, SOUNDS, files)
    return sounds


def same_file(first: Path, second: Path) -> bool:
    """Tell whether two paths lead to one file that is there, by whatever links."""
    found = identity(first)
    return found is not None and found == identity(second)


def no_sound(folder: Path, endings: Sequence[str], files: Sequence[Path]) -> AudioError:
    """Return the refusal of a folder that holds other files alone."""
    others = ", ".join(sorted({path.suffix.lower() or "no ending" for path in files}))
    beside = f"; its {len(files)} files are other ones ({others})" if files else ""
    return AudioError(folder, f"holds no sound file ({', '.join(endings)}){beside}")


def identity(path: Path) -> Identity | None:
    """Return what tells a file from all others, or none where it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
