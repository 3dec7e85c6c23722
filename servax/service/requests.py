"""The way of one request through the service: headers, body, queue, worker, deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from servax.service.dispatcher import Dispatcher
from servax.service.queue import Broke, Call, Kind, Result, SoundFacts, SoundTask, Task
from servax.service.responses import ClientGone, Container, Refusal
from servax.service.telemetry import Log

Receive = Callable[[], Awaitable[Any]]
UNREAD_BYTES = 2**20
"""What is left of a refused body is read and thrown away up to here; else the connection ends."""


@dataclass
class RequestRecord:
    """What becomes known of a request while it is answered."""

    request_id: str
    status: int = 0
    code: str | None = None
    """Why it was refused."""
    body_bytes: int | None = None
    sound: SoundFacts | None = None
    queued_seconds: float | None = None
    body_open: bool = True
    """Whether more of its body may come."""
    held: ExitStack = field(default_factory=ExitStack)
    """What is given back when the answer has left."""


class BrokeError(Exception):
    """A worker broke over a task; what is known of it is in the log already."""


class RequestHandler:
    """Lets requests in, one method for each kind.

    Args:
        dispatcher: The workers.
        log: For what breaks in them.
    """

    def __init__(self, dispatcher: Dispatcher, log: Log) -> None:
        self.dispatcher = dispatcher
        self.settings = dispatcher.settings
        self._log = log

    async def sound(
        self,
        kind: Kind,
        headers: Mapping[str, str],
        receive: Receive,
        record: RequestRecord,
        *,
        container: Container = "wav",
    ) -> Any:
        """Return what comes of the sound in the body of a request.

        Args:
            kind: What is done with it.
            headers: Of the request.
            receive: Of ASGI.
            record: Gets what becomes known.
            container: How purified sound is sent back.

        Raises:
            Refusal: It is outside a limit, no sound, or not done in time.
            ClientGone: Nobody waits for the answer any more.
        """
        most = self.settings.max_bytes
        check_headers(headers, most)
        record.held.enter_context(self.dispatcher.place())  # until the answer has left
        until = asyncio.get_running_loop().time() + self.settings.deadline
        body = await read_body(receive, most, self.settings.body_timeout)
        record.body_bytes = len(body)
        return await self._done(SoundTask(kind, body, container), record, until, receive)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a worker gets from a function, under the limits of all requests.

        Args:
            function: Of the top level of a module; its first argument is the worker's `Models`.
            *arguments: Behind the models; they and the result travel by pickle.

        Raises:
            Refusal: The service is full or ending, the call was not done in time, or the function
                raised a `ServaxError`.
        """
        with self.dispatcher.place():
            until = asyncio.get_running_loop().time() + self.settings.deadline
            return await self._done(Call(function, arguments), RequestRecord(""), until, None)

    async def _done(
        self, task: Task, record: RequestRecord, until: float, receive: Receive | None
    ) -> Any:
        ticket = self.dispatcher.put(task)
        gone = None if receive is None else asyncio.ensure_future(_disconnected(receive))
        waits: set[asyncio.Future[Any]] = {ticket.answer} | ({gone} if gone else set())
        left = max(0.0, until - asyncio.get_running_loop().time())
        try:
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            record.queued_seconds = ticket.waited
            if ticket.answer.done():
                return self._content(ticket.answer.result(), record)
            if gone is not None and gone.done():
                raise ClientGone
            raise Refusal(
                504,
                "deadline",
                f"No answer within {self.settings.deadline:g} s; try again when fewer "
                "others ask, or send a shorter sound.",
            )
        finally:
            self.dispatcher.withdraw(ticket)
            if gone is not None:
                gone.cancel()

    def _content(self, result: Result, record: RequestRecord) -> Any:
        if isinstance(result, Refusal):
            raise result
        if isinstance(result, Broke):
            self._log.error(
                "worker_broke",
                request=record.request_id,
                error=result.error,
                where=list(result.where[-8:]),
            )
            raise BrokeError
        record.sound = result.sound
        return result.content


def check_headers(headers: Mapping[str, str], most: int) -> None:
    """Refuse a body for what its headers say.

    Args:
        headers: Of the request; names in any case.
        most: Largest number of bytes.

    Raises:
        Refusal: It is too large, no sound, or compressed.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("audio/") or kind == "application/octet-stream"):
        raise Refusal(
            415,
            "not_audio_type",
            f"The Content-Type is {kind[:80] or 'missing'!r}, expected audio/... or "
            "application/octet-stream, with the sound itself as the body.",
        )
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refusal(415, "encoded", "The body has a Content-Encoding; send it as it is.")
    length = stated_length(headers)
    if length is not None and length > most:
        raise _too_large(most)
    if length == 0 or (length is None and "transfer-encoding" not in headers):
        raise _empty()


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """Return the body of a request.

    Args:
        receive: Of ASGI.
        most: Largest number of bytes.
        seconds: How long all of it may take to arrive.

    Raises:
        Refusal: It is too large, empty, or arrives too slowly.
        ClientGone: The connection ended before the body.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(
            408,
            "slow_body",
            f"The body did not arrive within {seconds:g} s; send a shorter sound or use a faster "
            "connection.",
        ) from None
    if not body:
        raise _empty()
    return bytes(body)


def stated_length(headers: Mapping[str, str]) -> int | None:
    """Return what Content-Length says, or None."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection, after its body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _empty() -> Refusal:
    return Refusal(422, "empty", "The body is empty, expected a sound.")


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        "too_large",
        f"The body is larger than {most} bytes; send a shorter sound, or FLAC in place of WAV.",
    )
