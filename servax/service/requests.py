"""The way of one request through the service: headers, body, queue, worker, deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from servax.service.decoding import MOST_SAMPLES
from servax.service.dispatcher import SLOWEST_BODY, Dispatcher, later
from servax.service.parts import FORM, JSON, sounds_of
from servax.service.responses import AttackMethod, Knowledge, Refusal, Trial, client_gone, internal
from servax.service.settings import ATTACKS_WAITING
from servax.service.telemetry import Log
from servax.service.worker import Broke, Done, Result, Task, attack

if TYPE_CHECKING:
    from starlette.requests import Request

UNREAD_BYTES = 2**20
"""What is left of a refused body is read and thrown away up to here; else the connection ends."""
TINY_SECONDS = 1e-9
"""Less than a sample: no sound is as short."""
TOO_LONG_TOGETHER = (
    "The sounds of this body are longer than the {:g} s allowed together; send this one alone."
)
ATTACKERS: tuple[Knowledge, ...] = ("oblivious", "adaptive")


@dataclass
class RequestRecord:
    """What becomes known of a request while it is answered."""

    request_id: str
    status: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    """What is logged of it beyond what every request has, such as the code of a refusal."""
    until: float = 0.0
    """When the answer must be there, on the clock of the event loop."""
    body_open: bool = True
    """Whether more of its body may come."""
    held: ExitStack = field(default_factory=ExitStack)
    """What is given back when the answer has left."""


class RequestHandler:
    """Lets requests in; each keeps its `RequestRecord` in ``request.scope["servax"]``.

    Args:
        dispatcher: The workers.
        log: For what breaks in them.
    """

    def __init__(self, dispatcher: Dispatcher, log: Log) -> None:
        self.dispatcher = dispatcher
        self.settings = dispatcher.settings
        self._log = log
        self._attacks = 0
        self._one_attack = asyncio.Lock()

    async def sound(
        self, request: Request, work: Any, *, kinds: Collection[str] = (), **how: Any
    ) -> Any:
        """Return what a worker makes of the sound in the body of a request.

        Args:
            request: As it came, its body unread.
            work: As of a `Task`.
            kinds: What the body may be beside sound.
            how: As of a `Task`.

        Raises:
            Refusal: It is outside a limit, no sound, or not done in time; nobody waits for the
                answer any more; something broke in the worker.
        """
        body = await self._body(request, kinds)
        return await self._done(request, Task(work, body, self.settings, **how))

    async def sounds(self, request: Request, work: Any) -> list[Any]:
        """Return what workers make of the sounds in the body of a request, or why they do not.

        Together they are bounded as one sound is, and few are at work at once: others get their
        share of the workers, and how much of the bound is left is known when those before are done.

        Args:
            request: As it came, its body unread.
            work: As of a `Task`.

        Raises:
            Refusal: As of `sound`, of the body as a whole.
        """
        bodies = deque(await sounds_of(request.headers, await self._body(request, (FORM, JSON))))
        told, most = request.scope["servax"].told, self.settings.max_seconds
        at_once = max(2, self.settings.worker_count // 2)
        begun: deque[asyncio.Task[Done | Refusal]] = deque()
        made: list[Any] = []
        seconds, left = 0.0, most
        try:
            while bodies or begun:
                limits = replace(self.settings, max_seconds=max(left, TINY_SECONDS))
                while bodies and len(begun) < at_once:
                    task = Task(work, bodies.popleft(), limits)
                    begun.append(asyncio.create_task(self._part(request, task)))
                found = await begun.popleft()
                if isinstance(found, Done) and (cost := _cost(found, most)) > left:
                    found = Refusal(413, "too_long", TOO_LONG_TOGETHER.format(most))
                if isinstance(found, Refusal):
                    told["code"] = found.code
                    made.append(found)
                    continue
                left -= cost
                seconds += float(found.facts["sound_seconds"])
                made.append(found.content)
        finally:
            for each in begun:
                each.cancel()
            await asyncio.gather(*begun, return_exceptions=True)
        if seconds:
            told["sound_seconds"] = round(seconds, 3)
        return made

    async def _part(self, request: Request, task: Task) -> Done | Refusal:
        """Return what comes of a task, or why nothing does; who left hears neither."""
        try:
            return await self._result(request, task)
        except Refusal as refusal:
            if refusal.status == 499:
                raise
            return refusal

    async def attack(
        self, request: Request, method: AttackMethod, snr_db: float
    ) -> AsyncIterator[Trial | Refusal]:
        """Return what becomes of a sound, and then what each attacker gets, as it is known.

        What becomes of the sound as it is, is known when this returns: then the sound is one.
        Sounds are attacked one at a time.

        Args:
            request: As it came, its body unread.
            method: Of the attack; none leaves attackers out.
            snr_db: Its strength.

        Raises:
            Refusal: As of `sound`; too many wait already.
        """
        body = await self._body(request)
        record: RequestRecord = request.scope["servax"]
        await self._turn(record)
        limits = replace(self.settings, max_seconds=self.settings.attack_seconds)

        def task(knowledge: Knowledge) -> Task:
            return Task(
                partial(attack, method=method, snr_db=snr_db, knowledge=knowledge), body, limits
            )

        first = await self._done(request, task("none"))
        others = () if method == "none" else ATTACKERS
        return self._trials(request, first, [task(each) for each in others])

    async def _trials(
        self, request: Request, first: Trial, tasks: list[Task]
    ) -> AsyncIterator[Trial | Refusal]:
        """Yield the first trial, then each other as soon as it is done, or why it is not."""
        yield first
        begun = [asyncio.ensure_future(self._done(request, each, watch=False)) for each in tasks]
        try:
            for each in asyncio.as_completed(begun):
                yield await each
        except Refusal as refusal:
            request.scope["servax"].told["code"] = refusal.code
            yield refusal
        finally:
            for future in begun:
                future.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _turn(self, record: RequestRecord) -> None:
        """Wait until no other sound is attacked.

        Raises:
            Refusal: Many wait already, or too long.
        """
        if self._attacks > ATTACKS_WAITING:
            waiting = f"{ATTACKS_WAITING} sounds wait to be attacked already; try again later."
            raise later(429, "busy", waiting, 10)
        self._attacks += 1
        with ExitStack() as failed:
            failed.callback(self._leave)
            try:
                async with asyncio.timeout_at(record.until):
                    await self._one_attack.acquire()
            except TimeoutError:
                raise self._late() from None
            record.held.callback(self._one_attack.release)
            record.held.push(failed.pop_all())

    def _leave(self) -> None:
        self._attacks -= 1

    async def _body(self, request: Request, kinds: Collection[str] = ()) -> bytes:
        """Return the body of a request, which takes a place until its answer has left.

        Args:
            request: As it came, its body unread.
            kinds: What it may be beside sound.

        Raises:
            Refusal: As of `check_headers`; or it is empty, cut off, or arrives too slowly.
        """
        settings, record = self.settings, request.scope["servax"]
        check_headers(request.headers, settings.max_bytes, kinds)
        place = record.held.enter_context(self.dispatcher.place())
        record.until = asyncio.get_running_loop().time() + settings.deadline
        body = bytearray()
        try:
            async with asyncio.timeout(settings.body_timeout) as place.arriving:
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise client_gone()
                    body += message.get("body", b"")
                    place.received = len(body)
                    if len(body) > settings.max_bytes:
                        raise _too_large(settings.max_bytes)
                    more = message.get("more_body", False)
        except TimeoutError:
            when = f"within {settings.body_timeout:g} s"
            if place.given_away:
                when = f"at {SLOWEST_BODY} bytes a second while others waited"
            raise Refusal(
                408,
                "slow_body",
                f"The body did not arrive {when}; send a shorter sound or use a faster connection.",
            ) from None
        place.arriving = None
        if not body:
            raise _empty()
        record.told["bytes"] = len(body)
        return bytes(body)

    async def _done(self, request: Request, task: Task, *, watch: bool = True) -> Any:
        """Return the content of what comes of a task, and log the facts; as of `_result`."""
        result = await self._result(request, task, watch=watch)
        request.scope["servax"].told |= result.facts
        return result.content

    async def _result(self, request: Request, task: Task, *, watch: bool = True) -> Done:
        """Return what comes of a task; `watch` gives up when the client leaves."""
        record: RequestRecord = request.scope["servax"]
        ticket = self.dispatcher.put(task)
        gone = asyncio.ensure_future(_disconnected(request)) if watch else None
        left = max(0.0, record.until - asyncio.get_running_loop().time())
        try:
            waits: list[asyncio.Future[Any]] = [ticket.answer, *([gone] if gone else [])]
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            record.told["queued_ms"] = round(1000 * ticket.waited, 1)
            if not ticket.answer.done():
                raise client_gone() if gone is not None and gone.done() else self._late()
            return self.done(ticket.answer.result(), record.request_id)
        finally:
            ticket.answer.cancel()
            if gone is not None:
                gone.cancel()

    def done(self, result: Result, request_id: str) -> Done:
        """Return what a worker gave, where it gave something.

        Raises:
            Refusal: It did not.
        """
        if isinstance(result, Refusal):
            raise result
        if isinstance(result, Broke):
            where = list(result.where[-8:])
            self._log.error("worker_broke", request=request_id, error=result.error, where=where)
            raise internal()
        return result

    def _late(self) -> Refusal:
        return Refusal(
            504,
            "deadline",
            f"No answer within {self.settings.deadline:g} s; try again when fewer others ask, or "
            "send a shorter sound.",
        )


def check_headers(headers: Mapping[str, str], most: int, kinds: Collection[str] = ()) -> None:
    """Refuse a body for what its headers say.

    Args:
        headers: Of the request; names in any case.
        most: Largest number of bytes.
        kinds: What the body may be beside sound.

    Raises:
        Refusal: A page of another host sends it; it is too large, no sound, or compressed.
    """
    if is_elsewhere(headers):
        raise Refusal(403, "other_origin", "Pages of other hosts may not send sound here.")
    kind = kind_of(headers)
    if not (kind.startswith("audio/") or kind in ("application/octet-stream", *kinds)):
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


def is_elsewhere(headers: Mapping[str, str]) -> bool:
    """Say whether a browser shows a page of another host, which may not ask here."""
    origin = headers.get("origin")
    # Set by the browser alone; it is right where a proxy in front changes Host.
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host")
    except ValueError:  # http://[
        return True


def kind_of(headers: Mapping[str, str]) -> str:
    """Return what Content-Type says, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def stated_length(headers: Mapping[str, str]) -> int | None:
    """Return what Content-Length says, or None."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _cost(done: Done, most: float) -> float:
    """Return how much of a bound of `most` seconds a sound takes; of many samples, by these."""
    seconds, rate, channels = (float(done.facts[k]) for k in ("sound_seconds", "rate", "channels"))
    return min(most, max(seconds, most * seconds * rate * channels / MOST_SAMPLES))


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection, after its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _empty() -> Refusal:
    return Refusal(422, "empty", "The body is empty, expected a sound.")


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        "too_large",
        f"The body is larger than {most} bytes; send a shorter sound, or FLAC in place of WAV.",
    )
