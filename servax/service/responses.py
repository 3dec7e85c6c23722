"""What is answered: bodies in JSON, WAV or FLAC as a client accepts, and refusals in one form."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from servax.errors import ServaxError

if TYPE_CHECKING:
    from fastapi import FastAPI

Container = Literal["wav", "flac"]
AttackMethod = Literal["none", "fgsm", "pgd"]
Knowledge = Literal["none", "oblivious", "adaptive"]
"""What an attacker knows: the recogniser only, or the purifier too; none where nobody attacks."""
MEDIA: dict[Container, str] = {"wav": "audio/wav", "flac": "audio/flac"}
NAMES: dict[str, Container] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/vnd.wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
}
"""All names of the two."""
HTTP_REFUSALS = {
    404: ("not_found", "There is nothing here; /openapi.json says what there is."),
    405: (
        "method_not_allowed",
        "This path does not take that method; the header Allow says which.",
    ),
}
MEANINGS = {
    401: "No token, or an unknown one.",
    403: "A page of another host asks.",
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


class Refusal(ServaxError):  # noqa: N818 - what was done, not what was wrong
    """A request that is answered, but not with what it asked for.

    Args:
        status: HTTP status code of the answer, 400 to 599.
        code: One word for programs, such as ``too_long``; it never changes for a cause.
        sentence: What was given, what was expected and what to do; it names no path of this
            machine.
        headers: HTTP headers that belong to the answer, such as Retry-After.
    """

    def __init__(
        self, status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """Return what is answered, an `ErrorAnswer`."""
        return {"error": {"code": self.code, "message": str(self)}}

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str, str, dict[str, str]]]:
        # Workers are processes: what they raise is pickled on its way back.
        return type(self), (self.status, self.code, str(self), self.headers)


def internal() -> Refusal:
    """Return what is answered where something broke; what is known of it is in the log."""
    return Refusal(
        500,
        "internal",
        "Something broke that should not; the log of the service tells where, under the id in "
        "X-Request-ID.",
    )


def client_gone() -> Refusal:
    """Return what is logged where nobody waits for the answer any more (499, as nginx does)."""
    return Refusal(499, "client_gone", "The connection was closed before the answer.")


class Described:
    """A body whose schema tells what stands below its fields."""

    __pydantic_config__: ClassVar[Any] = {"use_attribute_docstrings": True}


@dataclass(frozen=True)
class Verdict(Described):
    """What the recogniser says about one input."""

    label: str
    """The most probable class."""
    probabilities: dict[str, float]
    """Of each class; they sum to 1."""


@dataclass(frozen=True)
class Classification(Described):
    """What the recogniser says without and with the purifier, and how far the purifier moved it."""

    before: Verdict
    """Of the sound as it was sent."""
    after: Verdict
    """Of the purified log-Mel; this is the defended answer."""
    residual: float
    """Mean absolute change of the log-Mel on [0, 1] by the purifier; higher where an attack is more
    likely. What is high depends on the recordings: calibrate on clean ones."""
    seconds: float
    """How long the sound plays."""
    heard_seconds: float
    """How much of it the recogniser heard: of a longer one the middle."""
    sample_rate: int
    """Of the sound as it was sent, in hertz."""
    channels: int
    """Of the sound as it was sent; their mean is heard."""


@dataclass(frozen=True)
class Spectrogram(Described):
    """A log-Mel spectrogram as numbers."""

    mels: int
    """Rows, the lowest frequency first."""
    frames: int
    """Columns."""
    hop_seconds: float
    """From one column to the next."""
    ticks: list[tuple[float, float]]
    """Frequencies in hertz, and at which height each stands when row k reaches from k to k + 1."""
    tenths_db: str
    """mels x frames whole numbers of 16 bits, the smaller byte first, row by row, in base64: the
    level in tenths of a decibel."""


@dataclass(frozen=True)
class Heard(Verdict):
    """One sound, and what the recogniser says about it."""

    sound: str
    """A WAV file in base64: 16 bits, one channel, at the rate of the recogniser."""
    spectrogram: Spectrogram
    """At the level of the sound."""


@dataclass(frozen=True)
class Trial(Described):
    """What one attacker gets of a sound, or what becomes of it where nobody attacks."""

    knowledge: Knowledge
    """Who attacks."""
    given: Heard
    """The attacked sound (as it was sent, where nobody attacks) before the bare recogniser."""
    purified: Heard
    """The same after purification."""
    residual: float
    """How far the purifier moves the log-Mel of what was given, as of a classification."""
    snr_db: float | None
    """Signal-to-noise ratio of the attacked sound in decibels; null where nothing was changed."""


@dataclass(frozen=True)
class Network(Described):
    """One of the networks that answer, as its folder and its model card tell."""

    name: str
    """As the service was told."""
    architecture: str | None
    """Null, as what follows, where nothing tells."""
    datasets: list[str] | None
    """What it was trained on."""
    speakers: int | None
    """How many were heard in its training."""
    licence: str | None
    """Of its weights, which is that of the speech it was trained on."""


@dataclass(frozen=True)
class Networks(Described):
    """What answers, and within which limits."""

    recogniser: Network | None
    """Tells the classes apart; null where the service only purifies."""
    purifier: Network
    """Stands before it."""
    max_bytes: int
    """Largest body."""
    attack_seconds: float | None
    """Longest sound that is attacked; null where attacks are off."""


@dataclass(frozen=True)
class Problem(Described):
    """Why a request was not answered with what it asked for."""

    code: str
    """One word for programs; it never changes for a cause."""
    message: str
    """What was given, what was expected, what to do."""


@dataclass(frozen=True)
class ErrorAnswer(Described):
    """The body of every answer of status 400 and above."""

    error: Problem
    """Why."""


@dataclass(frozen=True)
class State(Described):
    """How the service is."""

    status: str
    """ok, ready, loading, busy or shutting_down."""
    workers_ready: int
    """Workers that have loaded their networks."""
    workers: int
    """Workers in all."""


@dataclass(frozen=True)
class Purified:
    """A purified sound as a file."""

    content: bytes
    """WAV or FLAC."""
    limited_samples: int
    """How many samples were lowered to stay within full scale."""
    limited_db: float
    """By how much at most."""


@dataclass(frozen=True)
class PurifiedPart(Described):
    """One of several sounds: purified, or why it is not."""

    sound: str | None
    """The purified sound as a file, in base64; null where there is an error."""
    limited_samples: int
    """How many samples were lowered to stay within full scale."""
    limited_db: float
    """By how much at most."""
    error: Problem | None
    """Why there is no sound."""

    @classmethod
    def of(cls, made: Purified | Refusal) -> PurifiedPart:
        """Return what is told of a sound."""
        if isinstance(made, Refusal):
            return cls(None, 0, 0.0, Problem(made.code, str(made)))
        file = base64.b64encode(made.content).decode("ascii")
        return cls(file, made.limited_samples, made.limited_db, None)


@dataclass(frozen=True)
class PurifiedParts(Described):
    """Several sounds, in the order in which they were sent."""

    sounds: list[PurifiedPart]
    """One for each."""


def accepted(accept: str | None) -> Container:
    """Return the container that an ``Accept`` header likes best; WAV where it likes both.

    The range that names a container most exactly counts (RFC 9110, 12.5.1).

    Raises:
        Refusal: It accepts neither.
    """
    if accept is None or not accept.strip():
        return "wav"
    found: dict[Container, dict[int, float]] = {container: {} for container in MEDIA}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        exact = ["*/*", "audio/*"].index(kind) if kind in ("*/*", "audio/*") else 2
        for container, weights in found.items():
            if exact < 2 or NAMES.get(kind) == container:
                weights[exact] = max(weights.get(exact, 0.0), _weight(parameters))
    likes = {c: weights[max(weights)] if weights else 0.0 for c, weights in found.items()}
    best = max(likes, key=lambda container: likes[container])
    if likes[best] <= 0:
        raise Refusal(
            406,
            "not_acceptable",
            "The Accept header wants neither audio/wav nor audio/flac, and there is nothing else.",
        )
    return best


def _weight(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told about answers of these statuses."""
    return {status: {"model": ErrorAnswer, "description": MEANINGS[status]} for status in statuses}


def bad_parameter(error: Any) -> Refusal:
    """Return what is answered to parameters that FastAPI found unfit."""
    first = error.errors()[0]
    return Refusal(422, "bad_parameter", f"{str(first['loc'][-1])[:80]}: {first['msg']}.")


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every failure in one form: ``{"error": {"code", "message"}}``."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    async def answered(request: Any, error: Any) -> JSONResponse:
        if isinstance(error, HTTPException):
            refusal = Refusal(
                error.status_code,
                *HTTP_REFUSALS.get(
                    error.status_code, ("bad_request", "The request cannot be answered.")
                ),
                error.headers,
            )
        elif isinstance(error, RequestValidationError):
            refusal = bad_parameter(error)
        else:
            refusal = error
        request.scope["servax"].told["code"] = refusal.code
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    for kind in (Refusal, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answered)
