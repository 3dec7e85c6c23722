"""What runs in a worker process; torch is loaded there and not in the server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from servax.errors import PathError, ServaxError
from servax.service.decoding import Decoded, decode
from servax.service.queue import Broke, Call, Done, Result, Task
from servax.service.responses import Refusal
from servax.service.settings import ServiceSettings

if TYPE_CHECKING:
    from servax.service.inference import Models

_loaded: list[Models] = []
"""Those of this process."""


class UnusableError(ServaxError):
    """A worker cannot load the networks: no worker ever will."""


def begin() -> None:
    """Prepare a worker: the server alone ends it, or the end of the server."""
    for each in (signal.SIGINT, signal.SIGTERM):  # a terminal and a supervisor send them to all
        signal.signal(each, signal.SIG_IGN)
    _silence_libraries()
    threading.Thread(target=_end_with_server, daemon=True).start()


def _silence_libraries() -> None:
    """Keep what C libraries write on stderr out of the log: libmpg123 quotes bytes of a bad MP3.

    What Python itself writes still goes there.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    if server is not None:
        connection.wait([server.sentinel])
        os._exit(1)


def load(purifier: str, recogniser: str) -> int:
    """Load the networks of this worker; return the id of its process.

    Raises:
        UnusableError: They are missing, broken or do not fit each other.
    """
    import torch

    from servax.service.inference import Models

    torch.set_num_threads(1)
    try:
        _loaded[:] = [Models.load(purifier, recogniser)]
    except ServaxError as error:
        unusable = UnusableError(str(error))
        unusable.exit_code = error.exit_code
        raise unusable from None
    return os.getpid()


def work(tasks: Sequence[Task], settings: ServiceSettings) -> list[Result]:
    """Return the result of each task, in their order; nothing is raised for any of them."""
    models = _loaded[0]
    results: dict[int, Result] = {}
    sounds: dict[int, Decoded] = {}  # to be classified at once
    for place, task in enumerate(tasks):
        if isinstance(task, Call):
            made = attempt(task.function, models, *task.arguments)
            results[place] = made if isinstance(made, Refusal | Broke) else Done(made)
            continue
        sound = attempt(decode, task.body, settings)
        if not isinstance(sound, Decoded):
            results[place] = sound
        elif task.kind == "classify":
            sounds[place] = sound
        else:
            made = attempt(models.purify, sound, task.container)
            results[place] = made if isinstance(made, Refusal | Broke) else Done(made, sound.facts)
    if sounds:
        found = attempt(models.classify, list(sounds.values()))
        for row, (place, sound) in enumerate(sounds.items()):
            results[place] = Done(found[row], sound.facts) if isinstance(found, list) else found
    return [results[place] for place in range(len(tasks))]


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, the refusal it raises, or where it broke."""
    try:
        return function(*arguments)
    except Refusal as refusal:
        return refusal
    except Exception as error:
        if isinstance(error, ServaxError) and not isinstance(error, PathError):
            return Refusal(422, "unusable", str(error))
        frames = traceback.extract_tb(error.__traceback__)
        return Broke(type(error).__name__, tuple(f"{f.name}:{f.lineno}" for f in frames))
