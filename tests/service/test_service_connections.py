"""Connections that send too slowly, never ask, or never read."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from service_running import Running, sound

from servax.service import Metrics, dispatcher, open_log
from servax.service.middleware import RequestMiddleware
from servax.service.server import patient_protocol

POST = b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"


def told(service: Running, request: bytes) -> bytes:
    """Return all that comes back for the bytes of a request, up to the end of its first answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while b'"}}' not in answer and (part := connection.recv(65_536)):
            answer += part
    return answer


def test_a_body_said_to_be_too_large_is_refused_unread(service: Running) -> None:
    answer = told(service, POST + b"Content-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_chunks_are_counted(service: Running) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    answer = told(service, POST + b"Transfer-Encoding: chunked\r\n\r\n" + 7 * chunk)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_slow_body_is_not_waited_for(service: Running) -> None:
    answer = told(service, POST + b"Content-Length: 1000\r\n\r\nRIFF")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow_body" in answer
    service.wait(lambda: not service.dispatcher._places)


def test_a_body_that_stalls_gives_its_place_to_who_waits(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PATIENT_SECONDS", 0.2)
    settings = replace(service.settings, queue=2, body_timeout=20.0)
    for each in (service.dispatcher, service.handler):
        monkeypatch.setattr(each, "settings", settings)
    ready = lambda: service.client.get("/readyz").status_code  # noqa: E731
    with ExitStack() as open_ones:
        stalled = []
        for sent in (b"RIFF", b"RI"):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
            open_ones.enter_context(connection)
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\n" + sent)
            stalled.append(connection)
        service.wait(lambda: len(service.dispatcher._places) == 2)
        assert (service.post("/v1/purify", sound()).status_code, ready()) == (429, 503)
        service.wait(lambda: ready() == 200)
        assert service.post("/v1/purify", sound()).status_code == 200
        refused = stalled[1].recv(65_536)  # less of it came
        assert refused.startswith(b"HTTP/1.1 408 ")
        assert b"while others waited" in refused
        assert len(service.dispatcher._places) == 1
    service.wait(lambda: not service.dispatcher._places)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_by_the_server(service: Running, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        with suppress(ConnectionError):  # it may be closed before all is sent
            connection.sendall(request_bytes)
        head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-content-type-options: nosniff" in head.lower()
    assert json.loads(body)["error"]["code"] == "not_http"
    assert service.client.get("/healthz").status_code == 200


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def patient(**limits: Any) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Yield the port of a server that says hello, and what its answers to /slow wait for."""
    go = asyncio.Event()

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    protocol = patient_protocol(**limits)
    config = uvicorn.Config(hello, http=protocol, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    yield listener.getsockname()[1], go
    server.should_exit = True
    await serving


def test_a_connection_that_asks_for_nothing_ends() -> None:
    async def story() -> None:
        async with patient(idle_seconds=0.2) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET + b"GET / HTTP/1.1\r\nHost: ")
            begun = time.monotonic()
            assert b"204" in await asyncio.wait_for(reader.read(), 10)
            assert time.monotonic() - begun > 0.1
            writer.close()

    asyncio.run(story())


@pytest.mark.parametrize("limits", [{"most": 3}, {"most_idle": 3}])
def test_the_longest_idle_connection_makes_room_and_none_that_is_served(
    limits: dict[str, int],
) -> None:
    async def story() -> None:
        async with patient(**limits) as (port, go):

            async def answered(connection: Any) -> bool:
                return b"204" in await asyncio.wait_for(connection[0].readuntil(b"\r\n\r\n"), 5)

            served, old = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            served[1].write(GET.replace(b" / ", b" /slow "))
            old[1].write(GET)
            assert await answered(old)  # it may be asked again
            others = []
            for _ in range(6):
                others.append(await asyncio.open_connection("127.0.0.1", port))
                await asyncio.sleep(0.02)
            kept = 2 - ("most" in limits)  # the one that is served counts among all
            for reader, _ in others[:-kept]:
                assert await asyncio.wait_for(reader.read(), 5) == b""
            for each in (old, *others[-kept:]):
                each[1].write(GET)
                assert await answered(each)
            go.set()
            assert await answered(served)
            for _, writer in (served, old, *others):
                writer.close()

    asyncio.run(story())


def test_an_answer_that_nobody_reads_gives_its_place_back() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        scope["servax"].held.callback(given_back.append, True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(3 * 2**18)})

    async def unread(message: Any) -> None:
        sent.append(len(message.get("body", b"")))
        if len(sent) == 3:
            await asyncio.Event().wait()

    sent: list[int] = []
    given_back: list[bool] = []
    log = io.StringIO()
    envelope = RequestMiddleware(
        large, log=open_log(log), metrics=Metrics(), routes=("/v1/purify",), answer_seconds=0.05
    )
    scope = {"type": "http", "path": "/v1/purify", "method": "POST", "headers": []}
    asyncio.run(envelope(scope, asyncio.Event().wait, unread))  # type: ignore[arg-type]
    assert sent == [0, 2**18, 2**18]
    assert given_back == [True]
    assert '"code": "slow_reader"' in log.getvalue()


def test_what_breaks_is_answered_without_its_words() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret /home/somebody")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    log = io.StringIO()
    envelope = RequestMiddleware(
        broken, log=open_log(log), metrics=Metrics(), routes=(), answer_seconds=1.0
    )
    scope = {"type": "http", "path": "/v1/purify", "method": "POST", "headers": []}
    asyncio.run(envelope(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["code"] == "internal"
    for said in (sent[1]["body"].decode(), log.getvalue()):
        assert "secret" not in said
    assert '"error": "ValueError"' in log.getvalue()
    assert "broken:" in log.getvalue()
