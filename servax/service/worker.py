"""One process that holds the networks: what runs in it, and how the server begins and ends it.

Each worker is a process pool of its own with one process in it: no pipe is shared, so the death of
one is the end of one pool alone. Tasks and results are plain values that travel by pickle; both
ends are processes of this service, and nothing that a client sent is ever unpickled. torch is
loaded in the workers and not in the server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from servax.errors import PathError, ServaxError, SettingError
from servax.purifier.files import cleaner_of
from servax.runtime.processes import end_with_parent
from servax.service.decoding import Decoded, decode
from servax.service.responses import (
    AttackMethod,
    Classification,
    Container,
    Knowledge,
    Purified,
    Refusal,
    Trial,
)
from servax.service.settings import ServiceSettings

if TYPE_CHECKING:
    from servax.service.inference import Models
    from servax.service.other_models import OtherModel
    from servax.service.purifying import Purifying

LOAD_SECONDS = 300.0
"""A machine may be busy; a worker that takes longer than this to load never will."""
_loaded: list[Purifying] = []
"""Those of this process."""


@dataclass(frozen=True)
class Task:
    """One sound and what is to be done with it."""

    work: Callable[[Any, list[Decoded]], Sequence[Any]]
    """Makes a result or a refusal of each sound; a function of the top level of a module, or a
    partial one."""
    body: bytes
    """The sound as it was sent."""
    settings: ServiceSettings
    """What decoding it may cost."""
    decode: Callable[[bytes, ServiceSettings], Decoded] = decode
    """Makes a sound of a body; a function of the top level of a module."""
    together: bool = False
    """Whether several are faster than one by one. A purified sound keeps its own length and level,
    so such sounds would only wait for each other."""


@dataclass(frozen=True)
class Done:
    """A task that succeeded."""

    content: Any
    """What its `work` made of its sound."""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What may be logged of its sound."""


@dataclass(frozen=True)
class Broke:
    """A task that raised what nobody foresaw.

    The message stays behind: it might quote samples.
    """

    error: str
    """Name of the exception's type."""
    where: tuple[str, ...]
    """Function and line of each frame, the innermost last."""


Result = Done | Refusal | Broke


def purify(models: Purifying, sounds: list[Decoded], container: Container) -> list[Purified]:
    """Return the purified sound of each sound, as a file."""
    return [models.purify(sound, container) for sound in sounds]


def purify_clip(models: Purifying, sounds: list[Decoded]) -> list[Any]:
    """Return the purified samples (T,) of each sound, which is no longer than a clip."""
    cleaner: Any = models.purifier
    return [cleaner.clip_at(sound.rate)(sound.samples[:, 0]) for sound in sounds]


def clip_seconds(models: Purifying, sounds: list[Decoded]) -> list[float | None]:
    """Return how long a clip is at most, for each sound; none where the purifier knows no clips."""
    return [getattr(models.purifier, "clip_seconds", None) for _ in sounds]


def classify(models: Models | OtherModel, sounds: list[Decoded]) -> list[Classification | Refusal]:
    """Return what the recogniser says about each sound, or that there is nothing to hear."""
    return models.classify(sounds)


def attack(
    models: Models,
    sounds: list[Decoded],
    method: AttackMethod,
    snr_db: float,
    knowledge: Knowledge,
) -> list[Trial]:
    """Return what an attacker gets of each sound."""
    from servax.service.attacking import trial

    return [trial(models, sound, method, snr_db, knowledge) for sound in sounds]


class UnusableError(ServaxError):
    """A worker cannot load the networks: no worker ever will."""


class WorkerLost(Exception):  # noqa: N818 - what happened, not what was wrong
    """The process of a worker died, or was killed because it took too long.

    Args:
        begun: Whether it may have begun with the tasks it was given.
    """

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Worker:
    """One process that holds the networks, as the server sees it: it may die at any moment.

    Args:
        settings: Of the service.
        on_death: Called in the event loop when the process has died.
    """

    def __init__(self, settings: ServiceSettings, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._on_death = on_death
        self._executor: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self.alive = False
        """Whether it has loaded and is not known to be dead."""

    @property
    def pid(self) -> int | None:
        """Return the id of its process, none while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> int:
        """Begin a process and load the networks in it; return its id.

        Raises:
            WorkerLost: It died meanwhile, or took too long.
            UnusableError: The networks are missing, broken or do not fit each other.
        """
        self.stop()
        before = {each.pid for each in multiprocessing.active_children()}
        executor = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
        )
        self._executor = executor
        try:
            future = executor.submit(_load, self._settings)
            # Without await between the two, no other worker can have begun one.
            begun = [each for each in multiprocessing.active_children() if each.pid not in before]
            self._process = begun[0] if begun else None
            pid = await asyncio.wait_for(asyncio.wrap_future(future), LOAD_SECONDS)
        except (BrokenProcessPool, TimeoutError, OSError):  # OSError: no room for a process
            self.stop()
            raise WorkerLost(begun=False) from None
        self.alive = True
        if self._process is not None:
            asyncio.get_running_loop().add_reader(self._process.sentinel, self._died)
        return pid

    async def work(self, tasks: Sequence[Task]) -> list[Result]:
        """Return the results of tasks, of which several have the same `work`.

        Raises:
            WorkerLost: The process died, or was killed after `work_seconds`.
        """
        begun = False
        try:
            if self._executor is None or not self.alive:
                raise WorkerLost(begun=False)
            future = self._executor.submit(_work, tuple(tasks))
            begun = True
            waiting = asyncio.wrap_future(future)
            return await asyncio.wait_for(waiting, self._settings.work_seconds)
        except (BrokenProcessPool, TimeoutError, WorkerLost):
            self.stop()
            raise WorkerLost(begun=begun) from None

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self._unwatch()
        self.alive = False
        if self._process is not None:
            # A process that was waited for already has a number that may be another's by now:
            # `kill` knows, `os.kill` does not.
            with suppress(ValueError, ProcessLookupError):
                self._process.kill()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._process = None

    def _unwatch(self) -> None:
        if self._process is not None and self.alive:
            asyncio.get_running_loop().remove_reader(self._process.sentinel)

    def _died(self) -> None:
        self._unwatch()
        self.alive = False
        self._on_death()


def _begin() -> None:
    """Prepare a worker: the server alone ends it, or the end of the server."""
    for each in (signal.SIGINT, signal.SIGTERM):  # a terminal and a supervisor send them to all
        signal.signal(each, signal.SIG_IGN)
    # What C libraries write on stderr stays out of the log: libmpg123 quotes bytes of a bad MP3.
    # What Python itself writes still goes there.
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    end_with_parent()


def _load(settings: ServiceSettings) -> int:
    """Load the networks of this worker; return the id of its process.

    Raises:
        UnusableError: They are missing, broken or do not fit each other.
    """
    try:
        _loaded[:] = [_purifying(settings) if settings.purify_only else _models(settings)]
    except ServaxError as error:
        unusable = UnusableError(str(error))
        unusable.exit_code = error.exit_code
        raise unusable from None
    return os.getpid()


def _purifying(settings: ServiceSettings) -> Purifying:
    from servax.service.purifying import Purifying

    loaded = Purifying(cleaner_of(settings.purifier, light=True))
    if "torch" in sys.modules:
        _one_thread()
    return loaded


def _models(settings: ServiceSettings) -> Models | OtherModel:
    from servax.evaluation.loading import HUB, folder_of
    from servax.recognition import EncoderRecogniser, Recogniser
    from servax.service.inference import Models
    from servax.service.other_models import OtherModel

    _one_thread()
    model, folder = settings.model, folder_of(settings.model)
    other = model.startswith(HUB) or folder.suffix == ".onnx" or (folder / "config.json").is_file()
    if other or isinstance(Recogniser.from_pretrained(folder), EncoderRecogniser):
        if settings.page:
            expected = "false: the page attacks recognisers of log-Mels; audit this one instead"
            raise SettingError("page", True, expected)
        return OtherModel.load(settings.purifier, model)
    return Models.load(settings.purifier, str(folder))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _work(tasks: Sequence[Task]) -> list[Result]:
    """Return the result of each task, in their order; nothing is raised for any of them."""
    results = [_attempt(task.decode, task.body, task.settings) for task in tasks]
    sounds = {i: each for i, each in enumerate(results) if isinstance(each, Decoded)}
    if sounds:
        made = _attempt(tasks[0].work, _loaded[0], list(sounds.values()))
        for row, (place, sound) in enumerate(sounds.items()):
            found = made if isinstance(made, Refusal | Broke) else made[row]
            failed = isinstance(found, Refusal | Broke)
            results[place] = found if failed else Done(found, sound.facts)
    return results


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
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
