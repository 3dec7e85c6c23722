"""The way of one request through the service: body, queue, worker, deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from servax.service.bodies import Receive, check_headers, disconnected, read_body
from servax.service.dispatcher import Dispatcher
from servax.service.envelope import Account
from servax.service.logs import Log
from servax.service.orders import Broke, Call, Container, Done, Kind, Order, Task
from servax.service.refusals import ClientGone, Refusal


class BrokeError(Exception):
    """A worker broke over a task; what is known of it is in the log already."""


class Gate:
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
        told: Account,
        *,
        container: Container = "wav",
    ) -> Any:
        """Return what comes of the sound in the body of a request.

        Args:
            kind: What is done with it.
            headers: Of the request.
            receive: Of ASGI.
            told: Gets what becomes known.
            container: How purified sound is sent back.

        Raises:
            Refusal: It is outside a limit, no sound, or not done in time.
            ClientGone: Nobody waits for the answer any more.
        """
        limits = self.settings.limits
        check_headers(headers, limits.body_bytes)
        told.held.enter_context(self.dispatcher.place())  # until the answer has left
        until = asyncio.get_running_loop().time() + self.settings.deadline_seconds
        body = await read_body(receive, limits.body_bytes, self.settings.body_seconds)
        told.body_bytes = len(body)
        return await self._done(Order(kind, body, container), told, until, receive)

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
            until = asyncio.get_running_loop().time() + self.settings.deadline_seconds
            return await self._done(Call(function, arguments), Account(""), until, None)

    async def _done(self, task: Task, told: Account, until: float, receive: Receive | None) -> Any:
        loop = asyncio.get_running_loop()
        ticket = self.dispatcher.put(task)
        waits: set[asyncio.Future[Any]] = {ticket.answer}
        gone = None
        if receive is not None:
            gone = asyncio.ensure_future(disconnected(receive))
            waits.add(gone)
        try:
            await asyncio.wait(
                waits, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            told.queued_seconds = ticket.waited
            if ticket.answer.done():
                return self._content(ticket.answer.result(), told)
            if gone is not None and gone.done():
                raise ClientGone
            raise Refusal(
                504,
                "deadline",
                f"No answer within {self.settings.deadline_seconds:g} s; try again when fewer "
                "others ask, or send a shorter sound.",
            )
        finally:
            self.dispatcher.withdraw(ticket)
            if gone is not None:
                gone.cancel()

    def _content(self, result: Done | Refusal | Broke, told: Account) -> Any:
        if isinstance(result, Refusal):
            raise result
        if isinstance(result, Broke):
            self._log.error(
                "worker_broke",
                request=told.request_id,
                error=result.error,
                where=list(result.where[-8:]),
            )
            raise BrokeError
        told.heard = result.heard
        return result.content
