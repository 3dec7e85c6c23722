"""Arguments and settings of the wrong kind, refused in a sentence before they are used.

Rules only compare: text where a number belongs ends in a traceback from the depths. What a value
must be is read from its annotation, so it is said once. Only plain annotations count: those that
`check` knows, with or without ``| None``; others are left to who takes them. torch is never
imported here: without it there is no tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any, Literal, ParamSpec, TypeVar, cast

from servax.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")
Made = TypeVar("Made", bound=Callable[..., Any])

Precision = Literal["float32", "bfloat16"]
"""Of matrix products on a device."""
Tier = Literal["smoke", "standard", "full"]
"""How much an audit tries."""

OF_TORCH = {
    "Tensor": ("Tensor", "a torch.Tensor; torch.as_tensor makes one of an array or a list"),
    "nn.Module": ("nn.Module", "a torch.nn.Module"),
    "torch.Generator": ("Generator", "a torch.Generator"),
}
"""Annotations that mean something of torch: where it is there, and what is expected."""


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that refuses arguments that are not what their annotation says.

    Raises:
        SettingError: By the function returned, with the argument's name.

    Example:
        >>> @typed
        ... def half(x: float) -> float:
        ...     return x / 2
        >>> half("four")
        Traceback (most recent call last):
        servax.errors.SettingError: x is 'four', expected a number.
    """
    notes = {k: str(v) for k, v in inspect.get_annotations(function).items() if k != "return"}
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if name in notes:
                check(name, value, notes[name])
        return function(*args, **kwargs)

    return checked


def renamed(**former: str) -> Callable[[Made], Made]:
    """Return a decorator that takes settings by their former names too, and warns.

    Of a class also the attributes. To be dropped with the version after this one; files that hold
    the former names are read for good (`stored`).

    Args:
        former: The name of today, by the former one.

    Example:
        >>> @renamed(radius="epsilon")
        ... def size(*, epsilon: float) -> float:
        ...     return epsilon
        >>> size(epsilon=0.5)
        0.5
    """

    def translated(given: dict[str, Any]) -> dict[str, Any]:
        # A former name goes first: `dataclasses.replace` gives all of today's beside it.
        for old in former.keys() & given.keys():
            _warn(old, former[old], stacklevel=4)
            given[former[old]] = given.pop(old)
        return given

    def decorate(made: Made) -> Made:
        function: Any = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]

        @functools.wraps(function)
        def taking(*args: Any, **given: Any) -> Any:
            return function(*args, **translated(given))

        if not isinstance(made, type):
            return cast(Made, taking)
        setattr(made, "__init__", taking)  # noqa: B010  mypy knows no other way
        for old, new in former.items():
            setattr(made, old, property(functools.partial(_former, old, new)))
        setattr(made, FORMER, former)
        return cast(Made, made)

    return decorate


FORMER = "_former_names"
"""Where a class keeps today's names of its settings, by the former ones."""


def _former(old: str, new: str, settings: object) -> Any:
    _warn(old, new, stacklevel=3)
    return getattr(settings, new)


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    sentence = f"{old} is called {new} since servax 0.2; the former name goes with servax 0.3."
    warnings.warn(sentence, DeprecationWarning, stacklevel=stacklevel)


def stored(settings: Any) -> dict[str, Any]:
    """Return a dataclass as `dataclasses.asdict` does, under the names that files know.

    Hashes of settings are made of these, so that work stays found when a setting is renamed.
    """
    told = dataclasses.asdict(settings)
    for name in told:
        inner = getattr(settings, name)
        if dataclasses.is_dataclass(inner):
            told[name] = stored(inner)
    names = {new: old for old, new in getattr(settings, FORMER, {}).items()}
    return {names.get(name, name): value for name, value in told.items()}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a number must be."""

    expected: str
    """In words."""
    holds: Callable[[Any], bool]
    """Whether a number is; NaN and the infinities are asked about too."""

    def check(self, name: str, value: object) -> None:
        """Refuse what is no such number."""
        check_number(name, value)
        if not self.holds(value):
            raise SettingError(name, value, self.expected)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A name that must be one of several."""

    allowed: Collection[str]
    """Those."""

    def check(self, name: str, value: object) -> None:
        """Refuse another name."""
        if value not in self.allowed:
            raise SettingError.choice(name, value, self.allowed)


Rules = Mapping[str, Rule | Choice]
"""What the settings of a dataclass must be; a class declares its own as ``RULES``."""
NUMBER = Rule("a whole number of at least 0", lambda n: n >= 0)
COUNT = Rule("a whole number of at least 1", lambda n: n >= 1 and float(n).is_integer())
POSITIVE = Rule("a finite number above 0", lambda v: 0 < v < math.inf)
NOT_NEGATIVE = Rule("a finite number of at least 0", lambda v: 0 <= v < math.inf)
DECIBELS = Rule("a ratio in [0, 90] dB", lambda v: 0 <= v <= 90)


def check_types(settings: Any, *, whole: bool = True) -> None:
    """Refuse a dataclass whose fields are not what their annotations and its ``RULES`` say.

    Args:
        settings: An instance; its ``__post_init__`` says this first.
        whole: Refuse fractions for ``int``; False where a rule says it in more words.

    Raises:
        SettingError: A field has a value of another kind or outside its rule, or settings inside
            are none.
    """
    for field in dataclasses.fields(settings):
        value, kind = getattr(settings, field.name, None), str(field.type)
        nested: Any = field.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            # Settings read back from JSON arrive as plain dicts, and become instances later.
            if not (isinstance(value, dict) or (value is None and kind.endswith(" | None"))):
                check_kind(field.name, value, nested)
        elif isinstance(field.default, str):
            check(field.name, value, "str")
        else:
            check(field.name, value, kind, whole=whole)
    check_rules(settings)


def check_rules(settings: Any) -> None:
    """Refuse a dataclass with a number or a name outside what its ``RULES`` say."""
    rules: dict[str, Rule | Choice] = {}
    for made in reversed(type(settings).__mro__):  # a class may narrow what its base says
        rules |= vars(made).get("RULES", {})
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name, None)
        may_lack = value is None and str(field.type).endswith(" | None")
        if field.name in rules and not may_lack:
            rules[field.name].check(field.name, value)


def check(name: str, value: Any, annotation: str, *, whole: bool = True) -> None:
    """Refuse a value that is not what a plain annotation says; others say nothing.

    Raises:
        SettingError: The value is of another kind.
    """
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return
    if kind in ("int", "float"):
        check_number(name, value)
        if whole and kind == "int" and float(value) % 1 != 0:
            raise SettingError(name, value, "a whole number")
    elif kind == "bool" and not isinstance(value, bool):
        raise SettingError(name, value, "True or False")
    elif kind == "str" and not isinstance(value, str):
        raise SettingError(name, value, "a name, which is text")
    elif kind == "str | Path" and not isinstance(value, str | os.PathLike):
        raise SettingError(name, value, "a path")
    elif kind == "Bounds":
        pair = isinstance(value, tuple | list) and len(value) == 2
        if not (pair and all(isinstance(bound, Real) for bound in value)):
            raise SettingError(name, value, "(low, high), two numbers")
    elif kind == "Ball" and not callable(getattr(value, "project", None)):
        raise SettingError(name, type(value).__name__, "a ball, as servax.perturbation.Linf(0.02)")
    elif kind in OF_TORCH:
        where, expected = OF_TORCH[kind]
        found: Any = sys.modules.get("torch")
        for part in where.split("."):
            found = getattr(found, part, None)
        if found is None or not isinstance(value, found):
            raise SettingError(name, type(value).__name__, expected)


def check_number(name: str, value: Any) -> None:
    """Refuse what is no number: text, a list, a truth value, nothing.

    Raises:
        SettingError: `value` is no real number of Python or NumPy.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SettingError(name, value, "a number")


def check_size(name: str, value: object, *, smallest: int = 1, largest: int) -> None:
    """Refuse anything but a whole number in [smallest, largest], as in settings read from a file.

    Upper limits lie far above any use: they keep a hostile file from asking for all the memory of
    the machine before its weights are looked at.

    Raises:
        SettingError: `value` is no such number.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and smallest <= value <= largest):  # type: ignore[operator]
        raise SettingError(name, value, f"a whole number in [{smallest}, {largest}]")


def check_kind(name: str, value: object, kind: type) -> None:
    """Refuse what is not of a kind.

    Raises:
        SettingError: `value` is no instance of `kind`.
    """
    if not isinstance(value, kind):
        expected = f"an instance of {kind.__module__.partition('.')[0]}'s {kind.__name__}"
        raise SettingError(name, type(value).__name__, expected)


def check_list(name: str, value: object) -> None:
    """Refuse what is no list of values: text, a number, nothing.

    Raises:
        SettingError: `value` cannot be gone through, or is text.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SettingError(name, value, "a list of values")
