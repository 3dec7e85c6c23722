"""One root error for everything servax refuses; each child writes its own sentence.

A refusal says what was given, what was expected and what to do. The command line prints
``str(error)`` and leaves with ``error.exit_code``: 2 for bad use (what was given is missing,
unknown or not what was expected), 1 for work that failed (a full disk, a network without answer).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

__all__ = [
    "AudioError",
    "CacheError",
    "CheckpointError",
    "CorpusError",
    "FetchError",
    "LeakError",
    "PathError",
    "RecipeError",
    "ServaxError",
    "SettingError",
    "ShapeError",
    "Unwritable",
    "during",
    "nearest",
    "unwritable",
]

AudioCause = Literal[
    "unusable",
    "empty",
    "not_sound",
    "rate",
    "no_samples",
    "length_unknown",
    "joined",
    "damaged",
    "not_finite",
    "too_loud",
]
LONGEST_SHOWN = 300
"""Signs of a value that a refusal shows."""
FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")}
"""What a system says when a disk is full, a quota used up, or a file as large as it may get."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the allowed name closest to `given`, or ``""``."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def closed(sentence: str) -> str:
    """Return `sentence` with a full stop, unless it ends in a mark already."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def shown(value: object) -> str:
    """Return what a value looks like, in one line that a sentence can hold."""
    text = repr(value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


class Unwritable(str):
    """A reason that no one's bad use is: the place could not be written, so the work failed."""

    __slots__ = ()


def unwritable(error: Exception) -> Unwritable:
    """Return why a file cannot be written, and what to do where the disk is full.

    Args:
        error: What the attempt raised; where a library wraps what the system said, that is told.
    """
    said = error if isinstance(error, OSError) else error.__context__
    if not isinstance(said, OSError):
        return Unwritable(f"cannot be written ({error})")
    reason = f"cannot be written ({said.strerror or said or type(said).__name__})"
    if said.errno in FULL:
        reason += "; free some space and run it again: what is done is kept"
    return Unwritable(reason)


class ServaxError(Exception):
    """Root of all refusals; `exit_code` is what the command line leaves with."""

    exit_code = 1


@contextmanager
def during(work: str) -> Iterator[None]:
    """Let a refusal, or what a model raised, say in which work it came: which model was asked."""
    try:
        yield
    except Exception as error:
        if type(error) is ServaxError:
            raise ServaxError(f"{work}: {error}") from error
        if hasattr(error, "__notes__"):  # without any the fault is ours, and stays as it is
            error.add_note(f"it came in {work}")
        raise


class SettingError(ServaxError, ValueError):
    """A setting has a value outside its rule: ``epsilon is -1, expected a number >= 0``.

    A `hint` ends the sentence: what `nearest` returns, where a name may be misspelt.
    """

    exit_code = 2

    def __init__(self, name: str, value: object, expected: str, *, hint: str = "") -> None:
        super().__init__(f"{name} is {shown(value)}, expected {expected}.{hint}")

    @classmethod
    def choice(cls, name: str, value: object, allowed: Iterable[str]) -> SettingError:
        """Refuse a name that is not one of `allowed`, and name the nearest one."""
        names = sorted(allowed)
        hint = nearest(str(value), names)
        return cls(name, value, f"one of {', '.join(names)}", hint=hint)


class ShapeError(ServaxError, ValueError):
    """A tensor has the wrong shape: ``x has shape (3, 4), expected (B, 1, M, F)``."""

    exit_code = 2

    def __init__(self, name: str, shape: Iterable[int], expected: str) -> None:
        super().__init__(f"{name} has shape {tuple(shape)}, expected {expected}.")


class PathError(ServaxError):
    """Something at a path cannot be used; the sentence starts with the path.

    What was given there is missing or not what was expected: bad use. Where the reason is
    `Unwritable` the work failed.
    """

    exit_code = 2

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(closed(f"{path}: {reason}"))
        if isinstance(reason, Unwritable):
            self.exit_code = ServaxError.exit_code


class AudioError(PathError):
    """A sound file cannot be used; the sentence starts with its path.

    Args:
        path: Where it lies, or what it is called.
        reason: What is wrong with it.
        cause: The kind of wrong, for those who answer in words of their own.
    """

    def __init__(self, path: str | Path, reason: str, *, cause: AudioCause = "unusable") -> None:
        super().__init__(path, reason)
        self.cause: AudioCause = cause


class CorpusError(ServaxError):
    """A corpus, its labels or its files are missing or not what the corpus file says."""

    exit_code = 2


class FetchError(CorpusError):
    """A corpus or its split could not be fetched, made or written."""

    exit_code = 1


class LeakError(CorpusError):
    """A speaker or a recording stands in two parts of one fold."""


class CheckpointError(PathError):
    """Saved weights or a training checkpoint cannot be used; the sentence starts with its path."""


class CacheError(PathError):
    """A cache folder cannot be written or read; the sentence starts with its path."""

    exit_code = 1


class RecipeError(PathError):
    """A recipe cannot be run as it is written; the sentence starts with its path."""
