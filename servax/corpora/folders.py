"""Where corpora are looked for, and where servax keeps what it made itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from servax.errors import SettingError
from servax.files import expanded

__all__ = ["cache_folder", "data_folder"]


def cache_folder() -> Path:
    """Return the folder for things that can be made again: ``SERVAX_CACHE`` or the user's cache.

    Raises:
        SettingError: ``SERVAX_CACHE`` is not set, and this user has no home.
    """
    given = os.environ.get("SERVAX_CACHE")
    if given:
        return expanded(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(_home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(_home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(_home() / ".cache")
    return Path(base) / "servax"


def data_folder() -> Path:
    """Return the folder of corpora: ``SERVAX_DATA`` or ``data`` below the cache folder."""
    given = os.environ.get("SERVAX_DATA")
    return expanded(given) if given else cache_folder() / "data"


def _home() -> Path:
    found = expanded("~")
    if str(found) == "~":
        raise SettingError("SERVAX_CACHE", None, "a folder to write to: this user has no home")
    return found
