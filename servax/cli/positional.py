"""``servax report RUN_A RUN_B``: a second run without an option's name.

The parser knows positional arguments that are required, and no others.
"""

from __future__ import annotations

from collections.abc import Sequence

from servax.errors import SettingError

__all__ = ["second_run"]


def second_run(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which the second run of ``report`` is its ``--versus``.

    Args:
        arguments: As the parser gets them: options spelled out, flags with their value.

    Raises:
        SettingError: More than two runs.
    """
    given = list(arguments)
    if given[:1] != ["report"]:
        return given
    runs, others = [], []
    rest = iter(given[1:])
    for argument in rest:
        if not argument.startswith("-"):
            runs.append(argument)
        elif "=" in argument or argument in ("-h", "--help"):
            others.append(argument)
        else:
            others += [argument, *[value for value in [next(rest, None)] if value is not None]]
    if len(runs) > 2:
        raise SettingError("the number of runs", len(runs), "one to report on, or two to compare")
    return ["report", *runs[:1], *(f"--versus={run}" for run in runs[1:]), *others]
