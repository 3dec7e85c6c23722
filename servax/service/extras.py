"""The libraries of the extra ``serve``; unlike `servax.audit`, this loads no torch."""

from __future__ import annotations

import importlib
from typing import Any

from servax.errors import ServaxError


def load_serving(module: str) -> Any:
    """Return a library that only the service needs.

    Raises:
        ServaxError: It is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ServaxError(
            f"servax serve needs {module} ({error}); install it with: pip install 'servax[serve]'"
        ) from None
