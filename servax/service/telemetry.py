"""What is told of a running service: JSON lines in a log, and counters for Prometheus.

Neither holds samples, tokens or file names; every label of a counter has few values, whatever
clients send.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from servax import __version__
from servax.runtime.host import load_extra

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
RESIDUAL_BUCKETS = (
    *(0.01, 0.02, 0.025, 0.03, 0.0325, 0.035, 0.0375, 0.04, 0.0425, 0.045, 0.0475, 0.05),
    *(0.055, 0.06, 0.07, 0.08, 0.1, 0.2),
)


class Log(Protocol):
    """What is asked of a logger: an event, and values by name."""

    info: Callable[..., Any]
    """Tells what happens in the course of things."""
    warning: Callable[..., Any]
    """Tells what somebody may have to look at."""
    error: Callable[..., Any]
    """Tells what should not have happened."""


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


def forward_libraries(log: Log) -> None:
    """Pass what libraries log on to a `Log`, without tracebacks."""
    for name in ("uvicorn", "asyncio", "concurrent.futures"):
        logger = logging.getLogger(name)
        logger.handlers = [_Forward(log)]
        logger.propagate = False
    parser = logging.getLogger("python_multipart")  # quotes what it cannot read: a refusal tells
    parser.handlers, parser.propagate = [logging.NullHandler()], False


class _Forward(logging.Handler):
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


class Metrics:
    """The counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        import prometheus_client as client

        self.registry = client.CollectorRegistry()
        client.ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"registry": self.registry, "namespace": "servax"}
        self.requests = client.Counter("requests", "Requests answered.", ["route", "status"], **own)
        self.seconds = client.Histogram(
            "request_seconds",
            "From the first byte of a request to the end of its answer, in seconds.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            **own,
        )
        self.refusals = client.Counter(
            "refusals", "Answers of status 400 and above.", ["code"], **own
        )
        self.sound_seconds = client.Counter(
            "sound_seconds", "Sound that was purified or classified, in seconds.", ["route"], **own
        )
        self.residual = client.Histogram(
            "residual",
            "How far the purifier moved the log-Mel on [0, 1] of sounds that were classified.",
            buckets=RESIDUAL_BUCKETS,
            **own,
        )
        self.in_flight = client.Gauge("in_flight", "Requests accepted and not answered.", **own)
        self.queue_length = client.Gauge("queue_length", "Requests waiting for a worker.", **own)
        self.batch_size = client.Histogram(
            "batch_size", "Sounds sent to a worker at once.", buckets=BATCH_BUCKETS, **own
        )
        self.workers_ready = client.Gauge(
            "workers_ready", "Workers that have loaded their networks.", **own
        )
        self.worker_restarts = client.Counter(
            "worker_restarts", "Workers that died or were killed, and were begun anew.", **own
        )
        self.worker_memory = client.Gauge(
            "worker_memory_bytes", "Resident memory of a worker; 0 while there is none.",
            ["worker"], **own,
        )  # fmt: skip
        build = client.Info("build", "Which servax runs, on which Python.", **own)
        build.info({"version": __version__, "python": platform.python_version()})

    def page(self) -> tuple[bytes, str]:
        """Return everything in Prometheus' text format, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def resident_bytes(pid: int | None) -> float:
    """Return the memory that a process holds, 0 where there is none, or nothing tells."""
    from prometheus_client import ProcessCollector

    found = ProcessCollector(pid=lambda: pid or -1, registry=None).collect()
    rss = (each for each in found if each.name == "process_resident_memory_bytes")
    return sum(each.samples[0].value for each in rss)
