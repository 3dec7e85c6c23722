"""What Prometheus is told; every label has few values, whatever clients send."""

from __future__ import annotations

from servax.runtime.extras import load_extra

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one service, in a registry of its own.

    Raises:
        ServaxError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        client = load_extra("prometheus_client", extra="serve", what="servax serve")
        self._client = client
        self.registry = client.CollectorRegistry()
        client.ProcessCollector(registry=self.registry)
        own = {"registry": self.registry, "namespace": "servax"}
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

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        body: bytes = self._client.generate_latest(self.registry)
        return body

    @property
    def content_type(self) -> str:
        """Return the media type of `text`."""
        return str(self._client.CONTENT_TYPE_LATEST)
