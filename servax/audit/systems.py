"""What is audited: the bare model, and each defence of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from servax.audit.subjects import Subject, load_subject
from servax.defences import (
    Codec,
    Defended,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    Quantise,
    Resample,
)
from servax.errors import CheckpointError, SettingError
from servax.models import frozen
from servax.models.storage import SETTINGS, WEIGHTS
from servax.purifier import Purifier
from servax.purifier.purifier import HUB_ID
from servax.purifier.sound_purifier import SoundPurifier
from servax.training import generator

UNDEFENDED = "undefended"


@dataclass(frozen=True, kw_only=True)
class System:
    """A classifier under audit: the bare model, or a defence with the model behind it."""

    name: str
    """In records and reports."""
    model: nn.Module
    """The whole classifier, in evaluation mode."""
    front: nn.Module | None = None
    """What stands before the bare model; none for a classifier in its place."""
    exact: bool = True
    """Whether gradients through it are exact; else they stand for a step without any."""
    gradients: bool = True
    """Whether it has gradients at all."""
    fingerprint: str = ""
    """Hash of what decides its answers."""
    source: str = ""
    """Where it comes from."""


@dataclass(frozen=True)
class _Transform:
    build: Callable[[float, torch.Generator, int], nn.Module]
    inputs: str
    expected: str


TRANSFORMS: Mapping[str, _Transform] = {
    "gaussian-noise": _Transform(lambda v, g, r: GaussianNoise(v, g), "logmel", "sd in (0, 1]"),
    "mean-filter": _Transform(lambda v, g, r: MeanFilter(int(v)), "logmel", "an odd size"),
    "median-filter": _Transform(lambda v, g, r: MedianFilter(int(v)), "logmel", "an odd size"),
    "quantise": _Transform(lambda v, g, r: Quantise(int(v)), "logmel", "bits"),
    "low-pass": _Transform(lambda v, g, r: LowPass(r, v), "waveform", "a cut-off in Hz"),
    "resample": _Transform(lambda v, g, r: Resample(r, int(v)), "waveform", "a rate in Hz"),
    "mp3": _Transform(lambda v, g, r: Codec(r, "mp3", v), "waveform", "a quality in [0, 1]"),
    "ogg": _Transform(lambda v, g, r: Codec(r, "ogg-vorbis", v), "waveform", "a quality in [0, 1]"),
    "opus": _Transform(lambda v, g, r: Codec(r, "ogg-opus", v), "waveform", "a quality in [0, 1]"),
}
"""Input transforms by name; an option gives one number: ``gaussian-noise:0.02``."""


def bare(subject: Subject) -> System:
    """Return the model alone, as a system."""
    return System(
        name=UNDEFENDED,
        model=subject.model,
        gradients=subject.gradients,
        fingerprint=subject.fingerprint,
        source=subject.source,
    )


def defended(subject: Subject, wanted: str, *, seed: int) -> System:
    """Return the system that an option names.

    Args:
        subject: The bare model.
        wanted: ``NAME=WHAT`` or ``WHAT``: the folder of a purifier (it stands before the model) or
            of another recogniser (it stands in its place: adversarial training), or a transform
            such as ``mean-filter:3``.
        seed: Draws what a random transform needs.

    Raises:
        SettingError: It is none of these, or does not fit the model.
        CheckpointError: The folder cannot be read.
    """
    name, _, what = wanted.rpartition("=")
    transform, _, value = what.partition(":")
    if transform in TRANSFORMS and not Path(what).exists():
        return _transformed(subject, name or f"{transform}-{value}", transform, value, seed)
    folder = Path(what)
    role = _role(folder) if folder.is_dir() else "purifier" if HUB_ID.fullmatch(what) else ""
    name = name or folder.name
    if name == UNDEFENDED:
        raise SettingError("the name of a defence", name, "another, this one is the bare model")
    if role == "purifier":
        return _purified(subject, name, what)
    if role == "recogniser":
        return _instead(subject, name, what)
    raise SettingError(
        "defence",
        what,
        "the folder of a purifier or of a recogniser that servax has trained, or one of "
        + ", ".join(f"{each}:VALUE" for each in TRANSFORMS),
    )


def _role(folder: Path) -> str:
    """Return what a folder of servax holds."""
    try:
        told = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return str(told["extra"]["role"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            folder / SETTINGS, "does not say what the folder holds; expected one that servax wrote"
        ) from None


def _transformed(subject: Subject, name: str, kind: str, value: str, seed: int) -> System:
    transform = TRANSFORMS[kind]
    if transform.inputs != subject.inputs:
        raise SettingError(
            "defence",
            kind,
            f"one that takes {subject.inputs} as the model does, not {transform.inputs}",
        )
    try:
        number = float(value)
    except ValueError:
        raise SettingError(
            "defence", f"{kind}:{value}", f"{kind}:VALUE, {transform.expected}"
        ) from None
    module = transform.build(number, generator(seed, "defence", name), subject.sample_rate)
    return System(
        name=name,
        model=Defended(subject.model, module).eval(),
        front=module,
        exact=getattr(module, "knowledge", "adaptive") == "adaptive",
        gradients=subject.gradients,
        fingerprint=_together(subject.fingerprint, f"{kind}:{number:g}:{seed}"),
        source=f"{kind}:{value}",
    )


def _purified(subject: Subject, name: str, where: str) -> System:
    purifier = Purifier.from_pretrained(where)
    front: nn.Module = purifier.frozen()
    if subject.inputs == "waveform":
        front = SoundPurifier(purifier, subject.sample_rate)
    elif subject.scale is None or subject.scale.settings != purifier.scale.settings:
        raise SettingError(
            "defence", where, "a purifier of the model's own scale: both are trained on one fold"
        )
    elif subject.front_end != purifier.front_end:
        raise SettingError("defence", where, "a purifier of the model's own front-end")
    weights = Path(where) / WEIGHTS
    told = weights.read_bytes() if weights.is_file() else where.encode()
    return System(
        name=name,
        model=Defended(subject.model, front).eval(),
        front=front,
        gradients=subject.gradients,
        fingerprint=_together(subject.fingerprint, hashlib.sha256(told).hexdigest()),
        source=where,
    )


def _instead(subject: Subject, name: str, where: str) -> System:
    other = load_subject(where)
    fits = (other.inputs, other.labels, other.front_end) == (
        subject.inputs,
        subject.labels,
        subject.front_end,
    )
    scales = (other.scale and other.scale.settings, subject.scale and subject.scale.settings)
    if not fits or scales[0] != scales[1]:
        raise SettingError(
            "defence", where, "a recogniser with the labels, front-end and scale of the model"
        )
    return System(name=name, model=frozen(other.model), fingerprint=other.fingerprint, source=where)


def surrogate(subject: Subject, wanted: str) -> tuple[str, Subject]:
    """Return the name and the model of a surrogate, ``NAME=FOLDER`` or ``FOLDER``.

    Raises:
        SettingError: It is the model itself, has no gradients, or takes other inputs.
    """
    name, _, where = wanted.rpartition("=")
    other = load_subject(where)
    if other.fingerprint == subject.fingerprint:
        raise SettingError(
            "surrogate", where, "a model with weights of its own, not the audited one"
        )
    scales = (other.scale and other.scale.settings, subject.scale and subject.scale.settings)
    if other.inputs != subject.inputs or scales[0] != scales[1] or not other.gradients:
        raise SettingError(
            "surrogate", where, "a model with gradients that takes the same inputs, equally scaled"
        )
    if other.labels != subject.labels:
        raise SettingError(
            "surrogate", where, f"a model of the classes {', '.join(subject.labels)}"
        )
    return name or Path(where).name, other


def _together(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
