"""A class or function in a module of the user's own, by its path. This runs the user's code."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from servax.attacks import Attack
from servax.errors import PathError, SettingError, nearest
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System, hash_of_model
from servax.evaluation.threats import Threat
from servax.evaluation.trial import settled, tried, zeros

FORM = "package.module:Name"
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""What such a path looks like."""


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
    if not CLASS_PATH.fullmatch(path):
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
        try:
            named = inspect.signature(found).parameters if offered else {}
        except ValueError:  # A part of Python itself, which does not tell.
            named = {}
        taken = {name: value for name, value in (offered or {}).items() if name in named}
        return module, _call(path, found, {**taken, **init})


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


def own_defence(path: str, bare: System) -> nn.Module:
    """Return the defence that ``package.module:Name`` makes.

    Raises:
        SettingError: `path` is no class path.
        PathError: Nothing is found there, it fails, or it is no module that keeps the shape of what
            the model takes.
    """
    _, made = make(path, {}, what="defence")
    if not isinstance(made, nn.Module):
        raise PathError(path, f"makes a {type(made).__name__}, expected a torch.nn.Module")
    defence = settled(made)
    one = zeros(bare.inputs, bare.sample_rate, bare.front_end, bare.seconds)
    x = torch.cat([one, one])
    expected = f"a defence that gives {bare.inputs} of the same shape and type"
    y = tried(defence, x, source=path, expected=expected)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise PathError(path, f"turns {tuple(x.shape)} into {given}, expected {expected}")
    if y.dtype != x.dtype:
        raise PathError(path, f"turns {x.dtype} into {y.dtype}, expected {expected}")
    return defence


NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
"""What attacks may be called: stages have folders of these names."""


def own_attacks(wanted: Sequence[str], suite: Suite) -> list[Threat]:
    """Return the attacks that an option names, as threats that go through the whole system.

    Args:
        wanted: ``NAME=package.module:Name`` or the class path alone. The class is called with those
            of `epsilon`, `norm` and `bounds` that it takes.
        suite: What they join: says how far they may go, and which names are taken.

    Raises:
        SettingError: A name is taken, or an attack has another ball than the audit.
        PathError: Nothing is found there, it fails, or it is no attack.
    """
    budget, taken, found = suite.budget, {threat.name for threat in suite.threats()}, []
    # Classes written for servax 0.1 call their epsilon radius.
    reach = {**budget.given, "radius": budget.given["epsilon"]}
    ball = budget.ball(budget.given["epsilon"])
    for option in wanted:
        name, _, path = option.rpartition("=")
        if ":" not in path:
            raise SettingError("attack", option, "NAME=package.module:Name, a class path")
        name = name or path.partition(":")[2]
        if name in taken or not NAME.fullmatch(name):
            raise SettingError(
                "the name of an attack", name, "letters, digits, '-' and '_', as no other has it"
            )
        taken.add(name)
        module, attack = make(path, {}, offered=reach, what="attack")
        if not isinstance(attack, Attack):
            raise PathError(
                path, f"makes a {type(attack).__name__}, expected a servax.attacks.Attack"
            )
        if attack.ball != ball or attack.bounds != budget.bounds:
            raise SettingError(
                "attack",
                path,
                "one with the ball and the bounds of the audit, "
                f"{ball} and {budget.bounds}: take epsilon (norm, bounds) as settings",
            )
        told = hashlib.sha256(b"\0".join(code(module, attack))).hexdigest()
        steps = int(getattr(attack, "steps", 1))
        found.append(Threat(name, "adaptive", attack, gradients=steps, everyone=False, code=told))
    return found


def hash_of_code(path: str, made: nn.Module) -> str:
    """Return the hash of what decides the answers of a module made from a class path."""
    module = sys.modules[path.partition(":")[0]]
    return hash_of_model(made, path.encode(), *code(module, made))


def code(module: ModuleType, made: object) -> list[bytes]:
    """Return the files of the module and of the class made; what these import is left out."""
    places = (module.__file__, getattr(sys.modules.get(type(made).__module__), "__file__", None))
    return [Path(file).read_bytes() for file in places if file and Path(file).is_file()]
