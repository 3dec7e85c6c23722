"""What the caller says about a model, beside what the model says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from servax.errors import SettingError
from servax.evaluation.systems import INPUTS, SECONDS, Inputs
from servax.features import FrontEndSettings

T = TypeVar("T")


DIMENSIONS = frozenset({"arousal", "activation", "valence", "dominance", "control", "pleasure"})
"""What the outputs of models are called that place a voice in a space instead of a class."""


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the caller says; None where nothing is said."""

    labels: Sequence[str] | None = None
    """Names of the classes in the order of the logits; they replace the model's own."""
    sample_rate: int | None = None
    """In Hz."""
    inputs: Inputs | None = None
    """What the model takes."""
    seconds: float | None = None
    """Length of the waveforms that it hears."""

    def __post_init__(self) -> None:
        if self.inputs is not None and self.inputs not in INPUTS:
            raise SettingError.choice("inputs", self.inputs, INPUTS)
        if self.sample_rate is not None and self.sample_rate < 1:
            raise SettingError("sample_rate", self.sample_rate, "a rate of at least 1 Hz")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise SettingError("seconds", self.seconds, "a length above 0")
        if self.labels is not None:
            check_names(self.labels)

    def length(self, inputs: Inputs, own: float | None, whose: str) -> float:
        """Return how many seconds a model hears at once.

        Raises:
            SettingError: The caller and the model contradict each other, or it takes log-Mels.
        """
        if inputs == "logmel" and self.seconds is not None:
            raise SettingError(
                "seconds", self.seconds, f"nothing: {whose} hears the frames of its log-Mel"
            )
        return agree("seconds", self.seconds, own or self.seconds or SECONDS, whose, "3")


def agree(name: str, said: T | None, own: T | None, whose: str, example: str) -> T:
    """Return what the caller or the model says.

    Raises:
        SettingError: Neither says anything, or they contradict each other.
    """
    if said is not None and own is not None and said != own:
        raise SettingError(name, said, f"{own!r}, which {whose} says itself, or nothing")
    found = own if said is None else said
    if found is None:
        raise SettingError(name, None, f"a value such as {example}: {whose} does not say it")
    return found


def class_names(
    said: Sequence[str] | None, own: Sequence[str] | None, *, classes: int, whose: str
) -> tuple[str, ...]:
    """Return one name for each of the `classes` logits; the caller's replace the model's own.

    Raises:
        SettingError: There are none, too few, too many, two alike, or they are dimensions.
    """
    if own is not None and {name.strip().casefold() for name in own} <= DIMENSIONS:
        raise SettingError(
            "labels",
            list(own),
            f"names of classes: the outputs of {whose} are dimensions (a regression head); audit a "
            "model with a head that classifies",
        )
    found = said if said is not None else own
    if found is None:
        raise SettingError(
            "labels",
            None,
            f"the names of the {classes} classes in the order of the logits: {whose} does not say "
            "them; use labels=",
        )
    check_names(found)
    if len(found) != classes:
        raise SettingError(
            "labels",
            list(found),
            f"{classes} names, one for each logit of {whose}, in their order",
        )
    return tuple(found)


def check_names(labels: Sequence[str]) -> None:
    """Refuse names that are no text, empty, or alike but for the case."""
    if isinstance(labels, str) or not all(isinstance(name, str) for name in labels):
        raise SettingError("labels", labels, "a list of names")
    plain = [name.strip().casefold() for name in labels]
    if not all(plain) or len(set(plain)) != len(plain):
        raise SettingError("labels", list(labels), "names that differ, none of them empty")


def default_front_end(
    sample_rate: int | None, *, mels: int | None = None, frames: int | None = None
) -> FrontEndSettings:
    """Return the default front-end at another rate or of another size, where one is stated."""
    settings = FrontEndSettings()
    logmel = replace(settings.logmel, mels=mels or settings.logmel.mels)
    if sample_rate is not None:
        highest = min(logmel.f_max, sample_rate / 2)
        logmel = replace(logmel, sample_rate=sample_rate, f_max=highest)
    return replace(settings, logmel=logmel, frames=frames or settings.frames)
