"""How a service works: its networks, its workers and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from servax.errors import SettingError
from servax.pretrained import PURIFIER, RECOGNISER
from servax.runtime.sharing import cpus
from servax.service.decoding import Limits


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
        for name in ("workers", "queue", "batch"):
            value = getattr(self, name)
            if value < 1:
                raise SettingError(name, value, "a whole number of at least 1")
        for name in ("deadline_seconds", "body_seconds", "work_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingError(name, value, "a number of seconds > 0")
        for name in ("batch_wait_ms", "shutdown_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(name, value, "a number >= 0")
