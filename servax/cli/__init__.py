"""The command line: strings become objects here and nowhere else."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from jsonargparse import ArgumentError

from servax.cli.commands import parsed
from servax.cli.output import QUIET, say
from servax.errors import ServaxError, closed

BAD_USE = 2
FAILED = 1
HEAVY = ("demo", "run", "train", "attack", "audit", "calibrate", "certify")
"""Commands whose process computes on large tensors and ends with it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: `docs/cli.md` says what each means."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever it cannot encode, as a name may be
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if "--quiet" in given:
        os.environ[QUIET] = "1"
    if arguments is None:
        sleep_while_waiting()
        if given[:1] and given[0] in HEAVY:
            from servax.runtime.processes import keep_freed_memory

            keep_freed_memory()
    try:
        return parsed([word for word in given if word not in ("--debug", "--quiet")])()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else BAD_USE
    except KeyboardInterrupt:
        return _refuse("interrupted; run the same command again to go on.", 130, debug=debug)
    except ArgumentError as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        return _refuse(" ".join(lines[:2]), BAD_USE, debug=debug)
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
        return _refuse(f"the model fails ({told}); {'; '.join(notes)}.", FAILED, debug=debug)
    finally:
        if "--quiet" in given:
            os.environ.pop(QUIET, None)


def _refuse(sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    say(f"servax: {closed(sentence)}")
    return code


def sleep_while_waiting() -> None:
    """Let threads sleep while they wait for each other, in this process and those it starts.

    OpenMP's threads spin instead. Where another process holds a core, or a container may use less
    than it sees, each then burns its share waiting for one that does not run: attacks took twice
    the CPU time (benchmarks/notes.md). It is decided when torch is loaded, so this comes before.
    A user's own choice stands, and a library must not decide it for its host.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
