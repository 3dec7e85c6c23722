"""What is audited: the bare model, and each defence of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from torch import nn

from servax.audit.own_parts import code_of, own_defence
from servax.audit.subjects import load_system
from servax.audit.subjects.fingerprint import of_files
from servax.defences import Bpda, Defended
from servax.errors import CheckpointError, SettingError, nearest
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.systems import TRANSFORMS, System, make_transform
from servax.files import expanded
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import names, resolve
from servax.purifier import Purifier
from servax.purifier.sound_purifier import SoundPurifier
from servax.recognition import HUB_ID, MODEL
from servax.training import generator

NAME = re.compile(r"\w[\w.+-]*")
"""What systems and surrogates may be called: stages have folders of these names."""
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""package.module:Name"""


def bare(subject: System) -> System:
    """Return the model alone, as a system."""
    return replace(subject, name=UNDEFENDED)


def defended(subject: System, wanted: str, *, seed: int) -> System:
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


def _transformed(subject: System, name: str, kind: str, value: str, seed: int) -> System:
    transform = TRANSFORMS[kind]
    if transform.inputs != subject.inputs:
        raise SettingError(
            "defence",
            kind,
            f"one that takes {subject.inputs} as the model does, not {transform.inputs}",
        )
    draws = generator(seed, "defence", name)
    module, number = make_transform(kind, value, subject.sample_rate, draws)
    return replace(
        subject,
        name=name,
        model=Defended(subject.model, module).eval(),
        front=module,
        exact=subject.exact and _exact(module),
        fingerprint=_together(subject.fingerprint, f"{kind}:{number:g}:{seed}"),
        source=f"{kind}:{value}",
    )


def _purified(subject: System, name: str, where: str) -> System:
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
    return replace(
        subject,
        name=name,
        model=Defended(subject.model, front).eval(),
        front=front,
        fingerprint=_together(subject.fingerprint, told),
        source=where,
    )


def _own(subject: System, name: str, path: str) -> System:
    module = own_defence(path, subject)
    exact = _exact(module)
    # Without a true gradient the identity stands for it, so that no attacker stops at a zero.
    model = Defended(subject.model, module) if exact else Bpda(subject.model, module)
    return replace(
        subject,
        name=_checked(name or path.partition(":")[2]),
        model=model.eval(),
        front=module,
        exact=exact and subject.exact,
        fingerprint=_together(subject.fingerprint, code_of(path, module)),
        source=path,
    )


def _instead(subject: System, name: str, where: str) -> System:
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
    return replace(other, name=name, source=where)


def surrogate(subject: System, wanted: str) -> System:
    """Return a surrogate, ``NAME=FOLDER`` or ``FOLDER``.

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
    return replace(other, name=_checked(name or _called(folder_of(where))))


def _exact(module: nn.Module) -> bool:
    """Return whether a defence's gradients are its own, as it says itself."""
    return bool(getattr(module, "knowledge", "adaptive") == "adaptive")


def _beside(subject: System, where: str) -> System:
    """Return another model, which is to hear what `subject` hears."""
    seconds = subject.seconds if subject.inputs == "waveform" else None
    return load_system(where, inputs=subject.inputs, seconds=seconds)


def _scaled_alike(one: System, other: System) -> bool:
    scales = [subject.scale and subject.scale.settings for subject in (one, other)]
    return scales[0] == scales[1]


def _together(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
