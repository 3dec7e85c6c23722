"""Chooses between WAV and FLAC by what a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

from servax.service.orders import Container
from servax.service.refusals import Refusal

MEDIA: dict[Container, str] = {"wav": "audio/wav", "flac": "audio/flac"}
ALSO: dict[str, Container] = {
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/vnd.wave": "wav",
    "audio/x-flac": "flac",
}
"""Other names of the two."""


def accepted(accept: str | None) -> Container:
    """Return the container that an ``Accept`` header likes best; WAV where it likes both.

    Raises:
        Refusal: It accepts neither.
    """
    if accept is None or not accept.strip():
        return "wav"
    likes = {container: _quality(accept, container) for container in MEDIA}
    best = max(likes, key=lambda container: likes[container])
    if likes[best] <= 0:
        raise Refusal(
            406,
            "not_acceptable",
            "The Accept header wants neither audio/wav nor audio/flac, and there is nothing else.",
        )
    return best


def _quality(accept: str, container: Container) -> float:
    """Return how much a container is liked: by the range that names it most exactly."""
    found: dict[int, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind == MEDIA[container] or ALSO.get(kind) == container:
            rank = 2
        elif kind in ("audio/*", "*/*"):
            rank = int(kind == "audio/*")
        else:
            continue
        found[rank] = max(found.get(rank, 0.0), _weight(parameters))
    return found[max(found)] if found else 0.0


def _weight(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
