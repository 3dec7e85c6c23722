"""What every request gets: an id, headers, a line in the log, counts, and always an answer."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from servax.service.bodies import UNREAD_BYTES, stated_length
from servax.service.logs import Log
from servax.service.metrics import Metrics
from servax.service.orders import Heard
from servax.service.refusals import ClientGone

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PART_BYTES = 2**18
GONE = 499
"""The client closed the connection; no such answer is sent, only logged (as nginx does)."""
INTERNAL = json.dumps(
    {
        "error": {
            "code": "internal",
            "message": "Something broke that should not; the log of the service tells where, under "
            "the id in X-Request-ID.",
        }
    }
).encode()
QUIET = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: logged only when they break."""


class SlowReader(Exception):  # noqa: N818 - nothing can be answered any more
    """The client does not read its answer."""


@dataclass
class Account:
    """What becomes known of a request while it is answered."""

    request_id: str
    status: int = 0
    code: str | None = None
    """Why it was refused."""
    body_bytes: int | None = None
    heard: Heard | None = None
    queued_seconds: float | None = None
    body_open: bool = True
    """Whether more of its body may come."""
    held: ExitStack = field(default_factory=ExitStack)
    """What is given back when the answer has left."""


def account(scope: Scope) -> Account:
    """Return the account of the request that a scope belongs to."""
    found: Account = scope["servax"]
    return found


class Envelope:
    """ASGI middleware around all routes.

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
        begun = time.perf_counter()
        told = scope["servax"] = Account(uuid.uuid4().hex)

        async def watched() -> Message:
            message = await receive()
            told.body_open = bool(message.get("more_body", False))
            return message

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(told, scope, message)]
            for part in _parts(message):
                await self._patiently(send, part)

        try:
            await self.app(scope, watched, sealed)
        except ClientGone:
            told.status, told.code = GONE, "client_gone"
        except SlowReader:
            told.code = "slow_reader"  # uvicorn closes a connection whose answer is incomplete
        except Exception as error:
            self._broke(told, error)
            if not told.status:
                await _send_internal(sealed)
        finally:
            told.held.close()
            self._close(scope, told, time.perf_counter() - begun)

    async def _patiently(self, send: Send, part: Message) -> None:
        try:
            async with asyncio.timeout(self._answer_seconds):
                await send(part)
        except TimeoutError:
            raise SlowReader from None

    def _broke(self, told: Account, error: Exception) -> None:
        told.code = "internal"
        frames = traceback.extract_tb(error.__traceback__)
        self._log.error(
            "broke",
            request=told.request_id,
            error=type(error).__name__,
            where=[f"{f.name}:{f.lineno}" for f in frames[-8:]],
        )

    def _close(self, scope: Scope, told: Account, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.requests.labels(route, told.status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if told.code is not None:
            self._metrics.refusals.labels(told.code).inc()
        if told.heard is not None:
            self._metrics.sound_seconds.labels(route).inc(told.heard.seconds)
        if route in QUIET and told.status in (200, 503):
            return
        values: dict[str, Any] = {
            "request": told.request_id,
            "method": scope["method"] if scope["method"] in ("GET", "POST") else "other",
            "route": route,
            "status": told.status,
            "ms": round(1000 * seconds, 1),
        }
        if told.queued_seconds is not None:
            values["queued_ms"] = round(1000 * told.queued_seconds, 1)
        if told.code is not None:
            values["code"] = told.code
        if told.body_bytes is not None:
            values["bytes"] = told.body_bytes
        if told.heard is not None:
            values["sound_seconds"] = round(told.heard.seconds, 3)
            values["rate"] = told.heard.rate
            values["channels"] = told.heard.channels
            values["container"] = told.heard.container
        self._log.info("request", **values)


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


def _headers(told: Account, scope: Scope, message: Message) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in message.get("headers", ())}
    added = [
        (b"x-request-id", told.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if b"cache-control" not in there:
        added.append((b"cache-control", b"no-store"))
    if told.status >= 400 and told.body_open:
        names = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        length = stated_length({name: value.decode("latin-1") for name, value in names.items()})
        sent = length is not None or "transfer-encoding" in names
        if sent and (length is None or length > UNREAD_BYTES):
            added.append((b"connection", b"close"))
    return added


async def _send_internal(send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 500,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(INTERNAL)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": INTERNAL})
