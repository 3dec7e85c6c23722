"""What tests let workers do with a sound; workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from servax.errors import SettingError


def count(models: Any, sounds: list[Any]) -> list[int]:
    return [len(sound.samples) for sound in sounds]


def die(models: Any, sounds: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(models: Any, sounds: list[Any], seconds: float) -> list[str]:
    time.sleep(seconds)
    return ["slept"]


def refuse(models: Any, sounds: list[Any]) -> None:
    raise SettingError("volume", 11, "at most 10")


def fail(models: Any, sounds: list[Any]) -> None:
    raise KeyError("secret")


def unpicklable(models: Any, sounds: list[Any]) -> Any:
    return [lambda: None]
