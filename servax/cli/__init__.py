"""The command line: strings become objects here and nowhere else.

This module and `commands` load no torch, so that ``servax --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, auto_cli

from servax.cli.commands import COMMANDS
from servax.cli.positional import joined_lists, second_run
from servax.errors import ServaxError, closed

BAD_USE = 2
FAILED = 1
FLAGS = (
    "--json",
    "--overwrite",
    "--dry-run",
    "--status",
    "--masking",
    "--allow-open",
    "--page",
    "--int8",
)
"""Options that need no value."""
HEAVY = ("demo", "run", "train", "attack", "audit", "calibrate")
"""Commands whose process computes on large tensors and ends with it."""


class _Parser(ArgumentParser):
    """Shows each option's unit and default, and leaves errors to `main`."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        settings.setdefault("exit_on_error", False)
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: `docs/cli.md` says what each means."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever it cannot encode, as a name may be
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if arguments is None and given[:1] and given[0] in HEAVY:
        from servax.cli.memory import keep_freed_memory

        keep_freed_memory()
    given = [spelled(argument) for argument in given if argument != "--debug"]
    try:
        code = auto_cli(
            COMMANDS,
            args=joined_lists(second_run(given)) or ["--help"],
            prog="servax",
            parser_class=_Parser,
            description="Vaccinate speech emotion recognition against adversarial attacks. "
            "Add --debug to any command for a traceback.",
        )
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else BAD_USE
    except KeyboardInterrupt:
        return _refuse("interrupted; run the same command again to go on.", 130, debug=debug)
    except ArgumentError as error:
        return _refuse(_one_line(error), BAD_USE, debug=debug)
    except ServaxError as error:
        return _refuse(str(error), error.exit_code, debug=debug)
    except BrokenPipeError:
        # Whoever read our output has left; say nothing more, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}", FAILED, debug=debug)
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        if not notes:  # a fault of ours
            raise
        # A model of the user's own raised it, whatever it is.
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return _refuse(f"the model fails ({told}); {notes[0]}.", FAILED, debug=debug)
    return int(code or 0)


def spelled(argument: str) -> str:
    """Return an option as the parser knows it: ``-o`` is ``--out``, dashes are underscores."""
    if argument == "-o":
        return "--out"
    if argument in FLAGS:
        return f"--{argument[2:].replace('-', '_')}=true"
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _refuse(sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    from servax.cli.output import say

    say(f"servax: {closed(sentence)}")
    return code


def _one_line(error: Exception) -> str:
    """Return a parser's message as one sentence."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
