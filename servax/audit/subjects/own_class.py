"""A class or function in a module of the user's own, as a subject. This runs the user's code."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from servax.audit.subjects.fingerprint import of_model
from servax.audit.subjects.probing import answers_yes_or_no, count_classes, settled, shut, zeros
from servax.audit.subjects.statements import (
    Statements,
    agree,
    class_names,
    default_front_end,
)
from servax.defences import StraightThrough
from servax.errors import PathError, SettingError, nearest
from servax.evaluation.systems import INPUTS, Inputs, System
from servax.features import FrontEnd, FrontEndSettings, Scale, Scaling, ZScore

Value = str | int | float | bool
FORM = "package.module:Name"


@dataclass(frozen=True)
class Own:
    """What a model says about itself, in attributes of these names; None where it says nothing.

    An attribute of another type is taken for a part of the network and left alone.
    """

    labels: tuple[str, ...] | None
    """A list or tuple of names in the order of the logits."""
    sample_rate: int | None
    """In Hz."""
    seconds: float | None
    """Length of the waveforms that it hears."""
    inputs: Inputs | None
    """``logmel`` or ``waveform``."""
    front_end: FrontEndSettings | None
    """A `FrontEnd` or its settings."""
    scale: Scaling | None
    """A `Scale` or `ZScore`."""
    bpda: str | None
    """Name of the submodule that cuts gradients and keeps the shape: the identity stands for it in
    the backward pass (Athalye et al. 2018), and attacks are labelled ``bpda``."""

    @classmethod
    def of(cls, model: nn.Module) -> Own:
        """Return what `model` says about itself."""
        labels = getattr(model, "labels", None)
        named = isinstance(labels, (list, tuple)) and all(isinstance(x, str) for x in labels)
        inputs = getattr(model, "inputs", None)
        scale = getattr(model, "scale", None)
        rate = getattr(model, "sample_rate", None)
        seconds = getattr(model, "seconds", None)
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
            seconds = None
        front_end = getattr(model, "front_end", None)
        bpda = getattr(model, "bpda", None)
        if isinstance(front_end, FrontEnd):
            front_end = front_end.settings
        return cls(
            labels=tuple(labels) if named and labels is not None else None,
            sample_rate=rate if isinstance(rate, int) and not isinstance(rate, bool) else None,
            seconds=seconds if seconds and 0 < seconds < float("inf") else None,
            inputs=next(
                (known for known in INPUTS if isinstance(inputs, str) and inputs == known), None
            ),
            front_end=front_end if isinstance(front_end, FrontEndSettings) else None,
            scale=scale if isinstance(scale, (Scale, ZScore)) else None,
            bpda=bpda if isinstance(bpda, str) else None,
        )


def load_class_system(
    path: str, said: Statements, init: Mapping[str, Value] | None = None
) -> System:
    """Return the model that ``package.module:Name`` makes.

    Importing the module and calling `Name` runs the code that stands there, with all your rights:
    name only modules that you trust. The current directory can be imported from meanwhile.

    Args:
        path: A class or a function; called with `init` it gives an nn.Module from (B, 1, M, F) or
            (B, T) to logits (B, C).
        said: What the model does not say in attributes (see `Own`).
        init: Keyword arguments.

    Raises:
        PathError: Nothing is found there, it fails, or it is no classifier.
        SettingError: Inputs, rate or labels are unknown, or are said twice and differ.
    """
    module, model = make(path, dict(init or {}))
    if not isinstance(model, nn.Module):
        raise PathError(path, f"makes a {type(model).__name__}, expected a torch.nn.Module")
    subject = module_system(
        path,
        model,
        said,
        source=f"class {path}({', '.join(f'{k}={v!r}' for k, v in (init or {}).items())})",
    )
    told = of_model(model, path.encode(), _arguments(init), *code(module, model))
    return replace(subject, name=path.partition(":")[2], fingerprint=told)


def module_system(path: str, model: nn.Module, said: Statements, *, source: str) -> System:
    """Return a torch module as a subject, its own attributes heard (see `Own`).

    Args:
        path: Where it comes from; begins refusals.
        model: From (B, 1, M, F) or (B, T) to logits (B, C).
        said: What the caller says.
        source: For the evaluation card.

    Raises:
        PathError: It is no classifier.
        SettingError: As for `load_class_system`.
    """
    own = Own.of(settled(model))
    if own.bpda is not None:
        _pass_straight(model, own.bpda, path)
    inputs: Inputs = agree("inputs", said.inputs, own.inputs, path, "'logmel' or 'waveform'")
    rate, front_end = _sound(inputs, own, said, path)
    several = answers_yes_or_no(model, source=path)
    seconds = said.length(inputs, own.seconds, path)
    probe = zeros(inputs, rate, front_end, seconds)
    timed = rate if inputs == "waveform" else 0
    classes = count_classes(model, probe, inputs=inputs, source=path, sample_rate=timed)
    return System(
        name=Path(path).stem,
        model=model,
        inputs=inputs,
        labels=class_names(said.labels, own.labels, classes=classes, whose=path),
        sample_rate=rate,
        shut=shut(model, probe),
        exact=own.bpda is None,
        front_end=front_end,
        seconds=seconds,
        scale=own.scale if inputs == "logmel" else None,
        multi_label=several,
        source=source,
        fingerprint=of_model(model),
    )


def _pass_straight(model: nn.Module, name: str, path: str) -> None:
    """Let the identity stand for the gradient of one submodule."""
    parent, _, last = name.rpartition(".")
    try:
        step = model.get_submodule(name)
    except AttributeError:
        known = [each for each, _ in model.named_modules() if each]
        raise PathError(
            path,
            f"says bpda = {name!r}, expected the name of one of its submodules, whose output has "
            f"the shape of its input.{nearest(name, known)}",
        ) from None
    if step is not model and not isinstance(step, StraightThrough):
        setattr(model.get_submodule(parent), last, StraightThrough(step, what=name).eval())


def _sound(
    inputs: Inputs, own: Own, said: Statements, path: str
) -> tuple[int, FrontEndSettings | None]:
    """Return the sample rate in Hz, and the front-end of a model of log-Mels."""
    if inputs == "waveform":
        return agree("sample_rate", said.sample_rate, own.sample_rate, path, "16000"), None
    if own.front_end is not None:
        rate = own.front_end.logmel.sample_rate
        for other in (own.sample_rate, said.sample_rate):
            agree("sample_rate", other, rate, f"the front-end of {path}", "16000")
        return rate, own.front_end
    rate = agree(
        "sample_rate",
        said.sample_rate,
        own.sample_rate or said.sample_rate or 16_000,
        path,
        "16000",
    )
    return rate, default_front_end(rate)


def make(
    path: str,
    init: Mapping[str, object],
    *,
    offered: Mapping[str, object] | None = None,
    what: str = "model",
) -> tuple[ModuleType, object]:
    """Return the module that a class path names, and what is made there. This runs its code.

    Args:
        path: ``package.module:Name`` of a class, or of a function that makes something.
        init: Keyword arguments.
        offered: Keyword arguments that are given only where they are taken.
        what: The option, for refusals.

    Raises:
        SettingError: `path` is no class path.
        PathError: Nothing is found there, or it fails.
    """
    module_name, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise SettingError(what, path, f"a class path of the form {FORM}")
    with _current_directory():
        module = _import(path, module_name)
        found = getattr(module, name, None)
        if found is None:
            names = [known for known in vars(module) if not known.startswith("_")]
            raise PathError(path, f"{module_name} has no {name}.{nearest(name, names)}")
        if isinstance(found, nn.Module) or not callable(found):
            raise PathError(
                path, f"is a {type(found).__name__}, expected a class or a function that makes one"
            )
        return module, _call(path, found, {**_taken(found, offered or {}), **init})


def _taken(made: Any, offered: Mapping[str, object]) -> dict[str, object]:
    """Return those arguments that a class or function names."""
    try:
        named = inspect.signature(made).parameters if offered else {}
    except ValueError:  # A part of Python itself, which does not tell.
        return {}
    return {name: value for name, value in offered.items() if name in named}


def _import(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise PathError(
                path,
                f"no module {missing}, neither in {Path.cwd()} nor installed; expected {FORM}",
            ) from None
        raise PathError(path, f"{name} imports {missing}, which is not installed") from error
    except Exception as error:  # The user's code may raise anything.
        raise PathError(
            path, f"{name} cannot be imported ({type(error).__name__}: {error})"
        ) from error


def _call(path: str, make: Any, init: Mapping[str, object]) -> object:
    try:
        with torch.random.fork_rng(devices=[]):
            return make(**init)
    except Exception as error:  # The user's code may raise anything.
        raise PathError(
            path,
            f"cannot be made from the arguments {dict(init)}; give them with --init (init= in "
            f"Python) ({type(error).__name__}: {error})",
        ) from error


@contextmanager
def _current_directory() -> Iterator[None]:
    """Let modules of the current directory be imported, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # What was imported may have changed the list, so its first element need not be ours.
        if here in sys.path:
            sys.path.remove(here)


def _arguments(init: Mapping[str, Value] | None) -> bytes:
    return json.dumps(dict(init or {}), sort_keys=True).encode()


def code(module: ModuleType, made: object) -> list[bytes]:
    """Return the files of the module and of the class made; what these import is left out."""
    places = (module.__file__, getattr(sys.modules.get(type(made).__module__), "__file__", None))
    return [Path(file).read_bytes() for file in places if file and Path(file).is_file()]
