"""YAML and plain data become frozen dataclasses; what does not fit is one sentence with its key.

Takes the types that settings are made of: numbers, text, true or false, one of a few words, lists
of these, mappings, other settings, and any of these or nothing. Values are never guessed: a whole
number is not text, true is not 1, and only a whole number may stand for a number.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from servax.errors import RecipeError, ServaxError, SettingError, nearest
from servax.kinds import FORMER

Settings = TypeVar("Settings")
MAX_BYTES = 1_000_000
"""Of a file of settings."""

WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (put it in quotes)",
}
"""What a value of each type is called before people."""
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 80, 80
# YAML 1.1 takes a power of ten without a decimal point, such as 1e-3, for text.
POWER_OF_TEN = re.compile(r"[+-]?\d+[eE][+-]?\d+")


def build(kind: type[Settings], given: Mapping[Any, Any], where: str = "") -> Settings:
    """Return settings of a kind from keys and values.

    Args:
        kind: A dataclass.
        given: Plain data, such as a YAML file holds.
        where: Key of `given` in what it is a part of, with a full stop after it.

    Raises:
        ServaxError: A key is unknown or missing, or a value is of the wrong kind or outside its
            rule.
    """
    hints = get_type_hints(kind)
    former = getattr(kind, FORMER, {})  # files keep the names that settings had at first
    given = {former.get(key, key): value for key, value in given.items()}
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            names = {new: old for old, new in former.items()}
            allowed = sorted(names.get(name, name) for name in known)
            hint = nearest(str(key), allowed)
            raise ServaxError(
                f"unknown key '{where}{key}', expected one of {', '.join(allowed)}.{hint}"
            )
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ServaxError(f"has no '{where}{name}', which must be given.")
    values = {key: _value(hints[key], value, f"{where}{key}") for key, value in given.items()}
    try:
        return kind(**values)
    except ServaxError as error:
        # The sentence begins with the name of a field; in a file its whole key is wanted.
        raise ServaxError(f"{where}{error}") from None


def _value(hint: Any, given: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if given is None and NoneType in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not NoneType]
        choices = [kind for kind in kinds if _is_choice(kind)]
        rest = [kind for kind in kinds if not _is_choice(kind)]
        words = [word for choice in choices for word in get_args(choice)]
        if given in words:
            return given
        if words and rest and isinstance(given, str):
            allowed = ", ".join(repr(word) for word in words)
            raise _misfit(where, given, f"{WORDS[rest[0]]} or {allowed}")
        if is_dataclass(given) and type(given) in kinds:
            return given  # built already, by one who knew which of several kinds is meant
        return _value((rest or choices)[0], given, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return build(hint, _mapping(given, where), f"{where}.")
    if origin is dict:
        entries = _mapping(given, where).items()
        return {_scalar(str, k, where): _value(arguments[1], v, f"{where}.{k}") for k, v in entries}
    if origin is tuple:
        if not isinstance(given, list):
            each = WORDS.get(arguments[0], "keys and values")
            raise _misfit(where, given, f"a list, each entry {each}")
        return tuple(_value(arguments[0], entry, f"an entry of {where}") for entry in given)
    if origin is Literal:
        if given not in arguments:
            if not isinstance(given, str):
                raise _misfit(where, given, f"one of {', '.join(sorted(arguments))}")
            raise SettingError.choice(where, given, arguments)
        return given
    return _scalar(hint, given, where)


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _mapping(given: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(given, dict):
        raise _misfit(where, given, "keys and values")
    return given


def _scalar(kind: type, given: object, where: str) -> Any:
    if kind is float and isinstance(given, str) and POWER_OF_TEN.fullmatch(given):
        return float(given)
    convert: Callable[[Any], Any] = kind
    fits = type(given) is kind or (kind is float and type(given) is int)
    if not fits:
        raise _misfit(where, given, WORDS[kind])
    return convert(given)


def _misfit(where: str, given: object, expected: str) -> ServaxError:
    # Cut short: a list in a file may be long, and aliases can make it longer than any memory.
    return ServaxError(f"{where} is {SHORT.repr(given)}, expected {expected}.")


class _Loader(yaml.SafeLoader):
    """YAML without code, in which no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node after looking at its keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _KeyTwiceError(key.value, key.start_mark.line + 1)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _KeyTwiceError(Exception):
    """A key stands twice in one mapping."""


def read_yaml(path: Path) -> dict[Any, Any]:
    """Return the keys and values in a YAML file.

    Raises:
        RecipeError: It is missing, too large, no YAML, has a key twice, or holds no keys.
    """
    if not path.is_file():
        raise RecipeError(path, "no such recipe; expected a YAML file such as recipes/*.yaml")
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(path, f"has {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise RecipeError(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(path, "is not UTF-8 text") from None
    except _KeyTwiceError as error:
        key, line = error.args
        raise RecipeError(path, f"has the key {key!r} twice (line {line}), expected once") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise RecipeError(path, f"is not YAML{where}") from None
    except RecursionError:
        raise RecipeError(path, "is nested too deeply") from None
    if not isinstance(given, dict):
        held = "nothing" if given is None else "no keys"
        raise RecipeError(path, f"holds {held}, expected keys and values such as 'name: trial'")
    return given
