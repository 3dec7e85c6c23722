"""How a service works: its networks, its workers, and what a sound or a clip may cost.

No torch and no sound is loaded here: the command line reads its options from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from servax.errors import SettingError
from servax.pretrained import PURIFIER, RECOGNISER
from servax.runtime.sharing import cpus


def _require(settings: Any, fits: Callable[[Any], bool], expected: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not fits(value):
            raise SettingError(name, value, expected)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


@dataclass(frozen=True)
class Limits:
    """What one request may cost before it is refused."""

    body_bytes: int = 20 * 2**20
    """Most bytes of a body."""
    seconds: float = 120.0
    """Longest sound, in seconds."""
    channels: int = 2
    """Most channels."""
    decode_seconds: float = 5.0
    """Longest time a processor may spend on decoding one body, in seconds."""
    samples: int = 12_000_000
    """Most samples of all channels together: 120 s of stereo at 48 kHz are 11.5 million, 46 MB."""

    def __post_init__(self) -> None:
        _require(self, _is_count, "a whole number >= 1", "body_bytes", "channels", "samples")
        _require(self, _is_positive, "a number of seconds > 0", "seconds", "decode_seconds")


@dataclass(frozen=True)
class ServiceSettings:
    """Everything a service is told, but where it listens and to whom.

    Raises:
        SettingError: A value is outside its rule.
    """

    purifier: str = PURIFIER
    """Folder, packaged name or hub id."""
    recogniser: str = RECOGNISER
    """Folder or packaged name."""
    workers: int = field(default_factory=cpus)
    """Processes that decode and compute, of one thread each."""
    queue: int = 64
    """Requests inside at once: their bodies being read, waiting or at work. The next gets 429."""
    batch: int = 8
    """Sounds that a network classifies at once."""
    batch_wait_ms: float = 2.0
    """How long a sound to classify waits for others, in milliseconds."""
    deadline_seconds: float = 30.0
    """From the admission of a request to its answer."""
    body_seconds: float = 20.0
    """How long the body of a request may take to arrive."""
    work_seconds: float = 20.0
    """How long a worker may be at one batch before it is taken for hung and killed."""
    shutdown_seconds: float = 30.0
    """How long a service that ends goes on with what it accepted."""
    limits: Limits = field(default_factory=Limits)
    """What one sound may be."""

    def __post_init__(self) -> None:
        at_least = "a whole number of at least 1"
        _require(self, lambda value: value >= 1, at_least, "workers", "queue", "batch")
        times = ("deadline_seconds", "body_seconds", "work_seconds")
        _require(self, _is_positive, "a number of seconds > 0", *times)
        waits = ("batch_wait_ms", "shutdown_seconds")
        _require(self, lambda v: math.isfinite(v) and v >= 0, "a number >= 0", *waits)


@dataclass(frozen=True)
class PageLimits:
    """How much the page takes from one clip, and from all who use it together."""

    seconds: float = 8.0
    """Longest clip, in seconds; an attack takes many times what purifying takes."""
    upload_bytes: int = 8_000_000
    """Largest file that is uploaded."""
    held_bytes: int = 256_000_000
    """Most that all clips on the disk take together; beyond it uploads wait."""
    kept_seconds: int = 600
    """How long a clip stays on the disk."""
    at_once: int = 1
    """Clips that are worked on at the same time."""
    waiting: int = 8
    """Clips that may wait; more are refused."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.seconds < math.inf:
            raise SettingError("seconds", self.seconds, "a finite number of at least .5")
        counts = ("upload_bytes", "held_bytes", "kept_seconds", "at_once", "waiting")
        _require(self, lambda value: value >= 1, "a whole number of at least 1", *counts)
