"""What is audited: the bare model, and each defence of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from servax.audit.own_parts import code_of, own_defence
from servax.audit.subjects import Subject, load_subject
from servax.audit.subjects.fingerprint import of_files
from servax.defences import (
    Bpda,
    Codec,
    Defended,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    Quantise,
    Resample,
)
from servax.errors import CheckpointError, SettingError, nearest
from servax.evaluation.protocol import UNDEFENDED
from servax.experiments.training import MODEL
from servax.files import expanded
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import names, resolve
from servax.purifier import Purifier
from servax.purifier.purifier import HUB_ID
from servax.purifier.sound_purifier import SoundPurifier
from servax.training import generator

NAME = re.compile(r"\w[\w.+-]*")
"""What systems and surrogates may be called: stages have folders of these names."""
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""package.module:Name"""


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
    shut: str = ""
    """Why it has no gradients, where it has none."""
    fingerprint: str = ""
    """Hash of what decides its answers."""
    source: str = ""
    """Where it comes from."""

    @property
    def gradients(self) -> bool:
        """Whether it has gradients at all."""
        return not self.shut


@dataclass(frozen=True)
class _Transform:
    build: Callable[[float, torch.Generator, int], nn.Module]
    inputs: str
    example: str
    expected: str
    whole: bool = False


_QUALITY = ("waveform", "0.5", "a quality in [0, 1]")
TRANSFORMS: Mapping[str, _Transform] = {
    "gaussian-noise": _Transform(
        lambda v, g, r: GaussianNoise(v, g), "logmel", "0.02", "sd in (0, 1]"
    ),
    "mean-filter": _Transform(
        lambda v, g, r: MeanFilter(int(v)), "logmel", "3", "an odd size", True
    ),
    "median-filter": _Transform(
        lambda v, g, r: MedianFilter(int(v)), "logmel", "3", "an odd size", True
    ),
    "quantise": _Transform(lambda v, g, r: Quantise(int(v)), "logmel", "4", "whole bits", True),
    "low-pass": _Transform(lambda v, g, r: LowPass(r, v), "waveform", "4000", "a cut-off in Hz"),
    "resample": _Transform(
        lambda v, g, r: Resample(r, int(v)), "waveform", "8000", "a rate in Hz", True
    ),
    "mp3": _Transform(lambda v, g, r: Codec(r, "mp3", v), *_QUALITY),
    "ogg": _Transform(lambda v, g, r: Codec(r, "ogg-vorbis", v), *_QUALITY),
    "opus": _Transform(lambda v, g, r: Codec(r, "ogg-opus", v), *_QUALITY),
}
"""Input transforms by name; an option gives one number: ``gaussian-noise:0.02``."""


def bare(subject: Subject) -> System:
    """Return the model alone, as a system."""
    return System(
        name=UNDEFENDED,
        model=subject.model,
        exact=subject.exact,
        shut=subject.shut,
        fingerprint=subject.fingerprint,
        source=subject.source,
    )


def defended(subject: Subject, wanted: str, *, seed: int) -> System:
    """Return the system that an option names.

    Args:
        subject: The bare model.
        wanted: ``NAME=WHAT`` or ``WHAT``: the folder of a purifier (it stands before the model) or
            of another recogniser (it stands in its place: adversarial training), a name of
            `servax.pretrained.names`, a transform such as ``mean-filter:3``, or the class path of
            a defence of one's own, ``package.module:Name``, **whose code is run**.
        seed: Draws what a random transform needs.

    Raises:
        SettingError: It is none of these, or does not fit the model.
        CheckpointError: The folder cannot be read.
    """
    name, _, what = wanted.rpartition("=")
    transform, _, value = what.partition(":")
    if transform in TRANSFORMS and not Path(what).exists():
        name = name or f"{transform}-{value}"
        return _transformed(subject, _checked(name), transform, value, seed)
    if CLASS_PATH.fullmatch(what) and not Path(what).exists():
        return _own(subject, name, what)
    folder = folder_of(what)
    role = _role(folder) if folder.is_dir() else "purifier" if HUB_ID.fullmatch(what) else ""
    name = name or _called(folder)
    if role == "purifier":
        return _purified(subject, _checked(name), str(folder))
    if role == "recogniser":
        return _instead(subject, _checked(name), str(folder))
    raise SettingError(
        "defence",
        what,
        "the folder of a purifier or of a recogniser that servax has trained, a packaged one "
        f"({', '.join(names())}), a class path (my_module:MyDefence), or one of "
        + ", ".join(f"{each}:VALUE" for each in TRANSFORMS),
        hint=nearest(transform, [*names(), *TRANSFORMS]),
    )


def folder_of(where: str) -> Path:
    """Return the folder that holds the weights; a training leaves them in one called model."""
    folder = resolve(where)
    return folder / MODEL if (folder / MODEL / SETTINGS).is_file() else folder


def _called(folder: Path) -> str:
    return folder.parent.name if folder.name == MODEL else folder.name


def _checked(name: str) -> str:
    """Return the name of a system or surrogate, which may neither be taken nor break a path."""
    if name == UNDEFENDED:
        raise SettingError("a name", name, "another, this one is the bare model")
    if not NAME.fullmatch(name):
        raise SettingError("a name", name, "letters, digits, '.', '_', '+' and '-'")
    return name


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
    draws = generator(seed, "defence", name)
    module, number = make_transform(kind, value, subject.sample_rate, draws)
    return System(
        name=name,
        model=Defended(subject.model, module).eval(),
        front=module,
        exact=subject.exact and _exact(module),
        shut=subject.shut,
        fingerprint=_together(subject.fingerprint, f"{kind}:{number:g}:{seed}"),
        source=f"{kind}:{value}",
    )


def make_transform(
    kind: str, value: str, sample_rate: int, draws: torch.Generator
) -> tuple[nn.Module, float]:
    """Return a transform and the number that an option gave it.

    Args:
        kind: One of `TRANSFORMS`.
        value: Its number, as text.
        sample_rate: Of the sound it hears, in Hz.
        draws: What a random one draws from.

    Raises:
        SettingError: The number is none, or not one that this transform takes.
    """
    transform = TRANSFORMS[kind]
    if not value.strip():
        raise SettingError(
            "defence", kind, f"a number too: {kind}:{transform.example}, {transform.expected}"
        )
    number = _number(value)
    if not math.isfinite(number) or (transform.whole and number != int(number)):
        raise SettingError("defence", f"{kind}:{value}", f"{kind}:VALUE, {transform.expected}")
    return transform.build(number, draws, sample_rate), number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _purified(subject: Subject, name: str, where: str) -> System:
    purifier = Purifier.from_pretrained(where)
    front: nn.Module = purifier.frozen()
    if subject.inputs == "waveform":
        front = SoundPurifier(purifier, subject.sample_rate)
    elif not purifier.fits(subject.scale, subject.front_end):
        raise SettingError(
            "defence", where, "a purifier of the model's own log-Mel, level and width of scale"
        )
    # The settings decide too: one set of weights purifies as output or as residual.
    files = [expanded(where) / name for name in (WEIGHTS, SETTINGS)]
    there = [file for file in files if file.is_file()]
    told = of_files(there) if there else hashlib.sha256(where.encode()).hexdigest()
    return System(
        name=name,
        model=Defended(subject.model, front).eval(),
        front=front,
        exact=subject.exact,
        shut=subject.shut,
        fingerprint=_together(subject.fingerprint, told),
        source=where,
    )


def _own(subject: Subject, name: str, path: str) -> System:
    module = own_defence(path, subject)
    exact = _exact(module)
    # Without a true gradient the identity stands for it, so that no attacker stops at a zero.
    model = Defended(subject.model, module) if exact else Bpda(subject.model, module)
    return System(
        name=_checked(name or path.partition(":")[2]),
        model=model.eval(),
        front=module,
        exact=exact and subject.exact,
        shut=subject.shut,
        fingerprint=_together(subject.fingerprint, code_of(path, module)),
        source=path,
    )


def _instead(subject: Subject, name: str, where: str) -> System:
    other = _beside(subject, where)
    fits = (other.inputs, other.labels, other.front_end) == (
        subject.inputs,
        subject.labels,
        subject.front_end,
    )
    if not fits or not _scaled_alike(subject, other):
        raise SettingError(
            "defence", where, "a recogniser with the labels, front-end and scale of the model"
        )
    return System(
        name=name,
        model=other.model,
        exact=other.exact,
        shut=other.shut,
        fingerprint=other.fingerprint,
        source=where,
    )


def surrogate(subject: Subject, wanted: str) -> tuple[str, Subject]:
    """Return the name and the model of a surrogate, ``NAME=FOLDER`` or ``FOLDER``.

    Raises:
        SettingError: It is the model itself, has no gradients, or takes other inputs.
    """
    name, _, where = wanted.rpartition("=")
    other = _beside(subject, where)
    if other.fingerprint == subject.fingerprint:
        raise SettingError(
            "surrogate", where, "a model with weights of its own, not the audited one"
        )
    alike = other.inputs == subject.inputs and _scaled_alike(subject, other)
    if not alike or not other.gradients:
        raise SettingError(
            "surrogate", where, "a model with gradients that takes the same inputs, equally scaled"
        )
    if other.labels != subject.labels:
        raise SettingError(
            "surrogate", where, f"a model of the classes {', '.join(subject.labels)}"
        )
    return _checked(name or _called(folder_of(where))), other


def _exact(module: nn.Module) -> bool:
    """Return whether a defence's gradients are its own, as it says itself."""
    return bool(getattr(module, "knowledge", "adaptive") == "adaptive")


def _beside(subject: Subject, where: str) -> Subject:
    """Return another model, which is to hear what `subject` hears."""
    seconds = subject.seconds if subject.inputs == "waveform" else None
    return load_subject(where, inputs=subject.inputs, seconds=seconds)


def _scaled_alike(one: Subject, other: Subject) -> bool:
    scales = [subject.scale and subject.scale.settings for subject in (one, other)]
    return scales[0] == scales[1]


def _together(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
