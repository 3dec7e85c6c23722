"""Libraries that only some parts need, loaded when they are."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from servax.errors import ServaxError


def load_extra(module: str, *, what: str, extra: str | None = None) -> Any:
    """Return an optional library.

    Args:
        module: What is imported.
        what: What needs it, as the sentence names it.
        extra: The extra of servax that brings it; none where it is of the base install.

    Raises:
        ServaxError: It is not installed, or does not load.
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        package = f"'servax[{extra}]'" if extra else module
        raise ServaxError(
            f"{what} needs {module} ({error}); install it with: pip install {package}"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a library says about its own old parts from people who cannot act on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
