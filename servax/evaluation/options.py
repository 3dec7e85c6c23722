"""Systems as options name them: what stands before a model or in its place, and surrogates."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from servax.defences import (
    Bpda,
    Codec,
    DeepFilterNet,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    NoiseWiener,
    Quantise,
    Resample,
    RNNoise,
    SpectralGate,
    SpectrogramMasking,
    WhiteNoise,
)
from servax.errors import CheckpointError, SettingError, nearest
from servax.evaluation.loading import called, folder_of, load_system
from servax.evaluation.own_code import CLASS_PATH, hash_of_code, own_defence
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System, before, hash_of_files
from servax.evaluation.trial import Inputs
from servax.files import expanded
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import names
from servax.purifier import Purifier, SoundPurifier
from servax.recognition import HUB_ID
from servax.training import OnDevice, generator

NAME = re.compile(r"\w[\w.+-]*")
"""What systems and surrogates may be called: stages have folders of these names."""


Build = Callable[[float, torch.Generator, int], nn.Module]
"""From a number, what is drawn from and the rate of the sound in Hz to an input transform."""


@dataclass(frozen=True)
class Transform:
    """An input transform that an option can name, with one number or none."""

    inputs: Inputs
    """What it takes."""
    build: Build
    example: str = ""
    """A value; empty for one that takes no number."""
    expected: str = "no number"
    """What its values are."""
    whole: bool = False
    """Whether they are whole numbers."""

    def told(self, name: str) -> str:
        """Return how an option names it."""
        return f"{name}:VALUE" if self.example else name


def _codec(name: str) -> Transform:
    return Transform("waveform", lambda v, g, r: Codec(r, name, v), "0.5", "a quality in [0, 1]")


def _logmel(build: Build, example: str, expected: str, *, whole: bool = True) -> Transform:
    return Transform("logmel", build, example, expected, whole)


TRANSFORMS: Mapping[str, Transform] = {
    "gaussian-noise": _logmel(
        lambda v, g, r: GaussianNoise(v, g), "0.02", "sd in (0, 1]", whole=False
    ),
    "mean-filter": _logmel(lambda v, g, r: MeanFilter(int(v)), "3", "an odd size"),
    "median-filter": _logmel(lambda v, g, r: MedianFilter(int(v)), "3", "an odd size"),
    "quantise": _logmel(lambda v, g, r: Quantise(int(v)), "4", "whole bits"),
    "spectrogram-masking": _logmel(
        lambda v, g, r: SpectrogramMasking(int(v), int(v), g),
        "8",
        "Mel bins and frames of its widest bands",
    ),
    "white-noise": Transform("waveform", lambda v, g, r: WhiteNoise(v, g), "30", "an SNR in dB"),
    "low-pass": Transform("waveform", lambda v, g, r: LowPass(r, v), "4000", "a cut-off in Hz"),
    "resample": Transform(
        "waveform", lambda v, g, r: Resample(r, int(v)), "8000", "a rate in Hz", whole=True
    ),
    "noise-wiener": Transform(
        "waveform", lambda v, g, r: NoiseWiener(v, g, r), "20", "an SNR in [0, 60] dB"
    ),
    "mp3": _codec("mp3"),
    "ogg": _codec("ogg-vorbis"),
    "opus": _codec("ogg-opus"),
    "deepfilternet": Transform("waveform", lambda v, g, r: DeepFilterNet(r)),
    "rnnoise": Transform("waveform", lambda v, g, r: RNNoise(r)),
    "noisereduce": Transform("waveform", lambda v, g, r: SpectralGate(r)),
}
"""Input transforms by name; an option gives a number where there is one: ``low-pass:4000``."""


def defended(bare: System, wanted: str, *, seed: int) -> System:
    """Return the system that an option names.

    Args:
        bare: The bare model.
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
        return _transformed(bare, _checked(name or what.replace(":", "-")), transform, value, seed)
    if CLASS_PATH.fullmatch(what) and not Path(what).exists():
        module = own_defence(what, bare)
        name = _checked(name or what.partition(":")[2])
        told = hash_of_code(what, module)
        return before(bare, module, name, told=told, source=what, twin=Bpda)
    folder = folder_of(what)
    role = _role(folder) if folder.is_dir() else "purifier" if HUB_ID.fullmatch(what) else ""
    name = name or called(folder)
    if role == "purifier":
        return _purified(bare, _checked(name), str(folder))
    if role == "recogniser":
        other = _beside(bare, str(folder))
        alike = (other.labels, other.front_end) == (bare.labels, bare.front_end)
        if not alike or not _alike(bare, other):
            expected = "a recogniser with the labels, front-end and scale of the model"
            raise SettingError("defence", str(folder), expected)
        return replace(other, name=_checked(name), source=str(folder))
    raise SettingError(
        "defence",
        what,
        "the folder of a purifier or of a recogniser that servax has trained, a packaged one "
        f"({', '.join(names())}), a class path (my_module:MyDefence), or one of "
        + ", ".join(each.told(name) for name, each in TRANSFORMS.items()),
        hint=nearest(transform, [*names(), *TRANSFORMS]),
    )


def _transformed(bare: System, name: str, kind: str, value: str, seed: int) -> System:
    transform = TRANSFORMS[kind]
    if transform.inputs != bare.inputs:
        expected = f"one that takes {bare.inputs} as the model does, not {transform.inputs}"
        raise SettingError("defence", kind, expected)
    if not transform.example:
        if value:
            raise SettingError("defence", f"{kind}:{value}", f"{kind} alone, it takes no number")
        number = math.nan
    elif not value.strip():
        expected = f"a number too: {kind}:{transform.example}, {transform.expected}"
        raise SettingError("defence", kind, expected)
    else:
        number = _number(transform, kind, value)
    module = transform.build(number, generator(seed, "defence", name), bare.sample_rate)
    told = f"{kind}:{number:g}:{seed}"
    return before(bare, module, name, told=told, source=f"{kind}:{value}" if value else kind)


def _number(transform: Transform, kind: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (transform.whole and number != int(number)):
        raise SettingError("defence", f"{kind}:{value}", f"{kind}:VALUE, {transform.expected}")
    return number


def _purified(bare: System, name: str, where: str) -> System:
    purifier = Purifier.from_pretrained(where)
    front: nn.Module = purifier.frozen()
    if bare.inputs == "waveform":
        front = SoundPurifier(purifier, bare.sample_rate)
    elif not purifier.fits(bare.scale, bare.front_end):
        raise SettingError(
            "defence", where, "a purifier of the model's own log-Mel, level and width of scale"
        )
    # The settings decide too: one set of weights purifies as output or as residual.
    files = [expanded(where) / name for name in (WEIGHTS, SETTINGS)]
    there = [file for file in files if file.is_file()]
    told = hash_of_files(there) if there else hashlib.sha256(where.encode()).hexdigest()
    return before(bare, _placed(bare, front), name, told=told, source=where)


def surrogate(bare: System, wanted: str) -> System:
    """Return a surrogate, ``NAME=FOLDER`` or ``FOLDER``.

    Raises:
        SettingError: It is the model itself, has no gradients, or takes other inputs.
    """
    name, _, where = wanted.rpartition("=")
    other = _beside(bare, where)
    if other.fingerprint == bare.fingerprint:
        expected = "a model with weights of its own, not the audited one"
    elif not _alike(bare, other) or not other.gradients:
        expected = "a model with gradients that takes the same inputs, equally scaled"
    elif other.labels != bare.labels:
        expected = f"a model of the classes {', '.join(bare.labels)}"
    else:
        return replace(other, name=_checked(name or called(folder_of(where))))
    raise SettingError("surrogate", where, expected)


def _beside(bare: System, where: str) -> System:
    """Return another model, which is to hear what `bare` hears."""
    seconds = bare.seconds if bare.inputs == "waveform" else None
    other = load_system(where, inputs=bare.inputs, seconds=seconds)
    return replace(other, model=_placed(bare, other.model))


def _placed(bare: System, network: nn.Module) -> nn.Module:
    """Return a network where that of the bare model computes."""
    return bare.model.beside(network) if isinstance(bare.model, OnDevice) else network


def _alike(one: System, other: System) -> bool:
    """Return whether two models take the same inputs, equally scaled."""
    scales = [each.scale and each.scale.settings for each in (one, other)]
    return one.inputs == other.inputs and scales[0] == scales[1]


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
