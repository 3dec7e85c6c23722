"""The same run side by side and on Ray: equal to the last bit, also when a process or node is lost.

The cluster is real: two nodes on loopback, begun with ``ray start``. Every process of it belongs to
a session of its own, which the test ends; ``ray stop`` would end those of others too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from servax.errors import CheckpointError, ServaxError, SettingError
from servax.evaluation import records
from servax.experiments import Finished, Recipe, load_recipe, run
from servax.experiments.fold import RunData
from servax.experiments.reading import build
from servax.experiments.run import Plan
from servax.stages import DONE, Order, ProcessEngine, RayEngine, Share, Watcher, engine
from servax.stages.engine import Errand, perform_errand
from servax.stages.ray_engine import check_room

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("without_figures")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2 and process groups")

COMMAND = "servax run small"
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
PATIENCE = 400
"""Seconds after which a process is taken to hang: far more than it needs on a busy machine."""
DRIVER = """
import sys, torch
from servax.errors import ServaxError
from servax.experiments import load_recipe, run
from servax.stages import ProcessEngine, RayEngine, ray_session
ray_session.JOIN_SECONDS = 300
torch.set_num_threads(1)
sys.modules["servax.experiments.run"].write_report = lambda *_, **__: None  # figures take seconds
recipe, out, address = sys.argv[1:]
try:
    engine = ProcessEngine(2) if address == "processes" else None
    engine = engine or RayEngine(address or None, cpus=None if address else 2)
    run(load_recipe(recipe), out, command="servax run small", engine=engine)
except ServaxError as error:
    sys.exit(str(error))
"""


class Notes(Watcher):
    """A watcher that remembers which stages were done already."""

    def __init__(self) -> None:
        self.cached: dict[str, bool] = {}

    def finish(self, stage: str, *, cached: bool) -> None:
        self.cached[stage] = cached


@pytest.fixture(scope="module")
def small_file(recipe_file: Path) -> Path:
    """Write a recipe of one fold, one purifier and one adversarial model."""
    text = recipe_file.read_text(encoding="utf-8").replace("held_out: [1, 3]", "held_out: [3]")
    text = re.sub(r"\n  ssad-residual: .*", "", text).replace(
        "[similarity, trades, smoothed]", "[trades]"
    )
    path = recipe_file.with_name("small.yaml")
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(small_file: Path) -> Recipe:
    return load_recipe(small_file)


@pytest.fixture(scope="module")
def local(
    small: Recipe, tmp_path_factory: pytest.TempPathFactory, without_figures: None
) -> tuple[Path, Finished]:
    """Return the run as this process does it."""
    folder = tmp_path_factory.mktemp("runs") / "local"
    return folder, run(small, folder, command=COMMAND)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Return the variables of all Ray's processes; its token and folders are the test's own."""
    # Not below pytest's folders: the path of a socket has 107 characters at most.
    home = Path(tempfile.mkdtemp(prefix="servax-"))
    (home / "token").write_text(secrets.token_hex(16), encoding="utf-8")
    yield {
        **os.environ,
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A lost node is noticed in seconds; a busy machine is no lost node.
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_raylet_start_wait_time_s": "60",
    }
    shutil.rmtree(home, ignore_errors=True)


class Processes:
    """Processes in sessions of their own, and what comes from them; all are ended."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.begun: list[subprocess.Popen[bytes]] = []

    def begin(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.begun.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def node(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a node of a cluster, with one CPU."""
        ray = str(Path(sys.executable).with_name("ray"))
        few = ("--num-cpus=1", "--object-store-memory=100000000", "--block")
        # On a busy machine a node gives up when its agents are not there within 15 seconds.
        for _ in range(6):
            process = self.begin(name, ray, "start", *options, *few)
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < deadline:
                if "will now block forever" in self.said(name):
                    return process
                time.sleep(0.1)
            kill(process)
        raise AssertionError(f"{name} never started:\n{self.said(name)}")

    def drive(
        self, name: str, recipe: Path, out: str, address: str = ""
    ) -> subprocess.Popen[bytes]:
        return self.begin(name, sys.executable, "-c", DRIVER, str(recipe), out, address)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it began, at once."""
    for pid in session_of(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)


def session_of(leader: int) -> list[int]:
    """Return the processes of the session that `leader` began."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(stat.parent.name))
    return found


@pytest.fixture
def processes(tmp_path: Path, environment: dict[str, str]) -> Iterator[Processes]:
    some = Processes(tmp_path, environment)
    yield some
    for process in some.begun:
        kill(process)


def free_port() -> int:
    # Below the ports that Ray gives to its workers (10002 to 19999).
    for port in range(6400, 9000):
        with socket.socket() as probe:
            try:
                probe.bind((HEAD, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def assert_same_run(folder: Path, local: tuple[Path, Finished]) -> None:
    """Assert that records, provenance, models and logs are those of the local engine."""
    table = records.read(folder / "records" / "fold-3.parquet")
    pd.testing.assert_frame_equal(table.frame, local[1].records.frame)
    # Whoever commits while the test runs changes this one thing.
    told, expected = dict(table.provenance), dict(local[1].records.provenance)
    assert {type(told.pop("commit")), type(expected.pop("commit"))} == {str}
    assert told == expected
    for kind in ("models/*/*", "logs/*", "example.npz"):
        found = sorted(local[0].glob(kind))
        assert found
        for path in found:
            name = path.relative_to(local[0])
            assert (folder / name).read_bytes() == path.read_bytes(), name


@linux
@pytest.mark.slow
def test_side_by_side_through_two_kills(
    small_file: Path, local: tuple[Path, Finished], processes: Processes, tmp_path: Path
) -> None:
    """A worker is killed, then the process that gave it work; nobody stays, and nothing is lost."""
    folder = tmp_path / "run"

    def at_work(name: str) -> tuple[subprocess.Popen[bytes], list[int]]:
        driver = processes.drive(name, small_file, str(folder), "processes")
        deadline = time.monotonic() + PATIENCE
        while not (workers := spawned(driver.pid)) or not checkpoints_since(folder, began):
            assert driver.poll() is None, processes.said(name)
            assert time.monotonic() < deadline, "no worker was ever at work"
            time.sleep(0.02)
        return driver, workers

    began = time.time()
    driver, workers = at_work("hurt")
    os.kill(workers[0], signal.SIGKILL)
    assert driver.wait(timeout=PATIENCE) == 1
    said = processes.said("hurt").strip()
    assert re.fullmatch(r"fold 3: \S+: its process was lost \(killed, or out of .* is kept\.", said)
    assert alone(driver.pid)

    began = time.time()
    driver, _ = at_work("killed")
    driver.kill()
    driver.wait(timeout=PATIENCE)
    assert alone(driver.pid)

    driver = processes.drive("whole", small_file, str(folder), "processes")
    assert driver.wait(timeout=PATIENCE) == 0, processes.said("whole")
    assert alone(driver.pid)
    assert_same_run(folder, local)


def spawned(driver: int) -> list[int]:
    """Return the workers that a process has begun."""
    found = []
    for pid in session_of(driver):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def checkpoints_since(run: Path, moment: float) -> list[Path]:
    """Return what trainings that are at work have written of late."""
    found = []
    for path in run.glob("stages/*/checkpoint.pt"):
        with suppress(OSError):
            if path.stat().st_mtime > moment:
                found.append(path)
    return found


def alone(leader: int) -> bool:
    """Tell whether all that a process began ends within seconds of it."""
    deadline = time.monotonic() + 20
    while session_of(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not session_of(leader)


def test_a_refusal_ends_what_is_beside_it(
    small: Recipe, local: tuple[Path, Finished], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(local[0] / "stages", folder / "stages")
    for stage in folder.glob("stages/*"):
        if not stage.name.startswith(("target-", "extractor-")):
            shutil.rmtree(stage)
    (weights,) = folder.glob("stages/extractor-*/model/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    notes = Steps()
    with pytest.raises(CheckpointError) as refused:
        run(small, tmp_path / "run", command=COMMAND)
    with pytest.raises(ServaxError, match=f"^{re.escape(str(refused.value))}$"):
        run(small, folder, command=COMMAND, watcher=notes, engine=ProcessEngine(2))
    assert not multiprocessing.active_children()
    assert set(notes.steps) <= set(notes.begun)
    assert "fold 3: target" not in notes.begun


class Steps(Watcher):
    """A watcher that remembers what began, and the steps of each stage."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.steps: dict[str, int] = {}

    def start(self, stage: str, steps: int) -> None:
        self.begun.append(stage)

    def advance(self, note: str = "", stage: str | None = None) -> None:
        name = stage or self.begun[-1]
        self.steps[name] = self.steps.get(name, 0) + 1


@linux
@pytest.mark.slow
def test_two_nodes_one_of_which_is_lost(
    small: Recipe,
    small_file: Path,
    local: tuple[Path, Finished],
    processes: Processes,
    tmp_path: Path,
) -> None:
    """The run lies behind a URL; the second node dies while it trains."""
    port = free_port()
    processes.node(
        "head", "--head", f"--port={port}", f"--node-ip-address={HEAD}", "--include-dashboard=false"
    )
    second = processes.node("second", f"--address={HEAD}:{port}", f"--node-ip-address={SECOND}")
    far = tmp_path / "far"
    driver = processes.drive("driver", small_file, far.as_uri(), f"{HEAD}:{port}")
    # Target, extractor and the adversarial start are ready at once, for two CPUs.
    stages = Path(os.environ["SERVAX_CACHE"])
    deadline = time.monotonic() + PATIENCE
    while not working(second, stages):
        assert driver.poll() is None, processes.said("driver")
        assert time.monotonic() < deadline, "the second node was never at work"
        time.sleep(0.02)
    kill(second)
    assert not (far / "records").exists()
    assert driver.wait(timeout=PATIENCE) == 0, processes.said("driver")
    assert_same_run(far, local)


def working(node: subprocess.Popen[bytes], cache: Path) -> bool:
    """Tell whether a worker of a node is performing a stage of a run below `cache`."""
    titles = []
    for pid in session_of(node.pid):
        with suppress(OSError):
            titles.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
    begun = any(cache.glob("runs/*/stages/*/*"))
    return begun and any(title.startswith("ray::fold 3") for title in titles)


@linux
@pytest.mark.slow
def test_ray_here_ends_as_the_local_engine(
    small: Recipe,
    small_file: Path,
    local: tuple[Path, Finished],
    processes: Processes,
    tmp_path: Path,
) -> None:
    """Ray goes on from what the local engine did, ends equal, and a refusal reads the same."""
    folder = tmp_path / "run"
    shutil.copytree(local[0] / "stages", folder / "stages")
    for stage in folder.glob("stages/*"):
        if not stage.name.startswith(("target-", "extractor-", "ssad-")):
            shutil.rmtree(stage)
    (weights,) = folder.glob("stages/extractor-*/model/weights.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    (done,) = folder.glob(f"stages/ssad-*/{DONE}")
    done.unlink()
    driver = processes.drive("refused", small_file, str(folder))
    assert driver.wait(timeout=PATIENCE) == 1
    with pytest.raises(CheckpointError) as refused:
        run(small, folder, command=COMMAND)
    assert processes.said("refused").strip() == str(refused.value)

    weights.write_bytes(whole)
    target = next(folder.glob(f"stages/target-*/{DONE}")).stat().st_mtime_ns
    driver = processes.drive("whole", small_file, str(folder))
    assert driver.wait(timeout=PATIENCE) == 0, processes.said("whole")
    assert next(folder.glob(f"stages/target-*/{DONE}")).stat().st_mtime_ns == target
    assert_same_run(folder, local)
    notes = Notes()
    run(small, folder, command="another", watcher=notes)
    assert all(notes.cached.values())


def test_ray_does_nothing_where_all_is_done(
    small: Recipe, local: tuple[Path, Finished], tmp_path: Path
) -> None:
    shutil.copytree(local[0], tmp_path / "run")
    notes = Notes()
    again = run(small, tmp_path / "run", command="another", watcher=notes, engine=RayEngine())
    assert notes.cached
    assert all(notes.cached.values())
    pd.testing.assert_frame_equal(again.records.frame, local[1].records.frame)
    assert again.records.provenance == local[1].records.provenance


def test_a_cluster_that_is_not_there() -> None:
    with socket.socket() as closed:  # bound, so that nobody else listens; never listening
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ServaxError, match=rf"^{address}: no Ray cluster can be joined there "):
            RayEngine(address)
    assert time.monotonic() - began < 20


def test_a_port_at_which_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servax.stages.ray_session.JOIN_SECONDS", 1)
    with socket.socket() as deaf:
        deaf.bind((HEAD, 0))
        deaf.listen()
        address = f"{HEAD}:{deaf.getsockname()[1]}"
        with pytest.raises(
            ServaxError, match=rf"^{address}: no Ray .* \(no answer in 1 s\); start"
        ):
            RayEngine(address)


@pytest.mark.parametrize("address", ["", "host", "host:port", ":6379", "host:70000", "ray://a:1"])
def test_no_address(address: str) -> None:
    with pytest.raises(SettingError, match=f"^address is '{address}', expected HOST:PORT of a"):
        RayEngine(address)


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ServaxError, match=r"install it with: pip install '\.\[ray\]' in its checkout, or "
    ):
        RayEngine()


def test_a_place_that_one_process_alone_sees(small: Recipe) -> None:
    with pytest.raises(ServaxError, match=r"^memory://servax/run: is seen by one process alone"):
        run(small, "memory://servax/run", command="x", engine=RayEngine())


def test_a_recipe_travels_as_text(small: Recipe, tmp_path: Path) -> None:
    from_text = build(Recipe, json.loads(json.dumps(asdict(small), default=list)))
    assert from_text == small


def ordered(recipe: Recipe, folder: Path) -> tuple[Order, Plan]:
    plan = Plan.of(RunData.of(recipe, folder, Watcher()), {"command": COMMAND})
    return plan.order(), plan


def test_another_corpus_on_the_worker_is_refused(small: Recipe, tmp_path: Path) -> None:
    order, plan = ordered(small, tmp_path)
    name = plan.tasks[0].stage.name
    refusal = perform_errand(Errand(order, str(tmp_path), name, "another", 1), Watcher())
    assert refusal is not None
    assert refusal.sentence == (
        f"{name}: this stage is another one on {socket.gethostname()}, expected the same servax "
        "and the same recordings on every machine."
    )


def test_a_folder_that_is_not_shared_is_refused(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, plan = ordered(small, tmp_path)
    refusal = perform_errand(
        Errand(order, str(tmp_path / "gone"), "fold 3: target", "", 1), Watcher()
    )
    assert refusal is not None
    assert refusal.sentence.startswith(f"{tmp_path}/gone: is not there on {socket.gethostname()};")
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 0.0)
    late = next(task for task in plan.tasks if task.needs).stage
    refusal = perform_errand(Errand(order, str(tmp_path), late.name, late.key, 1), Watcher())
    assert refusal is not None
    assert "was done by another machine, but its result is not seen on" in refusal.sentence


def test_relative_paths_are_those_of_the_driver(
    small: Recipe, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = replace(small.corpus, name=manifest.name)
    with monkeypatch.context() as patch:
        patch.chdir(manifest.parent)
        order, plan = ordered(replace(small, corpus=corpus), tmp_path)
    refusal = perform_errand(
        Errand(order, str(tmp_path), plan.tasks[0].stage.name, "", 1), Watcher()
    )
    assert refusal is not None
    assert "this stage is another one" in refusal.sentence
    threads = torch.get_num_threads()
    stage = plan.tasks[0].stage
    assert perform_errand(Errand(order, str(tmp_path), stage.name, stage.key, 1), Watcher()) is None
    assert stage.result() is not None
    assert torch.get_num_threads() == threads


class OneNode:
    """Stands for a Ray whose only living machine has two CPUs and no GPU."""

    def nodes(self) -> list[dict[str, object]]:
        large = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [large, {"Alive": True, "Resources": {"CPU": 2.0}}]


@pytest.mark.parametrize(
    ("share", "device", "sentence"),
    [
        (Share(cpus=3), "cpu", r"train.cpus is 3, expected at most 2, the CPUs of the largest"),
        (
            Share(gpus=0.5),
            "auto",
            r"train.gpus is 0.5, expected at most 0, the GPUs of the largest",
        ),
        (Share(), "cuda:0", r"train.gpus is 0.0, expected more than 0: compute.device is cuda:0"),
    ],
)
def test_a_share_that_no_machine_has_is_refused(
    small: Recipe, tmp_path: Path, share: Share, device: str, sentence: str
) -> None:
    _, plan = ordered(small, tmp_path)
    recipe = replace(
        small,
        resources=replace(small.resources, train=share),
        compute=replace(small.compute, device=device),
    )
    with pytest.raises(SettingError, match=rf"^resources\.{sentence}"):
        check_room(OneNode(), plan.tasks[:1], recipe.resources, recipe.compute.device)
