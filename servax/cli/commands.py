"""From words to a command: a frozen dataclass whose fields are its options and do its work.

The parser learns options, units and defaults from the fields and their docstrings, and from those
of the settings that a command inherits. Only the module of the command that is called is loaded,
so that ``servax --help`` answers at once.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from servax import __version__
from servax.errors import SettingError

Settings = TypeVar("Settings")
Commands = Mapping[str, "str | Commands"]

ABOUT = """Vaccinate speech emotion recognition against adversarial attacks. Add --debug to any
command for a traceback, --quiet to hear of failures alone."""
COMMANDS: Commands = {
    "demo": "run:Demo",
    "corpus": {
        "": "Corpora: what is known, what is here, folds, download.",
        "list": "corpus:List",
        "info": "corpus:Info",
        "verify": "corpus:Verify",
        "folds": "corpus:Folds",
        "fetch": "corpus:Fetch",
    },
    "train": {
        "": "Train a recogniser, plainly or on adversarial inputs, a purifier or a denoiser.",
        "recogniser": "train:TrainRecogniser",
        "purifier": "train:TrainPurifier",
        "denoiser": "train:TrainDenoiser",
        "adversarial": "train:TrainAdversarial",
    },
    "attack": "sound:AttackSounds",
    "audit": "audit:Audit",
    "calibrate": "calibrate:Calibrate",
    "certify": "certify:Certify",
    "purify": "sound:Purify",
    "export": "export:Export",
    "run": "run:Run",
    "serve": "serve:Serve",
    "report": "run:Report",
}
"""Module and class of each command; of a group, its sentence and its commands."""


class Parser(ArgumentParser):
    """A parser whose help spells options with dashes, as they are typed."""

    def format_help(self, formatter: Any = None) -> str:
        """Return the help."""
        text: str = super().format_help(formatter)
        return re.sub(r"--\w+", lambda option: option[0].replace("_", "-"), text)


def parsed(words: Sequence[str]) -> Callable[[], int]:
    """Return the command that the words of a command line name, with its options.

    Raises:
        ArgumentError: There is no such command or option, or a value is of the wrong kind.
        SettingError: A value is outside its rule.
    """
    given = ["--out" if word == "-o" else word for word in words] or ["--help"]
    path, called = _called(given)
    if not isinstance(called, Mapping):
        command = loaded(called)
        given = [*path, *arranged(command, with_environment(command, given[len(path) :]))]
    parser = Parser(prog="servax", exit_on_error=False, description=ABOUT, version=__version__)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    _fill(parser, COMMANDS, given)
    found = parser.parse_args(given)
    names: str | Commands = COMMANDS
    while isinstance(names, Mapping):
        name = found["subcommand"]
        found, names = found[name], names[name]
    values = {key: value for key, value in found.items() if key != "config"}
    made: Callable[[], int] = loaded(names)(**values)
    return made


def listed(default: Any) -> Any:
    """Return a field whose words may stand behind its option with spaces or commas between."""
    return field(default=default, kw_only=True, metadata={"listed": True})


def operand(default: Any) -> Any:
    """Return a field that may also be given as one more word without an option's name."""
    return field(default=default, kw_only=True, metadata={"operand": True})


def part(kind: type[Settings], command: Any) -> Settings:
    """Return the settings of a kind that a command inherits the options of."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(command, name) for name in names})


def with_environment(command: type, words: Sequence[str]) -> list[str]:
    """Return the words of a command and, behind its file of settings, those of the environment.

    So the command line wins over the environment, and that over the file. A command has variables
    if it says how their names begin, as ``ENVIRONMENT``.
    """
    prefix, place = getattr(command, "ENVIRONMENT", None), 0
    if prefix is None:
        return list(words)
    names = {f"{prefix}{each.name.upper()}": each.name for each in fields(command)}
    found = [f"--{names[key]}={os.environ[key]}" for key in names if key in os.environ]
    for number, word in enumerate(words):
        if word.partition("=")[0] == "--config":
            place = number + (1 if "=" in word else 2)
    return [*words[:place], *found, *words[place:]]


def arranged(command: type, words: Sequence[str]) -> list[str]:
    """Return the words of a command as the parser knows them.

    Dashes in an option's name are underscores, a flag has its value, the words of a list are one
    word, and one more operand has the name of its option. A word belongs to a list unless it must
    be an operand: as many of the last words as the command lacks elsewhere.

    Raises:
        SettingError: There are too many operands.
    """
    hints, known = get_type_hints(command), fields(command)
    numbers = {name for name, hint in hints.items() if _is_list(hint)}
    lists = numbers | {each.name for each in known if each.metadata.get("listed")}
    needed = sum(each.default is MISSING and each.default_factory is MISSING for each in known)
    operands: list[str] = []
    options: list[list[str]] = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in lists and equals:
            options.append([f"--{name}", value])
        elif word.startswith("--") and (equals or hints.get(name) is bool):
            options.append([f"--{name}={value if equals else 'true'}", ""])
        elif word.startswith("--"):
            options.append([f"--{name}"])
        elif options and (options[-1][0][2:] in lists or len(options[-1]) == 1):
            options[-1].append(word)
        else:
            operands.append(word)
    for option in reversed(options):
        while option[0][2:] in lists and len(operands) < needed and len(option) > 2:
            operands.insert(0, option.pop())
    more = next((each.name for each in known if each.metadata.get("operand")), None)
    if more is not None and len(operands) > needed:
        if len(operands) > needed + 1:
            expected = "one to report on, or two to compare"
            raise SettingError("the number of runs", len(operands), expected)
        options.insert(0, [f"--{more}={operands.pop()}"])
    return [*operands, *(word for option in options for word in _joined(option, lists, numbers))]


def _joined(option: Sequence[str], lists: set[str], numbers: set[str]) -> list[str]:
    """Return an option whose words are one, where it is a list."""
    name, *words = option
    if name[2:] not in lists or not words:
        return [word for word in option if word]
    value = ",".join(word.strip(",") for word in words) if len(words) > 1 else words[0]
    if name[2:] in numbers and not value.startswith(("[", "(")):
        value = f"[{value}]"
    return [f"{name}={value}"]


def _is_list(hint: Any) -> bool:
    return tuple in (get_origin(hint), *map(get_origin, getattr(hint, "__args__", ())))


def _called(words: Sequence[str]) -> tuple[list[str], str | Commands]:
    """Return the first words as far as they name a command or a group, and what they name."""
    path: list[str] = []
    names: str | Commands = COMMANDS
    for word in words:
        if not isinstance(names, Mapping) or word not in names or not word:
            break
        path.append(word)
        names = names[word]
    return path, names


def _fill(parser: ArgumentParser, names: str | Commands, words: Sequence[str]) -> None:
    """Give a parser the options of a command or a group; what is not called is but named in it."""
    parser.add_argument("--config", action="config", help="Path to a configuration file.")
    if not isinstance(names, Mapping):
        parser.add_class_arguments(loaded(names), as_group=False, as_positional=True)
        return
    commands = parser.add_subcommands(required=True)
    configured = any(word.startswith("--config") for word in words[:1])
    for name, inner in names.items():
        if name:
            told = inner.get("") if isinstance(inner, Mapping) else _told(inner)
            below = Parser(exit_on_error=False, description=told)
            commands.add_subcommand(name, below, help=told)
            if configured or words[:1] == [name]:
                _fill(below, inner, words if configured else words[1:])


def _told(where: str) -> str:
    """Return the first sentence that a command says of itself, without loading it."""
    module, _, name = where.partition(":")
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    told = next(ast.get_docstring(node) for node in classes if node.name == name) or ""
    return " ".join(told.partition("\n\n")[0].split())


def loaded(where: str) -> Any:
    """Return what ``module:name`` names in this package, loaded now: help needs no more."""
    module, _, name = where.partition(":")
    return getattr(import_module(f"servax.cli.{module}"), name)
