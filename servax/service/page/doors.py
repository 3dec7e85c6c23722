"""Which requests reach Gradio: what the page needs, and nothing else.

Mounted in another application, Gradio (6) takes any path of the server as an uploaded file, fetches
URLs for whoever asks, serves the description of its own interface and more. The page needs a
dozen of its hundred routes. The rest is answered 404 here, before Gradio sees it; bodies are
bounded, and the folder of clips too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servax.service.page.settings import PageLimits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

GET = re.compile(
    r"/?|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|logout)/?"
    r"|/(assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(theme\.css|startup-events|app_id|login_check|queue/data|upload_progress)"
    r"|/gradio_api/heartbeat/\w+"
)
POST = re.compile(r"/login/?|/gradio_api/(queue/join|upload|cancel|reset)/?")
FILE = "/gradio_api/file="
UPLOAD = "/gradio_api/upload"
FORM_BYTES = 20_000
"""Around the file of an upload, and of any other body."""
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
        b"base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""With each answer: browsers ask nobody else, whatever Gradio's scripts may want."""
REASONS = {
    404: "There is nothing here.",
    411: "The request does not say how long it is (Content-Length).",
    413: "The request is too large.",
    429: "Too many clips are held at the moment; try again in some minutes.",
}


@dataclass(frozen=True)
class Doors:
    """An ASGI application in front of Gradio's."""

    app: Application
    """Gradio's."""
    folder: Path
    """Where clips lie; no other file is served."""
    limits: PageLimits
    """How much is taken."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 404, 411, 413 or 429."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = self.refused(scope) if scope["type"] == "http" else 404
        if status is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            await _answer(status, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def refused(self, scope: MutableMapping[str, Any]) -> int | None:
        """Return the status that a request is refused with; None lets it pass."""
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        if scope["method"] in ("GET", "HEAD"):
            return None if self._may_get(path) else 404
        if scope["method"] != "POST" or not POST.fullmatch(path):
            return 404
        length = next((v for k, v in scope["headers"] if k == b"content-length"), b"")
        if not length.isdigit():
            return 411
        upload = path.rstrip("/") == UPLOAD
        if int(length) > FORM_BYTES + (self.limits.upload_bytes if upload else 0):
            return 413
        if upload and sum(_sizes(self.folder)) + int(length) > self.limits.held_bytes:
            return 429
        return None

    def _may_get(self, path: str) -> bool:
        if ".." in path:
            return False
        if path.startswith(FILE):
            return Path(path.removeprefix(FILE)).is_relative_to(self.folder)
        return GET.fullmatch(path) is not None


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.stat().st_size
        except OSError:  # Removed since it was listed.
            continue


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return sending


async def _answer(status: int, send: Send) -> None:
    body = REASONS[status].encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 429:
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
