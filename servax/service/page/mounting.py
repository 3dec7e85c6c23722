"""Mounts the page on the application of the service, and guards the way to Gradio.

Mounted in another application, Gradio (6) takes any path of the server as an uploaded file, fetches
URLs for whoever asks, serves the description of its own interface and more. The page needs a
dozen of its hundred routes. The rest is answered 404 here, before Gradio sees it; bodies are
bounded, and the folder of clips too.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servax.runtime.host import load_extra
from servax.service.page.layout import CSS, Run, build_blocks, theme
from servax.service.settings import PageLimits

PATH = "/page"
SIGN_IN = "Any user name; the password is one of the service's tokens."
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


def mount_page(
    app: Any,
    run: Run,
    *,
    limits: PageLimits | None = None,
    admits: Callable[[str], bool] | None = None,
) -> Path:
    """Serve the page at ``/page/`` of an application.

    Args:
        app: A FastAPI application that has not started; when it ends, all clips are removed.
        run: ``await run(function, *arguments)`` returns ``function(models, *arguments)`` from where
            the models are; functions and arguments can be pickled.
        limits: How much is taken.
        admits: Says whether a password lets somebody in; None lets everybody in.

    Returns:
        The folder in which clips lie while the application runs.

    Raises:
        ServaxError: Gradio is not installed.
    """
    from fastapi.responses import RedirectResponse
    from starlette.middleware import Middleware

    limits = limits or PageLimits()
    folder = Path(tempfile.mkdtemp(prefix="servax-page-")).resolve()
    with _removed_unless_mounted(folder):
        gradio = load_gradio(folder)
        blocks = build_blocks(gradio, run, limits)
        keep_inside(gradio, blocks, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            gradio.mount_gradio_app(
                app,
                blocks,
                PATH,
                auth=None if admits is None else lambda _, password: admits(password),
                auth_message=SIGN_IN,
                allowed_paths=[],
                max_file_size=limits.upload_bytes,
                show_error=False,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                enable_monitoring=False,
                pwa=False,
                mcp_server=False,
                theme=theme(gradio),
                css=CSS,
                app_kwargs={
                    "middleware": [Middleware(Guard, folder=folder, limits=limits)],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
            )
        app.add_api_route(
            PATH, lambda: RedirectResponse(f"{PATH}/"), methods=["GET"], include_in_schema=False
        )
        _remove_at_end(app, folder)
    return folder


def load_gradio(folder: Path) -> Any:
    """Return Gradio, told to keep its files in a folder and to tell nobody.

    Raises:
        ServaxError: It is not installed.
    """
    # Gradio reads these whenever it likes, from the environment only.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    with warnings.catch_warnings():
        # It looks for FFmpeg, which nothing here needs.
        warnings.filterwarnings("ignore", "Couldn't find ff", RuntimeWarning)
        return load_extra("gradio", extra="demo", what="The page")


def keep_inside(gradio: Any, blocks: Any, folder: Path) -> None:
    """Have every component refuse what does not lie in a folder.

    Mounted in another application, Gradio takes any path of the machine as an upload, and fetches
    URLs; the way to both is this one method.
    """

    def guarded(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def move(path: str | Path | None) -> Any:
            if path is not None and not Path(path).resolve().is_relative_to(folder):
                raise gradio.Error(
                    "The clip was not uploaded here; send it again.", print_exception=False
                )
            return await original(path)

        return move

    for block in blocks.blocks.values():
        if hasattr(block, "async_move_resource_to_block_cache"):
            original = block.async_move_resource_to_block_cache
            block.async_move_resource_to_block_cache = guarded(original)


def _remove_at_end(app: Any, folder: Path) -> None:
    life = app.router.lifespan_context

    @asynccontextmanager
    async def longer(application: Any) -> AsyncIterator[Any]:
        try:
            async with life(application) as state:
                yield state
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    app.router.lifespan_context = longer


@contextmanager
def _removed_unless_mounted(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of Gradio's."""

    app: Application
    """Gradio's."""
    folder: Path
    """Where clips lie; no other file is served."""
    limits: PageLimits
    """How much is taken."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 404, 411, 413 or 429."""
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = self.refused(scope) if scope["type"] == "http" else 404
        if status is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            retry = {"retry-after": "60"} if status == 429 else None
            await PlainTextResponse(REASONS[status], status, retry)(scope, receive, send)
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
