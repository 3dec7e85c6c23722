"""Live sound over a WebSocket: chunks in, purified chunks out, at a latency that is said first.

Messages are samples of one channel, 16 bits, the smaller byte first. The service begins with a JSON
text ``{"sample_rate": ..., "latency_seconds": ...}``; the client ends with any text, and gets the
rest and ``{"samples": ..., "limited_samples": ..., "limited_db": ...}``. Windows are purified by
the workers, as `ClipCleaner.stream` would; here they are cut and joined.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from servax.audio import as_written, encoded
from servax.errors import ServaxError
from servax.runtime.samples import SHORTEST_SECONDS, Samples
from servax.runtime.stream import SoundStream, live_windows
from servax.service.dispatcher import later
from servax.service.requests import RequestHandler
from servax.service.responses import Refusal, client_gone
from servax.service.worker import Task, clip_seconds, purify_clip

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

LARGEST_CHUNK = 2**20
"""In bytes."""
CHUNK_SECONDS = 5.0
"""A chunk may play so long: what of it is at work when the client leaves is done in vain."""
HIGHEST_STREAM_RATE = 96_000
"""In Hz."""
FULL_SCALE = 32_768
TRY_LATER, REFUSED, BROKEN = 1013, 1008, 1011
"""How a connection is closed (RFC 6455, 7.4.1, and its registry)."""


class LiveSound:
    """One stream; it takes a place of the service until it ends.

    Args:
        handler: The way to the workers.
        socket: A connection that was accepted.
        sample_rate: Of the samples, in Hz.
    """

    def __init__(self, handler: RequestHandler, socket: WebSocket, sample_rate: int) -> None:
        self._handler, self._socket, self._rate = handler, socket, sample_rate
        self._dispatcher = handler.dispatcher
        self._limits = replace(
            handler.settings, max_seconds=3600.0, max_bytes=2**30, decode_seconds=60.0
        )
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[Any] | None = None
        self._lag = 0.0

    async def run(self) -> dict[str, Any]:
        """Purify until the client ends it or a limit is reached; return what is logged of it."""
        from starlette.websockets import WebSocketDisconnect

        told: dict[str, Any] = {"rate": self._rate}
        try:
            with self._dispatcher.place(stream=True):
                stream = await self._begun()
                told["sound_seconds"] = 0.0
                while (chunk := await self._chunk()) is not None:
                    await self._send(await asyncio.to_thread(stream.feed, chunk))
                    told["sound_seconds"] = round(stream.heard / self._rate, 3)
                await self._send(await asyncio.to_thread(stream.finish))
                done = {"samples": stream.heard, "limited_samples": stream.limited.samples}
                await self._tell({**done, "limited_db": round(stream.limited.decibels, 2)})
                await self._socket.close()
        except WebSocketDisconnect:  # while something was sent
            told["code"] = "client_gone"
        except Refusal as refusal:
            told["code"] = refusal.code
            await self._refuse(refusal)
        except ServaxError as error:
            told["code"] = "unusable"
            await self._refuse(Refusal(422, "unusable", str(error)))
        finally:
            if self._next is not None:
                self._next.cancel()
        return told

    async def _begun(self) -> SoundStream:
        silence = np.zeros(round(2 * SHORTEST_SECONDS * self._rate), dtype=np.float32)
        seconds = await self._worked(clip_seconds, silence)
        if seconds is None:
            raise Refusal(422, "unusable", "This purifier is not streamed here.")
        windows = live_windows(seconds, self._rate)
        stream = SoundStream(self._clip, windows, self._rate)
        await self._tell({"sample_rate": self._rate, "latency_seconds": stream.latency_seconds})
        return stream

    def _clip(self, samples: Samples) -> Samples:
        """Return a purified window (T,); called in a thread, which waits for a worker."""
        work = self._worked(purify_clip, samples)
        made: Samples = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        return made

    async def _worked(self, work: Any, samples: Samples) -> Any:
        if self._dispatcher.closing:
            raise later(503, "shutting_down", "The service is ending.")
        if self._next is not None and self._next.done():
            _check_connected(self._next.result())
        body = encoded(samples[:, None], self._rate, "WAV", "FLOAT")
        ticket = self._dispatcher.put(Task(work, body, self._limits))
        try:
            result = await asyncio.wait_for(ticket.answer, self._handler.settings.deadline)
        except TimeoutError:
            raise later(504, "deadline", "The workers are too busy for live sound.") from None
        return self._handler.done(result, "stream").content

    async def _chunk(self) -> NDArray[np.float32] | None:
        """Return the samples (T,) of the next message; none at the end.

        Raises:
            Refusal: The client left, its sound falls behind the clock, or the message holds half
                a sample or too many.
        """
        most, begun = self._handler.settings.body_timeout, self._loop.time()
        coming = self._next or asyncio.ensure_future(self._socket.receive())
        self._next = None
        try:
            # Only waits for the client count: not what the workers take.
            message = await asyncio.wait_for(coming, most - max(0.0, self._lag))
        except TimeoutError:
            told = f"The sound is {most:g} s behind the clock; send silence in a pause."
            raise Refusal(408, "slow_body", told) from None
        _check_connected(message)
        data = message.get("bytes")
        if data is None:
            return None
        if len(data) % 2:
            raise Refusal(422, "bad_chunk", "A chunk holds half a sample of 16 bits.")
        seconds = len(data) / 2 / self._rate
        if seconds > CHUNK_SECONDS:
            told = f"A chunk plays {seconds:g} s, expected at most {CHUNK_SECONDS:g} s."
            raise Refusal(422, "bad_chunk", told)
        self._lag += self._loop.time() - begun - seconds
        self._next = asyncio.ensure_future(
            self._socket.receive()
        )  # a client that leaves is seen at once
        samples = np.frombuffer(data, dtype="<i2").astype(np.float32)
        return samples / np.float32(FULL_SCALE)

    async def _send(self, samples: Samples) -> None:
        if len(samples):
            whole = np.rint(as_written(samples, "PCM_16") * FULL_SCALE).astype("<i2")
            await self._in_time(self._socket.send_bytes(whole.tobytes()))

    async def _tell(self, said: dict[str, Any]) -> None:
        await self._in_time(self._socket.send_json(said))

    async def _in_time(self, sending: Any) -> None:
        try:
            await asyncio.wait_for(sending, self._handler.settings.body_timeout)
        except TimeoutError:
            raise Refusal(408, "slow_reader", "The client does not read.") from None

    async def _refuse(self, refusal: Refusal) -> None:
        """Say why, and close; a client that left hears nothing."""
        from starlette.websockets import WebSocketDisconnect

        if refusal.status in (408, 499):
            closing = 1000 if refusal.status == 499 else REFUSED
        else:
            closing = {422: REFUSED, 500: BROKEN}.get(refusal.status, TRY_LATER)
        try:
            if refusal.status != 499:
                await asyncio.wait_for(self._socket.send_json(refusal.body), 1.0)
                await self._socket.close(closing)
        except (RuntimeError, TimeoutError, WebSocketDisconnect):  # it has left meanwhile
            return


def _check_connected(message: Any) -> None:
    if message["type"] == "websocket.disconnect":
        raise client_gone()
