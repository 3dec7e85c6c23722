"""Runs the service: a socket, uvicorn, and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from servax.errors import SettingError
from servax.runtime.host import cpus, load_extra, memory_bytes
from servax.service.app import build_app
from servax.service.dispatcher import Dispatcher
from servax.service.middleware import ALWAYS
from servax.service.requests import RequestHandler
from servax.service.responses import Refusal
from servax.service.settings import ServiceSettings
from servax.service.streaming import LARGEST_CHUNK
from servax.service.telemetry import Log, Metrics, forward_libraries
from servax.service.tokens import Tokens
from servax.service.worker import UnusableError

if TYPE_CHECKING:
    from fastapi import FastAPI

KEEP_ALIVE_SECONDS = 15
FLUSH_SECONDS = 5
"""For the last bytes of answers, after all are known."""
BACKLOG = 256
"""Connections taken at once: fewer than `MOST_IDLE`, so that each is read before it makes room."""
IDLE_SECONDS = 10.0
"""A connection between requests, or whose headers are incomplete, ends after once to twice this."""
MOST_CONNECTIONS = 900
"""At once: a process may often open 1,024 files. For the next the longest idle one is closed."""
MOST_IDLE = 512
"""Connections of one address on which nothing is asked; for the next the longest idle is closed."""

HANDSHAKE_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455, 4.1)."""
NO_HTTP = Refusal(
    400,
    "not_http",
    "What was sent is no handshake of a WebSocket (version 13) and no request of HTTP/1.1, or its "
    "headers are too long; send it with a library.",
)


@dataclass(frozen=True)
class Endpoint:
    """Where a service listens, and to whom.

    Raises:
        SettingError: The port is no port.
    """

    host: str = "127.0.0.1"
    """An address, or a name of this machine."""
    port: int = 8000
    """0 takes any that is free."""
    tokens: Tokens = field(default_factory=Tokens)
    """None at all means that everybody may ask."""
    allow_open: bool = False
    """Whether everybody may ask from other machines too."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SettingError("port", self.port, "a number from 0 to 65535")

    def address(self) -> str:
        """Return the address to listen at.

        Raises:
            SettingError: The host has none, or others reach it and nobody said who may ask.
        """
        try:
            found = socket.getaddrinfo(
                self.host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError):
            expected = "an address or a name of this machine"
            raise SettingError("host", self.host, expected) from None
        addresses = [str(each[4][0]) for each in found]
        here = all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in addresses)
        if not (here or self.tokens or self.allow_open):
            raise SettingError(
                "host",
                self.host,
                "127.0.0.1, which only this machine reaches; for others add --token-file FILE, or "
                "--allow-open if a proxy lets only the right ones in",
            )
        return addresses[0]


def open_socket(endpoint: Endpoint) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingError: It is open to others without a token, taken, or not of this machine.
    """
    address = endpoint.address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, endpoint.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingError(
            "port",
            endpoint.port,
            f"one that can be listened at on {endpoint.host} ({error.strerror}); 0 takes any that "
            "is free",
        ) from None


def serve(
    settings: ServiceSettings,
    endpoint: Endpoint,
    log: Log,
    *,
    announce: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        settings: How the service works.
        endpoint: Where it listens.
        log: One line an event.
        announce: Gets the URL as soon as requests are answered: networks have loaded then.

    Raises:
        SettingError: It cannot listen there.
        ServaxError: The extra is missing, or the networks cannot be used.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "websockets"):
        load_extra(module, extra="serve", what="servax serve")
    import uvicorn

    workers = settings.worker_count  # too many are refused here
    listener = open_socket(endpoint)
    with listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        async def run() -> None:
            metrics = Metrics()
            dispatcher = Dispatcher(settings, log, metrics)
            handler = RequestHandler(dispatcher, log)
            app = build_app(handler, endpoint.tokens, log, metrics)
            forward_libraries(log)
            server: Any = uvicorn.Server(uvicorn_config(app))
            server.handle_exit = _on_signal(server, dispatcher, log)
            dispatcher.start()
            try:
                await dispatcher.loaded()
            except UnusableError:
                await dispatcher.stop()
                raise
            announce(url)
            log.info(
                "listening",
                url=url,
                tokens=bool(endpoint.tokens),
                workers=workers,
                cpus=cpus(),
                memory_mib=(memory_bytes() or 0) // 2**20 or None,
                torch=not settings.light,
            )
            await _until_end(server, dispatcher, listener)
            log.info("ended")

        asyncio.run(run())


def uvicorn_config(app: FastAPI) -> Any:
    """Return how uvicorn serves an application: no patience, no logs of its own."""
    import uvicorn

    return uvicorn.Config(
        app,
        http=patient_protocol(),
        ws=patient_socket(),
        ws_max_size=LARGEST_CHUNK,
        ws_per_message_deflate=False,  # a small message must not unfold into a large one
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )


async def _until_end(server: Any, dispatcher: Dispatcher, listener: socket.socket) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await asyncio.wait({serving, dispatcher.failed}, return_when=asyncio.FIRST_COMPLETED)
    failed = dispatcher.failed.done()
    server.should_exit |= failed
    await serving
    if failed:
        raise dispatcher.failed.result()


def _on_signal(server: Any, dispatcher: Dispatcher, log: Log) -> Callable[[int, object], Any]:
    """Return what a signal does: the first ends the service gracefully, the second at once."""
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    async def end() -> None:
        # Until all is answered connections are taken, so that whoever asks is told to go elsewhere.
        await dispatcher.drain()
        server.should_exit = True

    def begin(number: int) -> None:
        log.info("ending", signal=signal.Signals(number).name)
        if ending:
            server.should_exit = server.force_exit = True
        else:
            ending.append(loop.create_task(end()))

    return lambda number, _: loop.call_soon_threadsafe(begin, number)


def _is_handshake(method: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Say whether a request opens a WebSocket: what does not is refused in plain text otherwise."""
    names = (b"sec-websocket-version", b"sec-websocket-key")
    versions, keys = ([value for name, value in headers if name == each] for each in names)
    key = len(keys) == 1 and HANDSHAKE_KEY.fullmatch(keys[0])
    return method == b"GET" and versions == [b"13"] and bool(key)


def patient_protocol(
    idle_seconds: float = IDLE_SECONDS, most: int = MOST_CONNECTIONS, most_idle: int = MOST_IDLE
) -> Any:
    """Return uvicorn's protocol (h11) with an end to its patience.

    uvicorn itself waits for ever for the headers of a request, takes any number of connections,
    and answers what is no HTTP in plain text.

    Args:
        idle_seconds: Between two looks at a connection; idle at both means its end.
        most: Connections at once.
        most_idle: Of those of one address, how many may be idle.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        _look: asyncio.TimerHandle | None = None
        _seen: object = None
        _idle_since = 0.0

        @property
        def idle(self) -> bool:
            """Say whether no whole head of a request waits for its answer."""
            return self.cycle is None or self.cycle.response_complete

        @property
        def peer(self) -> str | None:
            """Return the address at the other end."""
            return self.client[0] if self.client else None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._idle_since = self.loop.time()
            self._look = self.loop.call_later(idle_seconds, self._end_if_idle)
            if len(self.connections) > min(most, most_idle):
                self._make_room()

        def handle_websocket_upgrade(self, event: Any) -> None:
            if not _is_handshake(event.method, self.headers):
                self.send_400_response("")
                return
            # What waits there has a patience of its own (`streaming`).
            if self._look is not None:
                self._look.cancel()
            super().handle_websocket_upgrade(event)

        def _make_room(self) -> None:
            # Those that were closed a moment ago are still listed.
            there = [
                each
                for each in self.connections
                if isinstance(each, PatientProtocol) and not each.transport.is_closing()
            ]
            idle = [each for each in there if each.idle]
            of_peer = [each for each in idle if each.peer == self.peer]
            if len(of_peer) > most_idle or len(there) > most:
                chosen = of_peer if len(of_peer) > most_idle else idle
                # One that was asked before may be asked again this moment.
                key = [(each.cycle is not None, each._idle_since) for each in chosen]
                chosen[key.index(min(key))].transport.close()

        def on_response_complete(self) -> None:
            self._idle_since = self.loop.time()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps(NO_HTTP.body).encode()
                told = ALWAYS | {"content-type": "application/json", "connection": "close"}
                head = [*told.items(), ("content-length", str(len(body)))]
                start = h11.Response(status_code=NO_HTTP.status, headers=head, reason="Bad Request")
                answer = (start, h11.Data(data=body), h11.EndOfMessage())
                self.transport.write(b"".join(self.conn.send(each) or b"" for each in answer))
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._look is not None:
                self._look.cancel()
            super().connection_lost(exc)

        def _end_if_idle(self) -> None:
            if self.transport.is_closing():  # what was written last is not read
                self.transport.abort()
                return
            if self.idle and self.cycle is self._seen:
                self.transport.close()
                return
            self._seen = self.cycle
            self._look = self.loop.call_later(idle_seconds, self._end_if_idle)

    return PatientProtocol


def patient_socket() -> Any:
    """Return uvicorn's protocol of WebSockets with an end to its patience.

    uvicorn itself answers pings of a client that never reads, and waits for ever for it to read
    what was written last; it logs a text that is no text, and what was denied, as faults.
    """
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class PatientSocket(WebSocketsSansIOProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self.writable.is_set():
                self.transport.pause_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            if not self.read_paused:
                self.transport.resume_reading()

        def send_receive_event_to_app(self) -> None:
            try:
                if self.curr_msg_data_type == "text":
                    b"".join(self.frames).decode()
                super().send_receive_event_to_app()
            except UnicodeDecodeError:
                self.conn.fail(1007)
                self.handle_parser_exception()

        async def send(self, message: Any) -> None:
            await super().send(message)
            denied = message["type"] == "websocket.http.response.body"
            self.handshake_complete |= denied and not message.get("more_body", False)

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(self.close_timeout, self.transport.abort)  # what is not read yet

    return PatientSocket
