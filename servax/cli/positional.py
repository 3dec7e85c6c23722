"""What the parser does not know: a second run without an option's name, and lists as people write.

``servax report RUN_A RUN_B``: the parser knows positional arguments that are required, and no
others. ``--defences a b`` and ``--defences a,b``: it knows one word for an option.
"""

from __future__ import annotations

from collections.abc import Sequence

from servax.errors import SettingError

__all__ = ["joined_lists", "second_run"]

LISTS = {
    "audit": ("--knowledge", "--defences", "--surrogates", "--attacks", "--labels", "--init"),
    "calibrate": ("--step_sizes", "--radii"),
}
"""Options that take a list, by command."""
BRACKETS = ("calibrate",)
"""Commands whose lists are of numbers, which the parser wants in brackets."""
OPERANDS = {"audit": 1, "calibrate": 2}
"""How many arguments without a name these commands take."""


def second_run(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which the second run of ``report`` is its ``--versus``.

    Args:
        arguments: As the parser gets them: options spelled out, flags with their value.

    Raises:
        SettingError: More than two runs.
    """
    if list(arguments[:1]) != ["report"]:
        return list(arguments)
    runs, groups = _grouped(arguments[1:])
    if len(runs) > 2:
        raise SettingError("the number of runs", len(runs), "one to report on, or two to compare")
    others = [word for group in groups for word in group]
    return ["report", *runs[:1], *(f"--versus={run}" for run in runs[1:]), *others]


def joined_lists(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which the words behind an option that takes a list are one word.

    A word belongs to the list unless it must be an argument without a name: as many of the last
    words as the command lacks elsewhere.

    Args:
        arguments: As the parser gets them: options spelled out, flags with their value.
    """
    command = arguments[0] if arguments else ""
    if command not in LISTS:
        return list(arguments)
    operands, groups = _grouped(arguments[1:], LISTS[command])
    for group in reversed(groups):
        while len(operands) < OPERANDS[command] and len(group) > 2:
            operands.insert(0, group.pop())
    joined = [_joined(command, group) for group in groups]
    return [command, *operands, *(word for group in joined for word in group)]


def _grouped(
    arguments: Sequence[str], lists: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Return the arguments without a name, and each option with its words."""
    operands: list[str] = []
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or argument == "-h":
            groups.append(
                list(argument.split("=", 1)) if argument.split("=")[0] in lists else [argument]
            )
        elif groups and (groups[-1][0] in lists or _lacks_value(groups[-1])):
            groups[-1].append(argument)
        else:
            operands.append(argument)
    return operands, groups


def _lacks_value(group: Sequence[str]) -> bool:
    return len(group) == 1 and "=" not in group[0] and group[0] not in ("-h", "--help")


def _joined(command: str, group: Sequence[str]) -> Sequence[str]:
    name, *words = group
    if name not in LISTS[command] or not words:
        return group
    listed = ",".join(word.strip(",") for word in words) if len(words) > 1 else words[0]
    if command in BRACKETS and not listed.startswith(("[", "(")):
        listed = f"[{listed}]"
    return [f"{name}={listed}"]
