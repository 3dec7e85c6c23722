"""Mounts the page on the application of the service."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from servax.runtime.extras import load_extra
from servax.service.page.doors import Doors
from servax.service.page.layout import Run, build_blocks
from servax.service.page.look import CSS, theme
from servax.service.page.settings import PageLimits

PATH = "/page"
SIGN_IN = "Any user name; the password is one of the service's tokens."


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
                    "middleware": [_doors(folder, limits)],
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


def _doors(folder: Path, limits: PageLimits) -> Any:
    from starlette.middleware import Middleware

    return Middleware(Doors, folder=folder, limits=limits)


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
