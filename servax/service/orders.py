"""What the server asks of its workers, and what comes back: plain values that travel by pickle.

Both ends are processes of this service; nothing that a client sent is ever unpickled. Nothing here
loads torch: the server process needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from servax.service.refusals import Refusal

Kind = Literal["purify", "classify"]
Container = Literal["wav", "flac"]


@dataclass(frozen=True)
class Order:
    """One sound and what is to be done with it."""

    kind: Kind
    """Sound out, or probabilities."""
    body: bytes
    """The sound as it was sent."""
    container: Container = "wav"
    """How purified sound is sent back."""

    @property
    def together(self) -> bool:
        """Say whether several are faster than one by one.

        A purified sound keeps its own length and level, so sounds are purified one by one; sent
        together they would only wait for each other.
        """
        return self.kind == "classify"


@dataclass(frozen=True)
class Call:
    """A function that a worker calls with its `Models` and further arguments."""

    function: Callable[..., Any]
    """Of the top level of a module."""
    arguments: tuple[Any, ...] = ()
    """Behind the models; they and the result travel by pickle."""
    together: bool = False


Task = Order | Call


@dataclass(frozen=True)
class Heard:
    """What a sound turned out to be; this much may be logged."""

    seconds: float
    """How long it plays."""
    rate: int
    """In hertz."""
    channels: int
    """Before they are averaged."""
    container: str
    """In libsndfile's words, e.g. ``WAV``."""


@dataclass(frozen=True)
class Purified:
    """A purified sound as a file."""

    content: bytes
    """WAV or FLAC."""
    limited_samples: int
    """How many samples were lowered to stay within full scale."""
    limited_db: float
    """By how much at most."""


@dataclass(frozen=True)
class Done:
    """A task that succeeded."""

    content: Any
    """`Purified` for `purify`, `answers.Classification` for `classify`."""
    heard: Heard | None = None


@dataclass(frozen=True)
class Broke:
    """A task that raised what nobody foresaw.

    The message stays behind: it might quote samples.
    """

    error: str
    """Name of the exception's type."""
    where: tuple[str, ...]
    """Function and line of each frame, the innermost last."""


Result = Done | Refusal | Broke


@dataclass(frozen=True)
class Loaded:
    """A worker that is ready."""

    pid: int
    labels: tuple[str, ...]
    """Of the recogniser, in its order."""


@dataclass(frozen=True)
class NotLoaded:
    """A worker whose networks cannot be used."""

    sentence: str
    exit_code: int
