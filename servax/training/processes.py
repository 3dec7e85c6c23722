"""Starts the processes of one training, watches them, and ends all of them when one fails.

One process per GPU, or CPU processes (gloo) where the work runs on the CPU. Each finds its place in
the environment variables of torch.distributed, which accelerate reads: RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. A process that finds them set already, since
``torchrun`` or ``accelerate launch`` started it, joins the others instead of starting any.

Nothing hangs: a process that fails or is killed ends the training on its machine within seconds;
other machines see its connections close, at the latest after `PATIENCE`; a starting process that
dies takes its own along. A process that fails sends one sentence to the one that started it, and
leaves at once, without waiting for others that cannot answer any more. What came first is the
cause; that the others lost their connection to it is not.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from servax.errors import ServaxError, SettingError, closed
from servax.files import write_whole
from servax.kinds import COUNT, Rules, check_types
from servax.training.team import Team, become, current

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, at the start and in each exchange."""
GRACE_SECONDS = 3.0
"""How long other processes may take to say what they saw after one failed, and to end when told."""
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """How many processes train one model together, and where they meet."""

    devices: int = 1
    """Processes on this machine, one per GPU; on a CPU, CPU processes. They share each batch, and
    the steps are those of one process up to rounding."""
    nodes: int = 1
    """Machines, with as many processes each; the same command is started on each, with its
    node_rank."""
    node_rank: int | None = None
    """Which machine this is, from 0; default $NODE_RANK."""
    main_address: str | None = None
    """host:port where machine 0 is reached; default $MASTER_ADDR:$MASTER_PORT."""

    RULES: ClassVar[Rules] = {"devices": COUNT, "nodes": COUNT}

    def __post_init__(self) -> None:
        check_types(self)
        if self.nodes == 1:
            for name in ("node_rank", "main_address"):
                if getattr(self, name) is not None:
                    raise SettingError(
                        name, getattr(self, name), "none with one machine; give nodes too"
                    )

    @property
    def size(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.nodes

    def rank_of_node(self) -> int:
        """Return which machine this is.

        Raises:
            SettingError: It was not told, or is no machine of these.
        """
        rank = self.node_rank
        if rank is None and self.nodes > 1:
            found = os.environ.get("NODE_RANK", "")
            rank = int(found) if found.isdecimal() else None
        elif rank is None:
            rank = 0
        if rank is None or not 0 <= rank < self.nodes:
            raise SettingError(
                "node_rank",
                rank,
                f"a machine from 0 to {self.nodes - 1}, as an option or in NODE_RANK",
            )
        return rank

    def address(self) -> tuple[str, str]:
        """Return host and port where the processes meet.

        Raises:
            SettingError: Several machines were not told, or it is not ``host:port``.
        """
        if self.nodes == 1:
            return "127.0.0.1", str(_free_port())
        given = self.main_address
        if given is None and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            given = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        host, _, port = (given or "").rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65_536):
            raise SettingError(
                "main_address",
                given,
                "host:port of machine 0, as an option or in MASTER_ADDR and MASTER_PORT",
            )
        return host, port


def launch(
    work: Callable[[], object],
    processes: Processes | None = None,
    *,
    device: torch.device,
    prepare: Callable[[], object] | None = None,
) -> None:
    """Do `work` in every process of a team; in this very process when there is only one.

    Args:
        work: Called without arguments, in each process; `servax.training.team.current` tells it
            who it is. Several processes need one that can be pickled.
        processes: How many; default one.
        device: On what kind of device the work runs; `cpu` gives CPU processes.
        prepare: Called once on this machine before processes are started, e.g. to fill a cache.

    Raises:
        SettingError: There are not as many devices, or a machine's place was not told.
        ServaxError: A process failed; its own sentence, where it had one.
    """
    processes = processes or Processes()
    if found := _found_team(processes):
        _join_and_do(work, found, device, prepare)
    elif processes.size == 1:
        work()
    else:
        _refuse_devices(processes, device)
        places = _places(processes)
        if prepare is not None:
            prepare()
        _start_and_watch(work, places, device)


def _start_and_watch(
    work: Callable[[], object], places: list[dict[str, str]], device: torch.device
) -> None:
    with tempfile.TemporaryDirectory(prefix="servax-") as folder:
        members = start_processes(  # type: ignore[no-untyped-call]
            _live,
            (work, places, device.type, folder),
            len(places),
            join=False,
            daemon=True,
        )
        try:
            while not members.join(grace_period=GRACE_SECONDS):
                pass
        except ProcessExitedException as error:
            codes = [process.exitcode or 0 for process in members.processes]
            raise _cause(Path(folder), codes, error.error_index, places) from None
        finally:
            for process in members.processes:
                process.kill()
                process.join()


def _cause(folder: Path, codes: list[int], first: int, places: list[dict[str, str]]) -> ServaxError:
    """Return what ended the team: a refusal, else a death without a word, else what came first."""
    said = {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}
    said = dict(sorted(said.items(), key=lambda words: words[1]["seconds"]))
    refused = [number for number, words in said.items() if words["refused"]]
    # Those that were well when the first one ended were told to end.
    dead = [n for n, code in enumerate(codes) if code not in (0, -signal.SIGTERM) or n == first]
    number = [*refused, *(n for n in dead if n not in said), *said][0]
    words, code, place = said.get(number, {}), codes[number], places[number]
    sentence = words.get("sentence", f"left with exit code {code} without a word")
    if not words and code < 0:
        sentence = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        if -code == signal.SIGKILL:
            sentence += ", which is what happens when memory runs out"
    if not refused:
        which = f"process {int(place['RANK']) + 1} of {place['WORLD_SIZE']}"
        sentence = f"{which} {sentence}; the others were ended."
    found = ServaxError(closed(sentence))
    found.exit_code = words.get("exit_code", 1)
    if words:
        found.add_note(words["trace"])  # shown with the traceback, by --debug
    return found


def _live(
    number: int, work: Callable[[], object], places: list[dict[str, str]], kind: str, folder: str
) -> None:
    """Take a member's place in a team and do the work; leave with 0, or with last words and 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the starter, who ends us
    threading.Thread(target=_leave_with_starter, daemon=True).start()
    place = places[number]
    try:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if not threads.isdecimal():
            threads = str(max(1, (os.cpu_count() or 1) // int(place["LOCAL_WORLD_SIZE"])))
        torch.set_num_threads(int(threads))
        os.environ.update(place, OMP_NUM_THREADS=threads)
        rank, size, local = (int(place[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        _join_and_do(work, Team(rank, size, local), torch.device(kind))
    except BaseException as error:
        refused = isinstance(error, ServaxError)
        first_line = next(iter(str(error).splitlines()), "")
        words = {
            "refused": refused,
            "sentence": str(error) if refused else f"failed: {type(error).__name__}: {first_line}",
            "exit_code": getattr(error, "exit_code", 1),
            "trace": traceback.format_exc()[-20_000:],
            "seconds": time.monotonic(),
        }
        write_whole(Path(folder) / f"{number}.json", json.dumps(words).encode())
        sys.stderr.flush()
        os._exit(1)  # not by way of destructors, which wait for members that are gone


def _leave_with_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def _join_and_do(
    work: Callable[[], object],
    team: Team,
    device: torch.device,
    prepare: Callable[[], object] | None = None,
) -> None:
    from accelerate import PartialState

    try:
        state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:  # torch.distributed's errors are RuntimeErrors
        raise ServaxError(
            f"the {team.size} processes did not find each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"({str(error).splitlines()[0]}); start the same command on every machine."
        ) from error
    before = current()
    become(team)
    try:
        if prepare is not None:
            if team.local_rank == 0:
                prepare()
            state.wait_for_everyone()
        work()
        state.wait_for_everyone()
    finally:
        become(before)
    # Not after a failure: it waits for others who may never come.
    state.destroy_process_group()


def _found_team(processes: Processes) -> Team | None:
    """Return the team that another launcher gave this process a place in."""
    if current().size > 1 or not set(PLACE) <= os.environ.keys():
        return None
    rank, size, local = (int(os.environ[name]) for name in PLACE[:3])
    if size == 1:
        return None
    if processes.size not in (1, size):
        raise SettingError(
            "devices times nodes",
            processes.size,
            f"{size}, the processes that the launcher around this command started, or none",
        )
    return Team(rank, size, local)


def _refuse_devices(processes: Processes, device: torch.device) -> None:
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if str(device) != "cuda":
            raise SettingError(
                "device", str(device), "auto, cuda or cpu where several processes train"
            )
        if processes.devices > count:
            raise SettingError("devices", processes.devices, f"at most {count}, this machine's")


def _places(processes: Processes) -> list[dict[str, str]]:
    """Return the environment of each process of this machine."""
    node = processes.rank_of_node()
    host, port = processes.address()
    shared = {
        "WORLD_SIZE": str(processes.size),
        "LOCAL_WORLD_SIZE": str(processes.devices),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    if processes.nodes == 1 and (loopback := _loopback()):
        # One machine needs no network, and its own name may not resolve.
        shared["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", loopback)
    return [
        {**shared, "RANK": str(node * processes.devices + local), "LOCAL_RANK": str(local)}
        for local in range(processes.devices)
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _loopback() -> str | None:
    """Return the name of the loopback interface, where the system names its interfaces."""
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if name.startswith("lo")), None)
