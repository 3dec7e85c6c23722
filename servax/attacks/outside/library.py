"""What the bridge asks of a library, and the class that a path names in it.

A path may come from a settings file. So it must begin with the name of one of the three packages
before anything is imported, nothing but that package is imported, and what the path leads to must
be an attack of that package.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from servax.attacks.base import Norm
from servax.attacks.outside.quiet import quiet
from servax.attacks.outside.seen import Seen
from servax.errors import ServaxError, SettingError, nearest

Settings = Mapping[str, Any]
"""What the constructor of an attack is given beside what the bridge sets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a library is asked to do. All inputs are in [0, 1], and so is the radius."""

    model: Seen
    """From inputs (n, ...) in [0, 1] to logits (n, K); what may not change is put back."""
    x: Tensor
    """Clean inputs (n, ...); the model gives none of them what the attacker wants."""
    y: Tensor
    """Classes (n,) to lead away from, or towards when `targeted`."""
    classes: int
    """K."""
    norm: Norm
    """`Linf` or `L2`."""
    radius: float | None
    """How far inputs may move; None asks for the nearest ones, however far."""
    targeted: bool
    """Whether `y` is wanted instead of avoided."""
    seed: int
    """For what a library draws from a generator of its own."""
    starts: Tensor | None
    """Inputs (n, ...) that fool the model already, for an attack that needs them."""


class Library(ABC):
    """One outside package of attacks."""

    name: str
    """What it is called."""
    package: str
    """The package that holds its attacks, and the beginning of their paths."""
    extra: str
    """How to install it."""
    own: frozenset[str]
    """Settings that the bridge gives, never the user."""

    @abstractmethod
    def base(self, package: ModuleType) -> type:
        """Return the class that all its attacks inherit from."""

    @abstractmethod
    def fixed(self, attack: type) -> bool:
        """Return whether the attack is given a radius, instead of looking for the nearest input."""

    @abstractmethod
    def check(self, attack: type, *, norm: Norm, targeted: bool) -> None:
        """Refuse a norm or a target that this attack does not know, with a SettingError."""

    @abstractmethod
    def needs_starts(self, attack: type) -> bool:
        """Return whether the attack must begin at an input that fools the model already."""

    @abstractmethod
    def alone(self, attack: type) -> bool:
        """Return whether utterances must enter one by one, since they influence each other."""

    @abstractmethod
    def run(self, attack: type, settings: Settings, task: Task) -> Tensor:
        """Return what the attack found, (n, ...) in [0, 1]."""

    def load(self) -> ModuleType:
        """Return the package, or say how to install it."""
        try:
            with quiet():
                return importlib.import_module(self.package)
        except ImportError as error:
            raise ServaxError(
                f"{self.name} cannot be imported ({error}): its attacks need {self.extra}."
            ) from error

    def find(self, path: str) -> type:
        """Return the attack class at `path`, or refuse and name the nearest one.

        Raises:
            SettingError: There is no such class, or it is no attack.
            ServaxError: The library is not installed.
        """
        package = self.load()
        base = self.base(package)
        found: Any = package
        for part in path.removeprefix(f"{self.package}.").split("."):
            inside = inspect.ismodule(found) and found.__name__.startswith(self.package)
            found = getattr(found, part, None) if inside else None
        if inspect.isclass(found) and issubclass(found, base) and not _is_general(found, base):
            return found
        names = [
            f"{self.package}.{name}"
            for name, value in vars(package).items()
            if inspect.isclass(value) and issubclass(value, base) and not _is_general(value, base)
        ]
        expected = f"the path of an attack class of {self.name}"
        raise SettingError("path", path, expected, hint=nearest(path, names))

    def check_settings(self, attack: type, settings: Settings) -> None:
        """Refuse a setting that the constructor does not know or that the bridge gives."""
        parameters = parameters_of(attack)
        known = set(parameters) - self.own
        for name in settings:
            if name in self.own:
                raise SettingError(
                    f"settings[{name!r}]",
                    settings[name],
                    "no such setting: the bridge gives it (see epsilon, norm and targeted)",
                )
            if name not in known:
                raise SettingError.choice(f"a setting of {attack.__name__}", name, known)
        missing = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and name in known - set(settings)
        ]
        if missing:
            raise SettingError(
                f"settings of {attack.__name__}",
                dict(settings),
                f"a value for {', '.join(missing)}, which has no default",
            )


def parameters_of(attack: type) -> dict[str, inspect.Parameter]:
    """Return what the constructor of a class takes by name, without self."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(attack.__init__).parameters  # type: ignore[misc]
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name != "self" and parameter.kind in named
    }


def _is_general(found: type, base: type) -> bool:
    """Return whether a class only tells what attacks have in common."""
    return found is base or inspect.isabstract(found)
