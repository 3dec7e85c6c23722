"""The bodies of answers in JSON; FastAPI makes their schemas from these."""

from __future__ import annotations

from dataclasses import dataclass, field


def told(description: str) -> dict[str, str]:
    """Return the metadata of a field that the schema describes."""
    return {"description": description}


@dataclass(frozen=True)
class Verdict:
    """What the recogniser says about one input."""

    label: str = field(metadata=told("The most probable class."))
    probabilities: dict[str, float] = field(metadata=told("Of each class; they sum to 1."))


@dataclass(frozen=True)
class Classification:
    """What the recogniser says without and with the purifier, and how far the purifier moved it."""

    before: Verdict = field(metadata=told("Of the sound as it was sent."))
    after: Verdict = field(metadata=told("Of the purified log-Mel; this is the defended answer."))
    residual: float = field(
        metadata=told(
            "Mean absolute change of the log-Mel on [0, 1] by the purifier; higher where an attack "
            "is more likely. What is high depends on the recordings: calibrate on clean ones."
        )
    )
    seconds: float = field(metadata=told("How long the sound plays."))
    sample_rate: int = field(metadata=told("Of the sound as it was sent, in hertz."))
    channels: int = field(metadata=told("Of the sound as it was sent; their mean is heard."))


@dataclass(frozen=True)
class Problem:
    """Why a request was not answered with what it asked for."""

    code: str = field(metadata=told("One word for programs; it never changes for a cause."))
    message: str = field(metadata=told("What was given, what was expected, what to do."))


@dataclass(frozen=True)
class ErrorAnswer:
    """The body of every answer of status 400 and above."""

    error: Problem = field(metadata=told("Why."))


@dataclass(frozen=True)
class State:
    """How the service is."""

    status: str = field(metadata=told("ok, ready, loading or shutting_down."))
    workers_ready: int = field(metadata=told("Workers that have loaded their networks."))
    workers: int = field(metadata=told("Workers in all."))
