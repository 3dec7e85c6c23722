"""A service on loopback in a thread, with one worker and the packaged synthetic networks."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import soundfile
import uvicorn
from starlette.requests import Request

from servax.service import (
    Dispatcher,
    Endpoint,
    Metrics,
    RequestHandler,
    ServiceSettings,
    Tokens,
    build_app,
    forward_libraries,
    open_log,
    open_socket,
    uvicorn_config,
)
from servax.service.requests import RequestRecord

PURIFIER, RECOGNISER = "ssad-plus-synthetic", "crnn-synthetic"
HEADERS = [(b"content-type", b"audio/wav"), (b"content-length", b"3")]
SETTINGS = ServiceSettings(
    purifier=PURIFIER,
    model=RECOGNISER,
    workers=1,
    body_timeout=1.0,
    max_bytes=400_000,
    max_seconds=5.0,
)


def sound(
    seconds: float = 0.6,
    rate: int = 16_000,
    channels: int = 1,
    container: str = "WAV",
    seed: int = 0,
) -> bytes:
    """Return a file of noise, as bytes."""
    draws = np.random.default_rng(seed)
    samples = 0.1 * draws.normal(size=(round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, "PCM_16", format=container)
    return file.getvalue()


def samples_of(body: bytes) -> tuple[np.ndarray, int]:
    """Return (T, channels) float32 and the rate of a file."""
    samples, rate = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)
    return samples, rate


@dataclass
class Running:
    """A service in a thread of this process."""

    settings: ServiceSettings = SETTINGS
    tokens: Tokens = field(default_factory=Tokens)
    log: io.StringIO = field(default_factory=io.StringIO)
    url: str = ""

    def __enter__(self) -> Running:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._up.wait(20)
        self.client = httpx.Client(base_url=self.url, timeout=60.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        log, metrics = open_log(self.log), Metrics()
        self.loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(self.settings, log, metrics)
        self.handler = RequestHandler(self.dispatcher, log)
        app = build_app(self.handler, self.tokens, log, metrics)
        forward_libraries(log)
        self.server = uvicorn.Server(uvicorn_config(app))
        listener = open_socket(Endpoint(port=0))
        host, self.port = listener.getsockname()
        self.url = f"http://{host}:{self.port}"
        self._up.set()
        await self.server.serve(sockets=[listener])

    def wait(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait until something is true."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Return the answer to a sound."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=body, headers={"Content-Type": "audio/wav", **given})

    def done(self, work: Callable[..., Any]) -> Any:
        """Return what a worker makes of a sound by a function, under the limits of all requests."""

        messages = [{"type": "http.request", "body": sound()}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else await asyncio.Event().wait()

        scope = {"type": "http", "headers": HEADERS, "servax": RequestRecord("x")}

        async def asked() -> Any:
            with scope["servax"].held:
                return await self.handler.sound(Request(scope, receive), work)

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(60)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def line(self, key: str, value: Any) -> dict[str, Any]:
        """Return the line of the log that says so; it is written after the answer has gone."""

        def said() -> list[dict[str, Any]]:
            return [line for line in self.lines() if line.get(key) == value]

        self.wait(said)
        (line,) = said()
        return line
