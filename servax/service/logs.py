"""Structured logs: one JSON object a line on stderr, without samples, tokens or file names."""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol, TextIO

from servax.runtime.extras import load_extra


class Log(Protocol):
    """What is asked of a logger: an event, and values by name."""

    def info(self, event: str, **values: Any) -> Any:
        """Tell what happens in the course of things."""

    def warning(self, event: str, **values: Any) -> Any:
        """Tell what somebody may have to look at."""

    def error(self, event: str, **values: Any) -> Any:
        """Tell what should not have happened."""


def open_log(stream: TextIO | None = None) -> Log:
    """Return a logger that writes JSON lines.

    Args:
        stream: Where to; default stderr.

    Raises:
        ServaxError: structlog is not installed.
    """
    structlog = load_extra("structlog", extra="serve", what="servax serve")
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return log


class Forward(logging.Handler):
    """Passes what libraries log on to a `Log`, without tracebacks.

    Args:
        log: Where to.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log the sentence of a record, and the type of its exception."""
        kind = record.exc_info[0] if record.exc_info else None
        tell = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        tell(
            "library",
            source=record.name,
            message=(record.getMessage().strip().splitlines() or [""])[-1],
            **({"error": kind.__name__} if kind else {}),
        )
