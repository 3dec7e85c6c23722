"""Where corpora are looked for, and where servax keeps what it made itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from servax.files import expanded

__all__ = ["cache_folder", "data_folder"]


def cache_folder() -> Path:
    """Return the folder for things that can be made again: ``SERVAX_CACHE`` or the user's cache."""
    given = os.environ.get("SERVAX_CACHE")
    if given:
        return expanded(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "servax"


def data_folder() -> Path:
    """Return the folder of corpora: ``SERVAX_DATA`` or ``data`` below the cache folder."""
    given = os.environ.get("SERVAX_DATA")
    return expanded(given) if given else cache_folder() / "data"
