"""What tests let workers do; workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from servax.errors import SettingError


def double(models: Any, number: int) -> int:
    return 2 * number


def die(models: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(models: Any, seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def refuse(models: Any) -> None:
    raise SettingError("volume", 11, "at most 10")


def fail(models: Any) -> None:
    raise KeyError("secret")


def unpicklable(models: Any) -> Any:
    return lambda: None
