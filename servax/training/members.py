"""Processes that live and fail together: started, waited for, ended; which failed first, and why.

A member that fails sends one sentence to the process that started it, and leaves at once, without
waiting for members that cannot answer any more. What came first is the cause; that the others lost
their connection to it is not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from servax.errors import ServaxError, closed

GRACE_SECONDS = 3.0
"""How long other members may take to say what they saw after one failed, and to end when told."""


@dataclass(frozen=True)
class Member:
    """One process, and where its last words arrive."""

    rank: int
    process: SpawnProcess
    words: Connection


@dataclass(frozen=True)
class Failure:
    """Why a member ended."""

    refused: bool
    """Whether it ended with a sentence of its own (a `ServaxError`)."""
    sentence: str
    exit_code: int
    """What the command line leaves with."""
    trace: str
    seconds: float
    """When, on the machine's clock."""


def start(work: Callable[..., object], arguments: tuple[object, ...], *, rank: int) -> Member:
    """Start a process that calls ``work(*arguments)``, with an interpreter of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_live, args=(work, arguments, there), name=f"servax {rank}", daemon=True
    )
    process.start()
    there.close()
    return Member(rank, process, here)


def wait_for_all(members: list[Member]) -> bool:
    """Return true when every member ended well, false as soon as one did not."""
    running = [member.process for member in members]
    while running:
        ended = wait([process.sentinel for process in running])
        for process in [process for process in running if process.sentinel in ended]:
            process.join()
            running.remove(process)
            if process.exitcode != 0:
                return False
    return True


def end(members: list[Member]) -> None:
    """End every member that still runs, by force if need be."""
    for member in members:
        member.process.terminate()
    _join(members)
    for member in members:
        if member.process.is_alive():
            member.process.kill()
        member.process.join()
        member.words.close()
        member.process.close()


def first_cause(members: list[Member], *, size: int) -> ServaxError:
    """Return what ended the team, after the other members had time to notice."""
    _join(members)
    failures = [
        (member, _last_words(member))
        for member in members
        if member.process.exitcode not in (None, 0)
    ]
    # A refusal is always a cause; so is a death without a word; then whatever came first.
    member, failure = min(
        failures, key=lambda f: (not f[1].refused, bool(f[1].trace), f[1].seconds)
    )
    sentence = failure.sentence
    if not failure.refused:
        sentence = f"process {member.rank + 1} of {size} {sentence}; the others were ended."
    error = ServaxError(closed(sentence))
    error.exit_code = failure.exit_code
    if failure.trace:
        error.add_note(failure.trace)  # shown with the traceback, by --debug
    return error


def _join(members: list[Member]) -> None:
    until = time.monotonic() + GRACE_SECONDS
    for member in members:
        member.process.join(max(0.0, until - time.monotonic()))


def _last_words(member: Member) -> Failure:
    try:
        if member.words.poll():
            return Failure(*member.words.recv())
    except (EOFError, OSError):
        pass
    code = member.process.exitcode or 0
    if code < 0:
        sentence = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        if -code == signal.SIGKILL:
            sentence += ", which is what happens when memory runs out"
    else:
        sentence = f"left with exit code {code} without a word"
    return Failure(False, sentence, 1, "", 0.0)


def _live(work: Callable[..., object], arguments: tuple[object, ...], words: Connection) -> None:
    """Do a member's work; leave with 0, or with last words and 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the starter, who ends us
    threading.Thread(target=_leave_with_starter, daemon=True).start()
    try:
        work(*arguments)
    except BaseException as error:
        refused = isinstance(error, ServaxError)
        first_line = next(iter(str(error).splitlines()), "")
        sentence = str(error) if refused else f"failed: {type(error).__name__}: {first_line}"
        trace = traceback.format_exc()[-20_000:]
        code = getattr(error, "exit_code", 1)
        words.send((refused, sentence, code, trace, time.monotonic()))
        sys.stderr.flush()
        os._exit(1)  # not by way of destructors, which wait for members that are gone


def _leave_with_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)
