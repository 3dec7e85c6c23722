"""Every answer of status 400 and above has one form: ``{"error": {"code", "message"}}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from servax.service.answers import ErrorAnswer
from servax.service.envelope import account
from servax.service.refusals import Refusal

if TYPE_CHECKING:
    from fastapi import FastAPI

SAID = {
    404: ("not_found", "There is nothing here; /openapi.json says what there is."),
    405: (
        "method_not_allowed",
        "This path does not take that method; the header Allow says which.",
    ),
}
MEANINGS = {
    401: "No token, or an unknown one.",
    406: "Neither WAV nor FLAC is accepted, or FLAC cannot hold the sound.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is not sound, or is said to be something else.",
    422: "The sound or a parameter is outside a limit.",
    429: "The service is full; try again after Retry-After seconds.",
    500: "Something broke, or workers were lost over this sound.",
    503: "The service is ending.",
    504: "No answer before the deadline.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told about answers of these statuses."""
    return {status: {"model": ErrorAnswer, "description": MEANINGS[status]} for status in statuses}


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every failure in the one form."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def answer(
        request: Any, status: int, code: str, message: str, headers: Any = None
    ) -> JSONResponse:
        account(request.scope).code = code
        return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

    async def refused(request: Any, error: Any) -> JSONResponse:
        return answer(request, error.status, error.code, str(error), error.headers)

    async def of_http(request: Any, error: Any) -> JSONResponse:
        code, message = SAID.get(
            error.status_code, ("bad_request", "The request cannot be answered.")
        )
        return answer(request, error.status_code, code, message, error.headers)

    async def invalid(request: Any, error: Any) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])[:80]
        return answer(request, 422, "bad_parameter", f"{name}: {first['msg']}.")

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, invalid)
