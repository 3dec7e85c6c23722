"""A run killed with `kill -9` at twenty random moments ends as one that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
import torch

from servax.evaluation import records
from servax.experiments import load_recipe, provenance, run
from servax.stages import Watcher

KILLS = 20
PREPARING, PUBLISHING, REPORTING = "preparing", "publishing", "reporting"

PRELOADED = [__name__, "servax.experiments", "torch._dynamo", "pyarrow.dataset"]
"""The last two are loaded by the first optimiser and the first table."""

RECIPE = """
name: killed
corpus: {{name: {manifest}, scheme: four}}
groups: 3
held_out: [3]
seeds: [1]
width: 2
front_end: {{frames: 40}}
recogniser: {{epochs: 3, patience: 3, batch_size: 4, augment: {{time_width: 8, mel_width: 8}}}}
discriminator: {{channels: [2, 4], hidden: [8]}}
purifiers:
  ssad: {{epochs: 3, batch_size: 4, warmup_steps: 2, ssa: {{steps: 1}}}}
adversarial:
  objectives: [similarity]
  epsilons: [0.02]
  training: {{iterations: 8, plain_iterations: 4, batch_size: 4}}
controls: {{quantise_bits: [4]}}
attacks: {{epsilons: [0.02], step: 0.02, radius: 0.06, steps: 2, adaptive_steps: 3}}
batch_size: 4
compute: {{device: cpu}}
"""


class Telling(Watcher):
    """Tells its parent what begins, and is slow enough to be killed in the middle of it."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        self._parent.send("planned")

    def start(self, stage: str, steps: int) -> None:
        self._parent.send(stage)

    def advance(self, note: str = "", stage: str | None = None) -> None:
        time.sleep(0.01)


def live(recipe: Path, folder: Path, cache: Path, parent: Connection) -> None:
    """Run a recipe in a process of its own."""
    torch.set_num_threads(1)
    os.environ["SERVAX_CACHE"] = str(cache)
    with pytest.MonkeyPatch.context() as patch:
        # Whoever edits this repository while the test runs changes what `git status` says.
        patch.setattr(provenance, "commit", lambda: "a commit")
        module = __import__("servax.experiments.run", fromlist=["publish_plan"])
        for name, phase in (("publish_plan", PUBLISHING), ("write_report", REPORTING)):
            patch.setattr(module, name, told(getattr(module, name), parent, phase))
        parent.send(PREPARING)
        run(load_recipe(recipe), folder, command="servax run killed", watcher=Telling(parent))


def told(function, parent: Connection, phase: str):
    def telling(*arguments, **settings):
        parent.send(phase)
        return function(*arguments, **settings)

    return telling


class Lives:
    """Starts a recipe again and again."""

    def __init__(self, recipe: Path, folder: Path, cache: Path) -> None:
        self.given = (recipe, folder, cache)
        # Processes are forked from one that has loaded everything: a start takes no seconds.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def live(
        self, *, until: Sequence[str] = (), wait: float = 0.0
    ) -> tuple[dict[str, float], bool]:
        """Run until `wait` seconds after the first of some phases began, or to the end.

        Returns:
            Phase → seconds from its beginning to that of the next one; whether it was killed.
        """
        ours, theirs = self.context.Pipe(duplex=False)
        child = self.context.Process(target=live, args=(*self.given, theirs))
        child.start()
        theirs.close()
        began: list[tuple[str, float]] = []
        deadline = None
        while deadline is None or time.monotonic() < deadline:
            left = 120.0 if deadline is None else max(0.0, deadline - time.monotonic())
            if not ours.poll(left):
                break
            try:
                began.append((ours.recv(), time.monotonic()))
            except EOFError:  # it ended of itself
                child.join()
                break
            if deadline is None and began[-1][0] in until:
                deadline = began[-1][1] + wait
        child.kill()
        child.join()
        killed = child.exitcode == -9
        assert killed or child.exitcode == 0
        child.close()
        ours.close()
        ends = [moment for _, moment in began[1:]] + [time.monotonic()]
        spent = {name: end - at for (name, at), end in zip(began, ends, strict=True)}
        return spent, killed


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    """Return the content of files by their path in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern))}


def test_twenty_kills_change_nothing(manifest: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "killed.yaml"
    recipe.write_text(RECIPE.format(manifest=manifest), encoding="utf-8")
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    phases, killed = Lives(recipe, whole, tmp_path / "cache").live()
    assert not killed
    seed = random.SystemRandom().randrange(2**32)
    sys.stdout.write(f"seed of the kills: {seed}\n")  # shown when the test fails
    draws = random.Random(seed)
    # In an order in which each phase is still to come; what is only one of many is drawn.
    names = list(phases)
    attacks = [name for name in names if "adaptive" in name]
    sure = [name for name in names if name not in attacks]
    chosen = sorted(sure + draws.sample(attacks, KILLS - len(sure)), key=names.index)
    lives = Lives(recipe, hurt, tmp_path / "another-cache")
    hit = []
    for phase in chosen:
        # A life that was killed late may have done the phase; the next one to come serves as well.
        to_come, killed, scale = names[names.index(phase) :], False, 1.0
        while not killed:
            wait = draws.uniform(0.0, 1.0) * phases[phase] * scale
            seen, killed = lives.live(until=to_come, wait=wait)
            scale /= 2  # it came to its end before the kill
        hit.append(list(seen)[-1])
    assert len(hit) == KILLS
    assert len(set(hit)) >= len(names) // 2, hit
    assert hit[-1] == REPORTING
    assert not lives.live()[1]

    mine, theirs = (records.read(f / "records" / "fold-3.parquet") for f in (hurt, whole))
    pd.testing.assert_frame_equal(mine.frame, theirs.frame)
    assert mine.provenance == theirs.provenance
    for pattern in ("records/*", "models/*/*", "logs/*", "folds/*", "example.npz", "report/**/*.*"):
        expected = files(whole, pattern)
        assert expected
        assert files(hurt, pattern) == expected, pattern
