"""The routes of the service, on FastAPI.

Annotations here are objects and not strings, and FastAPI is imported where it is used: it belongs
to the extra ``serve``, and it reads what a route takes and gives from its signature.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from servax.runtime.samples import LOWEST_RATE
from servax.service.middleware import QUIET, RequestMiddleware
from servax.service.networks import networks
from servax.service.parts import FORM, JSON, MOST_SOUNDS
from servax.service.requests import RequestHandler, is_elsewhere, kind_of
from servax.service.responses import (
    MEDIA,
    AttackMethod,
    Classification,
    Networks,
    Purified,
    PurifiedPart,
    PurifiedParts,
    Refusal,
    State,
    Trial,
    accepted,
    add_handlers,
    bad_parameter,
    problems,
)
from servax.service.settings import HIGHEST_SNR_DB, LOWEST_SNR_DB, ServiceSettings
from servax.service.streaming import HIGHEST_STREAM_RATE, LiveSound
from servax.service.telemetry import Log, Metrics
from servax.service.tensors import (
    OUTPUTS,
    answer,
    classified,
    from_tensor,
    metadata,
    purify_tensors,
)
from servax.service.tokens import Tokens
from servax.service.worker import classify, purify

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

ROUTES = (
    *QUIET,
    *("/openapi.json", "/v1/models", "/v1/purify", "/v1/classify", "/v1/attack", "/v1/stream"),
    *(f"/v2/models/{model}/infer" for model in OUTPUTS),
)
PAGE = Path(__file__).with_name("page")
SUMMARY = "Purified speech, and emotion recognition with and without a purifier in front."
LIMITED = {
    "X-Limited-Samples": "How many samples were lowered to stay within full scale.",
    "X-Limited-Decibels": "By how much at most.",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
SOUND: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The sound itself: WAV, FLAC, OGG, MP3, AIFF ... as it lies in a file.",
        "content": {"audio/*": BINARY, "application/octet-stream": BINARY},
    }
}
SOUNDS = {
    "requestBody": {
        **SOUND["requestBody"],
        "content": {
            **SOUND["requestBody"]["content"],
            FORM: {"schema": {"type": "object", "additionalProperties": BINARY["schema"]}},
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["sounds"],
                    "properties": {
                        "sounds": {
                            "type": "array",
                            "maxItems": MOST_SOUNDS,
                            "items": {"type": "string", "contentEncoding": "base64"},
                        }
                    },
                }
            },
        },
    }
}
"""Or several sounds: then the answer is JSON."""
TAKEN = (401, 403, 408, 413, 415, 422, 429, 500, 503, 504)
"""How a sound may be answered that is not answered with what was asked for."""


def build_app(handler: RequestHandler, tokens: Tokens, log: Log, metrics: Metrics) -> "FastAPI":
    """Return the application; its workers begin and end with it.

    Args:
        handler: The way to the workers.
        tokens: Who may ask.
        log: For requests and failures.
        metrics: Counts them.
    """
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
    _take_streams(app, handler, tokens, log, metrics)
    if handler.settings.page:
        _serve_page(app)
    add_handlers(app)
    app.add_middleware(
        RequestMiddleware,
        log=log,
        metrics=metrics,
        routes=frozenset(ROUTES),
        answer_seconds=handler.settings.body_timeout,
    )
    return app


def open_routes(handler: RequestHandler) -> "APIRouter":
    """Return the routes that everybody may ask."""
    from fastapi import APIRouter, Response

    router = APIRouter(tags=["state"])
    dispatcher = handler.dispatcher

    def state(word: str) -> State:
        return State(word, dispatcher.workers_ready, dispatcher.settings.worker_count)

    @router.head("/healthz", include_in_schema=False)
    @router.get("/v2/health/live", include_in_schema=False)
    @router.get("/healthz", summary="Whether the server answers at all")
    async def healthz() -> State:
        return state("ok")

    @router.head("/readyz", include_in_schema=False)
    @router.get("/v2/health/ready", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Whether requests are answered: 503 while networks load, while every place is "
        "taken and while it shuts down",
        responses={503: {"model": State, "description": "Not yet, not now, or no longer."}},
    )
    async def readyz(response: Response) -> State:
        if dispatcher.ready and not dispatcher.full:
            return state("ready")
        response.status_code = 503
        if dispatcher.closing:
            return state("shutting_down")
        return state("busy" if dispatcher.ready else "loading")

    for model in _served(handler.settings):
        router.get(f"/v2/models/{model}/ready", include_in_schema=False)(readyz)
    return router


def guarded_routes(handler: RequestHandler, tokens: Tokens, metrics: Metrics) -> "APIRouter":
    """Return the routes that ask for a token where there are any."""
    from fastapi import APIRouter, Depends, Query, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

    bearer = HTTPBearer(auto_error=False, description="One of the tokens in --token-file.")

    async def known(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not tokens.know(given.credentials):
            raise Refusal(
                401,
                "unauthorised",
                "A bearer token is needed, in the header 'Authorization: Bearer TOKEN'; none was "
                "given, or one that this service does not know.",
                {"WWW-Authenticate": "Bearer"},
            )

    router = APIRouter(dependencies=[Depends(known)] if tokens else [])

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
                "content": dict.fromkeys(MEDIA.values(), BINARY),
                "model": PurifiedParts,
            },
            **problems(406, *TAKEN),
        },
        openapi_extra=SOUNDS,
    )
    async def purified(request: Request, format: Literal["wav", "flac"] | None = None) -> Response:
        only(request, "format")
        if kind_of(request.headers) in (FORM, JSON):
            work = partial(purify, container=format or "wav")
            parts = [PurifiedPart.of(each) for each in await handler.sounds(request, work)]
            return JSONResponse(asdict(PurifiedParts(parts)))
        container = format or accepted(request.headers.get("accept"))
        made: Purified = await handler.sound(request, partial(purify, container=container))
        limited = (str(made.limited_samples), f"{made.limited_db:.2f}")
        headers = dict(zip(LIMITED, limited, strict=True))
        return Response(made.content, media_type=MEDIA[container], headers=headers)

    async def classified(request: Request) -> Classification:
        only(request)
        found: Classification = await handler.sound(request, classify, together=True)
        metrics.residual.observe(found.residual)
        return found

    if not handler.settings.purify_only:
        router.post(
            "/v1/classify",
            tags=["sound"],
            summary="Probabilities before and after purification, and the score of the detector",
            responses=problems(*TAKEN),
            openapi_extra=SOUND,
        )(classified)

    async def attacked(
        request: Request,
        method: AttackMethod = "pgd",
        snr_db: Annotated[float, Query(ge=LOWEST_SNR_DB, le=HIGHEST_SNR_DB)] = 30.0,
    ) -> StreamingResponse:
        only(request, "method", "snr_db")
        trials = await handler.attack(request, method, snr_db)
        return StreamingResponse(_lines(trials), media_type="application/x-ndjson")

    if handler.settings.page:
        router.post(
            "/v1/attack",
            tags=["sound"],
            summary="What becomes of a sound, and what two attackers get of it: one who knows the "
            "recogniser only, and one who knows the purifier too",
            response_class=StreamingResponse,
            responses={
                200: {
                    "model": Trial,
                    "description": "A line of JSON for each of the three, as soon as it is known. "
                    "What fails after the first is a line with an error in its place.",
                },
                **problems(*TAKEN),
            },
            openapi_extra=SOUND,
        )(attacked)

    for model in _served(handler.settings):
        _take_tensors(router, model, handler, metrics)

    @router.get("/v1/models", tags=["state"], summary="Which networks answer, and their licences")
    async def models() -> Networks:
        return networks(handler.settings)

    @router.get(
        "/metrics",
        tags=["state"],
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **problems(401)},
    )
    async def numbers() -> Response:
        text, kind = metrics.page()
        return Response(text, headers={"Content-Type": kind})

    return router


def _served(settings: ServiceSettings) -> list[str]:
    return ["purify"] if settings.purify_only else [*OUTPUTS]


def _take_tensors(
    router: "APIRouter", model: str, handler: RequestHandler, metrics: Metrics
) -> None:
    """Let samples in as KServe does."""
    from fastapi import Request, Response

    async def infer(request: Request) -> Response:
        only(request)
        how: dict[str, Any] = {"kinds": [JSON], "decode": from_tensor}
        if model == "purify":
            outputs = await handler.sound(request, purify_tensors, **how)
        else:
            found = await handler.sound(request, classify, together=True, **how)
            metrics.residual.observe(found.residual)
            outputs = classified(found)
        made = answer(model, request.scope["servax"].told["infer_id"], outputs)
        return Response(made, media_type=JSON)

    router.post(
        f"/v2/models/{model}/infer",
        tags=["sound"],
        summary="Samples in, as the inference protocol of KServe (v2) puts them",
        response_class=Response,
        responses={200: {"content": {JSON: {}}}, **problems(*TAKEN)},
        openapi_extra={"requestBody": {"content": {JSON: {"schema": {"type": "object"}}}}},
    )(infer)
    router.get(f"/v2/models/{model}", tags=["state"], summary="What it takes and gives")(
        lambda: metadata(model)
    )


def _take_streams(
    app: "FastAPI", handler: RequestHandler, tokens: Tokens, log: Log, metrics: Metrics
) -> None:
    """Let live sound in over a WebSocket, whoever it comes from asked for as elsewhere."""
    from fastapi import Query, WebSocket
    from fastapi.exceptions import WebSocketRequestValidationError
    from fastapi.responses import JSONResponse
    from fastapi.security.utils import get_authorization_scheme_param

    async def denied(socket: WebSocket, refusal: Refusal) -> None:
        await socket.send_denial_response(JSONResponse(refusal.body, refusal.status))
        metrics.requests.labels("/v1/stream", refusal.status).inc()

    async def unfit(socket: WebSocket, error: Any) -> None:
        await denied(socket, bad_parameter(error))

    async def stream(
        socket: WebSocket,
        sample_rate: Annotated[int, Query(ge=LOWEST_RATE, le=HIGHEST_STREAM_RATE)],
    ) -> None:
        scheme, token = get_authorization_scheme_param(socket.headers.get("authorization"))
        try:
            if tokens and not (scheme.lower() == "bearer" and tokens.know(token)):
                raise Refusal(401, "unauthorised", "A bearer token is needed, as elsewhere.")
            if is_elsewhere(socket.headers):
                raise Refusal(403, "other_origin", "Pages of other hosts may not stream here.")
            only(socket, "sample_rate")
        except Refusal as refusal:
            await denied(socket, refusal)
            return
        await socket.accept()
        told = await LiveSound(handler, socket, sample_rate).run()
        metrics.requests.labels("/v1/stream", 101).inc()
        metrics.sound_seconds.labels("/v1/stream").inc(told.get("sound_seconds", 0.0))
        log.info("stream", **told)

    app.add_api_websocket_route("/v1/stream", stream)
    app.add_exception_handler(WebSocketRequestValidationError, unfit)


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


async def _lines(trials: AsyncIterator[Trial | Refusal]) -> AsyncIterator[str]:
    async for each in trials:
        yield json.dumps(each.body if isinstance(each, Refusal) else asdict(each)) + "\n"


def _serve_page(app: "FastAPI") -> None:
    """Serve the page at ``/page/``, to which ``/`` leads; its files hold nothing that is secret."""
    from fastapi.responses import RedirectResponse
    from fastapi.staticfiles import StaticFiles

    for path in ("/", "/page"):
        app.add_api_route(path, lambda: RedirectResponse("page/"), include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE, html=True))
