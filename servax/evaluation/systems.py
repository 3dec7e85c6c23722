"""What is attacked: one noun for a model, alone or behind a defence, wherever it comes from.

What a system is stands in its module's attributes or file, or is said by the caller; where both
say something, they must agree.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from servax.defences import Bpda, Defended
from servax.errors import SettingError
from servax.evaluation.trial import (
    SECONDS,
    Inputs,
    count_classes,
    problems,
    settled,
    shut,
    zeros,
)
from servax.features import FrontEnd, FrontEndSettings, Scale, Scaling, ZScore
from servax.kinds import Choice, Rule, Rules, check_rules

INPUTS: tuple[Inputs, ...] = ("logmel", "waveform")
"""What a model takes: log-Mels (B, 1, M, F) on [0, 1], or waveforms (B, T) on [-1, 1]."""
BOUNDS: Mapping[Inputs, tuple[float, float]] = {"logmel": (0.0, 1.0), "waveform": (-1.0, 1.0)}
"""Lowest and highest value of an input."""
DIMENSIONS = frozenset({"arousal", "activation", "valence", "dominance", "control", "pleasure"})
"""What the outputs of models are called that place a voice in a space instead of a class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A classifier under attack: a bare model, or a defence with the model behind it."""

    name: str
    """How records and reports call it."""
    model: nn.Module
    """The whole classifier, from inputs to logits (B, C); in evaluation mode, weights frozen."""
    front: nn.Module | None = None
    """What stands before the bare model; none for a classifier in its place."""
    inputs: Inputs = "logmel"
    """What it takes: log-Mels (B, 1, M, F) on [0, 1] or waveforms (B, T) on [-1, 1]."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the logits."""
    sample_rate: int = 16_000
    """Of the sound that its inputs are made from, in Hz."""
    front_end: FrontEndSettings | None = None
    """From sound to log-Mel; none for a model of waveforms."""
    seconds: float = SECONDS
    """Length of the waveforms that a model of waveforms hears."""
    scale: Scaling | None = None
    """From dB to [0, 1]; none for a model of waveforms, or still to be fitted on the training part
    of a corpus."""
    shut: str = ""
    """Why no gradients reach the inputs, so that only black-box attacks are possible."""
    exact: bool = True
    """Whether its gradients are its own; else the identity stands for a step without any (BPDA)."""
    multi_label: bool = False
    """Whether it says itself that its classes do not exclude each other."""
    regression: bool = False
    """Whether its outputs are numbers, as of arousal and valence, and `labels` name these."""
    source: str = ""
    """Kind and place, for the evaluation card."""
    fingerprint: str = ""
    """SHA-256 of what decides its answers: weights, settings, code."""

    @property
    def gradients(self) -> bool:
        """Whether gradients reach the inputs."""
        return not self.shut

    @property
    def bridgeable(self) -> bool:
        """Whether BPDA is one more attack: what stands in front does not take the identity yet."""
        return self.front is not None and (self.exact or not self.gradients)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of an input."""
        return BOUNDS[self.inputs]

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its predictions, fit for JSON and for the key of a stage."""
        return {
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "bounds": list(self.bounds),
            "labels": list(self.labels),
            "sample_rate": self.sample_rate,
            "front_end": None if self.front_end is None else asdict(self.front_end),
            "scale": None if self.scale is None else asdict(self.scale.settings),
        }


def before(
    bare: System,
    front: nn.Module,
    name: str,
    *,
    told: str = "",
    source: str = "",
    twin: type[Defended] | type[Bpda] = Defended,
) -> System:
    """Return a model behind a front.

    A front says itself whether its gradients are its own; `twin` stands for one whose are not. With
    `Bpda` that is the identity, so that no attacker stops at a zero; servax's own do that already.

    Args:
        bare: The model.
        front: What stands before it.
        name: How records and reports call the two.
        told: What decides the front's answers, for the fingerprint.
        source: Where it comes from.
        twin: The whole of a front whose gradients are not its own.
    """
    exact = getattr(front, "knowledge", "adaptive") == "adaptive"
    whole = Defended(bare.model, front) if exact else twin(bare.model, front)
    return replace(
        bare,
        name=name,
        model=whole.eval(),
        front=front,
        exact=exact and bare.exact,
        fingerprint=hashlib.sha256(f"{bare.fingerprint}\0{told}".encode()).hexdigest(),
        source=source,
    )


ATTRIBUTES: Mapping[str, Callable[[Any], bool]] = {
    "labels": lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) for x in v),
    "sample_rate": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "seconds": lambda v: type(v) in (int, float) and 0 < v < float("inf"),
    "inputs": lambda v: isinstance(v, str) and v in INPUTS,
    "front_end": lambda v: isinstance(v, FrontEndSettings),
    "scale": lambda v: isinstance(v, (Scale, ZScore)),
    "bpda": lambda v: isinstance(v, str),
}
"""In which attributes a model says something of itself, and what it says it with.

An attribute of another type is taken for a part of the network and left alone.
"""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is said of a model, by itself or by the caller; None where nothing is said."""

    labels: Sequence[str] | None = None
    """Names of the classes in the order of the logits; the caller's replace the model's own."""
    sample_rate: int | None = None
    """In Hz."""
    inputs: Inputs | None = None
    """What the model takes."""
    seconds: float | None = None
    """Length of the waveforms that it hears."""
    front_end: FrontEndSettings | None = None
    """From sound to log-Mel; an attribute may be the `FrontEnd` itself."""
    scale: Scaling | None = None
    """From dB to [0, 1]."""
    bpda: str | None = None
    """Name of the submodule that cuts gradients and keeps the shape: the identity stands for it in
    the backward pass (Athalye et al. 2018), and attacks are labelled ``bpda``."""
    size: tuple[int | None, int | None] = (None, None)
    """Mel bands and frames of a log-Mel, where the file fixes them."""
    RULES: ClassVar[Rules] = {
        "inputs": Choice(INPUTS),
        "sample_rate": Rule("a rate of at least 1 Hz", lambda v: v >= 1),
        "seconds": Rule("a length above 0", lambda v: 0 < v < math.inf),
    }

    @classmethod
    def by(cls, model: nn.Module) -> Said:
        """Return what a model says in its `ATTRIBUTES`."""
        told: dict[str, Any] = {name: getattr(model, name, None) for name in ATTRIBUTES}
        if isinstance(told["front_end"], FrontEnd):
            told["front_end"] = told["front_end"].settings
        return cls(**{name: value for name, value in told.items() if ATTRIBUTES[name](value)})

    def __post_init__(self) -> None:
        check_rules(self)
        if self.labels is not None:
            _check_names(self.labels)


def system_of(
    model: nn.Module,
    said: Said,
    own: Said,
    *,
    name: str,
    place: str,
    source: str,
    fingerprint: str,
    shut_by: str | None = None,
    any_length: bool = True,
) -> System:
    """Return a module as a system, once it has been tried on zeros.

    Args:
        model: From (B, 1, M, F) or (B, T) to logits (B, C).
        said: What the caller says.
        own: What the model says.
        name: How reports call it.
        place: Where it comes from; begins refusals.
        source: For the evaluation card.
        fingerprint: Hash of what decides its answers.
        shut_by: Why it has no gradients, empty if it has; None where that is tried.
        any_length: Whether another length of sound may do where it fails.

    Raises:
        PathError: It is no classifier.
        SettingError: Inputs, rate or labels are unknown, or are said twice and differ.
    """
    settled(model)
    _check_agreement(said, own, place, "inputs")
    inputs: Inputs = _needed("inputs", said.inputs or own.inputs, place, "'logmel' or 'waveform'")
    on_sound = inputs == "waveform"
    front_end, seconds = own.front_end, SECONDS
    if front_end is not None and not on_sound:
        by_front = Said(sample_rate=front_end.logmel.sample_rate)
        whose = place if own.sample_rate == by_front.sample_rate else f"the front-end of {place}"
        for each in (own, said):
            _check_agreement(each, by_front, whose, "sample_rate")
        own = replace(own, sample_rate=by_front.sample_rate)
    _check_agreement(said, own, place, "sample_rate")
    default = None if on_sound else 16_000
    given = said.sample_rate or own.sample_rate or default
    rate: int = _needed("sample_rate", given, place, "16000")
    told = problems(model)
    names = said.labels if said.labels is not None else own.labels
    plain = {name.strip().casefold() for name in names or ["none"]}
    regression = "regression" in told or plain <= DIMENSIONS
    if on_sound:
        front_end = None
        _check_agreement(said, own, place, "seconds")
        seconds = said.seconds or own.seconds or SECONDS
    else:
        front_end = front_end or _front_end(rate, *own.size)
        if said.seconds is not None:
            expected = f"nothing: {place} hears the frames of its log-Mel"
            raise SettingError("seconds", said.seconds, expected)
    probe = zeros(inputs, rate, front_end, seconds)
    timed = rate if on_sound and any_length else 0
    classes = count_classes(
        model,
        probe,
        inputs=inputs,
        source=place,
        sample_rate=timed,
        fewest=1 if regression else 2,
    )
    return System(
        name=name,
        model=model,
        inputs=inputs,
        labels=_class_names(names, classes=classes, whose=place),
        sample_rate=rate,
        shut=shut(model, probe) if shut_by is None else shut_by,
        exact=own.bpda is None,
        front_end=front_end,
        seconds=seconds,
        scale=None if on_sound else own.scale,
        multi_label="multi_label_classification" in told,
        regression=regression,
        source=source,
        fingerprint=fingerprint,
    )


def _front_end(rate: int, mels: int | None, frames: int | None) -> FrontEndSettings:
    """Return the front-end of a model of log-Mels that does not say one."""
    s = FrontEndSettings()
    f_max = min(s.logmel.f_max, rate / 2)
    logmel = replace(s.logmel, mels=mels or s.logmel.mels, sample_rate=rate, f_max=f_max)
    return replace(s, logmel=logmel, frames=frames or s.frames)


def _check_agreement(said: Said, own: Said, whose: str, name: str) -> None:
    """Refuse what contradicts what a model says itself."""
    given, known = getattr(said, name), getattr(own, name)
    if given is not None and known is not None and given != known:
        raise SettingError(name, given, f"{known!r}, which {whose} says itself, or nothing")


def _needed(name: str, found: Any, whose: str, example: str) -> Any:
    if found is None:
        raise SettingError(name, None, f"a value such as {example}: {whose} does not say it")
    return found


def _class_names(found: Sequence[str] | None, *, classes: int, whose: str) -> tuple[str, ...]:
    """Return one name for each of the `classes` logits."""
    if found is None:
        raise SettingError(
            "labels",
            None,
            f"the names of the {classes} classes in the order of the logits: {whose} does not say "
            "them; use labels=",
        )
    _check_names(found)
    if len(found) != classes:
        expected = f"{classes} names, one for each logit of {whose}, in their order"
        raise SettingError("labels", list(found), expected)
    return tuple(found)


def _check_names(labels: Sequence[str]) -> None:
    """Refuse names that are no text, empty, or alike but for the case."""
    if isinstance(labels, str) or not all(isinstance(name, str) for name in labels):
        raise SettingError("labels", labels, "a list of names")
    plain = [name.strip().casefold() for name in labels]
    if not all(plain) or len(set(plain)) != len(plain):
        raise SettingError("labels", list(labels), "names that differ, none of them empty")


def hash_of_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files one after another; of one file, what ``sha256sum`` says."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def hash_of_model(model: nn.Module, *more: bytes) -> str:
    """Return the SHA-256 of the parameters and buffers of a model, and of `more`.

    Buffers that are not saved count too: they change what is predicted.
    """
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in more:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
