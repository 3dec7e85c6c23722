"""What every request gets: an id, headers, a line in the log, counts, and always an answer."""

from __future__ import annotations

import asyncio
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from typing import Any

from servax.service.requests import UNREAD_BYTES, RequestRecord, stated_length
from servax.service.responses import internal
from servax.service.telemetry import Log, Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PART_BYTES = 2**18
SAFE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)
"""What a client may call its request; anything else gets an id of our own."""
TRACE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A ``traceparent`` of W3C Trace Context, version 00: trace, span, flags."""
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
"""With each answer: browsers run and ask for nothing but what lies here."""
QUIET = (
    *("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"),
    *("/v2/models/purify/ready", "/v2/models/classify/ready"),
)
"""Asked every few seconds by machines: logged only when they break."""


class SlowReader(Exception):  # noqa: N818 - nothing can be answered any more
    """The client does not read its answer."""


class RequestMiddleware:
    """ASGI middleware around all routes; it keeps a `RequestRecord` in ``scope["servax"]``.

    Args:
        app: What answers.
        log: A line for each request.
        metrics: Counts them.
        routes: The paths that metrics and logs name; all others are ``other``.
        answer_seconds: How long a client may leave a part of an answer unread.
    """

    def __init__(
        self,
        app: App,
        *,
        log: Log,
        metrics: Metrics,
        routes: Container[str],
        answer_seconds: float,
    ) -> None:
        self.app = app
        self._log = log
        self._metrics = metrics
        self._routes = routes
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        begun = time.perf_counter()
        record = scope["servax"] = RequestRecord(_id_of(scope))
        if TRACE.fullmatch(trace := _header(scope, b"traceparent")):
            record.told["traceparent"] = trace.decode("ascii")

        async def watched() -> Message:
            message = await receive()
            record.body_open = bool(message.get("more_body", False))
            return message

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                _add_headers(message, scope, record)
            for part in _parts(message):
                try:
                    async with asyncio.timeout(self._answer_seconds):
                        await send(part)
                except TimeoutError:
                    raise SlowReader from None

        try:
            await self.app(scope, watched, sealed)
        except SlowReader:
            record.told["code"] = (
                "slow_reader"  # uvicorn closes a connection whose answer is incomplete
            )
        except Exception as error:
            self._broke(record, error)
            if not record.status:
                refusal = internal()
                await JSONResponse(refusal.body, refusal.status)(scope, watched, sealed)
        finally:
            record.held.close()
            self._close(scope, record, time.perf_counter() - begun)

    def _broke(self, record: RequestRecord, error: Exception) -> None:
        record.told["code"] = internal().code
        frames = traceback.extract_tb(error.__traceback__)
        self._log.error(
            "broke",
            request=record.request_id,
            error=type(error).__name__,
            where=[f"{f.name}:{f.lineno}" for f in frames[-8:]],
        )

    def _close(self, scope: Scope, record: RequestRecord, seconds: float) -> None:
        """Count a request and log it."""
        route = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.requests.labels(route, record.status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if "code" in record.told:
            self._metrics.refusals.labels(record.told["code"]).inc()
        if "sound_seconds" in record.told:
            self._metrics.sound_seconds.labels(route).inc(record.told["sound_seconds"])
        if route in QUIET and record.status in (200, 503):
            return
        self._log.info(
            "request",
            request=record.request_id,
            method=scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other",
            route=route,
            status=record.status,
            ms=round(1000 * seconds, 1),
            **record.told,
        )


def _id_of(scope: Scope) -> str:
    """Return what the client calls its request, or a new id."""
    given = _header(scope, b"x-request-id")
    return given.decode("ascii") if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _parts(message: Message) -> Iterator[Message]:
    """Yield a message in parts; uvicorn waits for slow readers between two, and not within one."""
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= PART_BYTES:
        yield message
        return
    for start in range(0, len(body), PART_BYTES):
        last = start + PART_BYTES >= len(body)
        more = message.get("more_body", False) or not last
        yield {**message, "body": body[start : start + PART_BYTES], "more_body": more}


def _add_headers(message: Message, scope: Scope, record: RequestRecord) -> None:
    """Add to the start of an answer what every answer says."""
    from starlette.datastructures import Headers, MutableHeaders

    message.setdefault("headers", [])
    headers = MutableHeaders(scope=message)
    headers["x-request-id"] = record.request_id
    headers.update(ALWAYS)
    headers.setdefault("cache-control", "no-store")
    if record.status >= 400 and record.body_open:
        asked = Headers(scope=scope)
        length = stated_length(asked)
        sent = length is not None or "transfer-encoding" in asked
        if sent and (length is None or length > UNREAD_BYTES):
            headers["connection"] = "close"
