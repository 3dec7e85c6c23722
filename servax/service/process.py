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
from servax.service.decoding import Decoded, Limits, decode
from servax.service.orders import (
    Broke,
    Call,
    Done,
    Heard,
    Loaded,
    NotLoaded,
    Order,
    Result,
    Task,
)
from servax.service.refusals import Refusal

if TYPE_CHECKING:
    from servax.service.computing import Computer

_computers: list[Computer] = []
"""The one of this process, once it has loaded."""


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


def load(purifier: str, recogniser: str) -> Loaded | NotLoaded:
    """Load the networks of this worker and say whether they can be used."""
    import torch

    from servax.service.computing import Computer
    from servax.service.models import Models

    torch.set_num_threads(1)
    try:
        models = Models.load(purifier, recogniser)
    except ServaxError as error:
        return NotLoaded(str(error), error.exit_code)
    _computers[:] = [Computer(models)]
    return Loaded(os.getpid(), models.recogniser.labels)


def work(tasks: Sequence[Task], limits: Limits) -> list[Result]:
    """Return the result of each task, in their order; nothing is raised for any of them."""
    computer = _computers[0]
    results: dict[int, Result] = {}
    sounds: dict[int, Decoded] = {}  # to be classified at once
    for place, task in enumerate(tasks):
        if isinstance(task, Call):
            results[place] = attempt(_called, computer, task)
        elif task.kind == "purify":
            results[place] = attempt(_purified, computer, task, limits)
        else:
            sound = attempt(decode, task.body, limits)
            if isinstance(sound, Decoded):
                sounds[place] = sound
            else:
                results[place] = sound
    if sounds:
        found = attempt(computer.classify, list(sounds.values()))
        for row, (place, sound) in enumerate(sounds.items()):
            results[place] = Done(found[row], heard(sound)) if isinstance(found, list) else found
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


def _purified(computer: Computer, task: Order, limits: Limits) -> Done:
    sound = decode(task.body, limits)
    return Done(computer.purify(sound, task.container), heard(sound))


def _called(computer: Computer, call: Call) -> Done:
    return Done(call.function(computer.models, *call.arguments))


def heard(sound: Decoded) -> Heard:
    """Return what may be said of a sound."""
    frames, channels = sound.samples.shape
    return Heard(frames / sound.rate, sound.rate, channels, sound.container)
