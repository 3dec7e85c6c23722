"""The routes of the service, on FastAPI.

Annotations here are objects and not strings, and FastAPI is imported where it is used: it belongs
to the extra ``serve``, and it reads what a route takes and gives from its signature.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from servax.runtime.host import load_extra
from servax.service.middleware import RequestMiddleware
from servax.service.requests import RequestHandler
from servax.service.responses import (
    MEDIA,
    Classification,
    Purified,
    Refusal,
    State,
    accepted,
    add_handlers,
    problems,
)
from servax.service.telemetry import Log, Metrics
from servax.service.tokens import Tokens

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

ROUTES = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/purify", "/v1/classify")
SUMMARY = "Purified speech, and emotion recognition with and without a purifier in front."
LIMITED = {
    "X-Limited-Samples": "How many samples were lowered to stay within full scale.",
    "X-Limited-Decibels": "By how much at most.",
}
SOUND = {
    "required": True,
    "description": "The sound itself: WAV, FLAC, OGG, MP3, AIFF ... as it lies in a file.",
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("audio/*", "application/octet-stream")
    },
}


def build_app(
    handler: RequestHandler,
    tokens: Tokens,
    log: Log,
    metrics: Metrics,
    *,
    mount: "Callable[[FastAPI, RequestHandler], None] | None" = None,
) -> "FastAPI":
    """Return the application; its workers begin and end with it.

    Args:
        handler: The way to the workers.
        tokens: Who may ask.
        log: For requests and failures.
        metrics: Counts them.
        mount: Adds what else is to be served, such as a page.

    Raises:
        ServaxError: FastAPI is not installed.
    """
    load_extra("fastapi", extra="serve", what="servax serve")
    from fastapi import FastAPI

    from servax import __version__

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        handler.dispatcher.start()
        try:
            yield
        finally:
            await handler.dispatcher.stop()

    # The pages /docs and /redoc load scripts from elsewhere: they are off.
    app = FastAPI(
        title="servax", summary=SUMMARY, version=__version__, lifespan=life,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.include_router(open_routes(handler))
    app.include_router(guarded_routes(handler, tokens, metrics))
    add_handlers(app)
    app.add_middleware(
        RequestMiddleware,
        log=log,
        metrics=metrics,
        routes=frozenset(ROUTES),
        answer_seconds=handler.settings.body_timeout,
    )
    if mount is not None:
        mount(app, handler)
    return app


def open_routes(handler: RequestHandler) -> "APIRouter":
    """Return the routes that everybody may ask."""
    from fastapi import APIRouter, Response

    router = APIRouter(tags=["state"])

    def state(word: str) -> State:
        dispatcher = handler.dispatcher
        return State(word, dispatcher.workers_ready, dispatcher.settings.worker_count)

    @router.get("/healthz", summary="Whether the server answers at all")
    async def healthz() -> State:
        return state("ok")

    @router.get(
        "/readyz",
        summary="Whether requests are answered: 503 while networks load and while it shuts down",
        responses={503: {"model": State, "description": "Not yet, or no longer."}},
    )
    async def readyz(response: Response) -> State:
        if handler.dispatcher.ready:
            return state("ready")
        response.status_code = 503
        return state("shutting_down" if handler.dispatcher.closing else "loading")

    return router


def guarded_routes(handler: RequestHandler, tokens: Tokens, metrics: Metrics) -> "APIRouter":
    """Return the routes that ask for a token where there are any."""
    from fastapi import APIRouter, Depends, Request, Response
    from fastapi.security import HTTPBearer

    bearer = HTTPBearer(auto_error=False, description="One of the tokens in --token-file.")

    async def known(request: Request) -> None:
        if not tokens.allow(request.headers.get("authorization")):
            raise Refusal(
                401,
                "unauthorised",
                "A bearer token is needed, in the header 'Authorization: Bearer TOKEN'; none was "
                "given, or one that this service does not know.",
                {"WWW-Authenticate": "Bearer"},
            )

    guards = [Depends(known), *([Depends(bearer)] if tokens else [])]
    router = APIRouter(dependencies=guards)

    @router.post(
        "/v1/purify",
        tags=["sound"],
        summary="Sound in, purified sound of the same length, rate, channels and level out",
        response_class=Response,
        responses={
            200: {
                "description": "16-bit WAV, or FLAC where Accept or format asks for it; WAV of "
                "floats where the sound that was sent goes beyond full scale.",
                "headers": {
                    name: {"description": said, "schema": {"type": "number"}}
                    for name, said in LIMITED.items()
                },
                "content": {
                    kind: {"schema": {"type": "string", "format": "binary"}}
                    for kind in MEDIA.values()
                },
            },
            **problems(401, 406, 408, 413, 415, 422, 429, 500, 503, 504),
        },
        openapi_extra={"requestBody": SOUND},
    )
    async def purify(request: Request, format: Literal["wav", "flac"] | None = None) -> Response:
        only(request, "format")
        container = format or accepted(request.headers.get("accept"))
        record = request.scope["servax"]
        made: Purified = await handler.sound(
            "purify", request.headers, request.receive, record, container=container
        )
        limited = (str(made.limited_samples), f"{made.limited_db:.2f}")
        headers = dict(zip(LIMITED, limited, strict=True))
        return Response(made.content, media_type=MEDIA[container], headers=headers)

    @router.post(
        "/v1/classify",
        tags=["sound"],
        summary="Probabilities before and after purification, and the score of the detector",
        responses=problems(401, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": SOUND},
    )
    async def classify(request: Request) -> Classification:
        only(request)
        record = request.scope["servax"]
        found: Classification = await handler.sound(
            "classify", request.headers, request.receive, record
        )
        return found

    @router.get(
        "/metrics",
        tags=["state"],
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **problems(401)},
    )
    async def numbers() -> Response:
        return Response(metrics.text(), headers={"Content-Type": metrics.content_type})

    return router


def only(request: Any, *names: str) -> None:
    """Refuse query parameters that mean nothing here, and those given twice.

    Raises:
        Refusal: There are some.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    if set(given) <= set(names) and len(given) == len(set(given)):
        return
    expected = f"at most one of each of: {', '.join(names)}" if names else "none"
    raise Refusal(
        422,
        "bad_parameter",
        f"The query holds unknown or repeated parameters, expected {expected}.",
    )
