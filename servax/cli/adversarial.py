"""``servax train adversarial``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from servax.cli.options import Groups
from servax.cli.processes import folder_of_main, main_bar, main_say
from servax.cli.training import FoldChoice, identity
from servax.defences.adversarial import (
    SCHEDULES,
    AdversarialTraining,
    MadryPGD,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.errors import SettingError
from servax.evaluation.grid import AttackGrid
from servax.experiments.adversarial import START, start_adversarial, train_adversarial
from servax.recognition import MODEL
from servax.training import Compute, Processes, Progress, current, launch, read_log
from servax.training.log import LOG_NAME

SINGLE_STEP = {"vanilla": Vanilla, "similarity": Similarity}
ITERATED = {"pgd-at": MadryPGD, "trades": Trades}


def adversarial(
    corpus: str,
    out: str,
    *,
    objective: str,
    epsilon: float | None,
    step: float | None,
    radius: float | None,
    steps: int | None,
    schedule: str,
    iterations: int | None,
    root: str | None,
    scheme: str,
    groups: Groups,
    held_out: int,
    width: int,
    seed: int,
    device: str,
    processes: Processes,
) -> int:
    """Train the plain part into ``out/start``, then each model into ``out/<name>/model``."""
    compute = Compute(device=device)
    kind = compute.resolve()  # a wrong device is refused before any work is done
    objectives = chosen_objectives(objective, epsilon, step=step, radius=radius, steps=steps)
    training = chosen_training(schedule, iterations)
    fold = FoldChoice(corpus, root, scheme, groups, held_out)
    work = partial(_adversarial, fold, out, objectives, training, width, seed, compute)
    launch(work, processes, device=kind, prepare=fold.parts)
    return 0


def _adversarial(
    fold: FoldChoice,
    out: str,
    objectives: list[Objective],
    training: AdversarialTraining,
    width: int,
    seed: int,
    compute: Compute,
) -> None:
    parts = fold.parts()
    common: dict[str, Any] = {"width": width, "training": asdict(training), "seed": seed}
    with folder_of_main(out) as folder:
        with main_bar("plain part") as update:
            start_adversarial(
                parts,
                width,
                training,
                folder / "start",
                seed=seed,
                settings=identity(parts, **common),
                compute=compute,
                progress=_counted(update, training.plain_iterations),
            )
        for chosen in objectives:
            with main_bar(chosen.name) as update:
                train_adversarial(
                    parts,
                    width,
                    chosen,
                    training,
                    folder / chosen.name,
                    start=folder / "start" / START,
                    seed=seed,
                    settings=identity(parts, objective=asdict(chosen), name=chosen.name, **common),
                    compute=compute,
                    progress=_counted(update, training.iterations - training.plain_iterations),
                )
    for chosen in objectives:
        if current().main:
            _tell(Path(out) / chosen.name)


def chosen_objectives(
    name: str,
    epsilon: float | None,
    *,
    step: float | None,
    radius: float | None,
    steps: int | None,
) -> list[Objective]:
    """Return the objectives that the options ask for: one for each ε of the paper by default.

    Raises:
        SettingError: An option is given that the objective does not have.
    """
    walk = {"step": step, "radius": radius, "steps": steps}
    given: dict[str, Any] = {key: value for key, value in walk.items() if value is not None}
    if name in ITERATED:
        if epsilon is not None:
            raise SettingError(
                "epsilon", epsilon, f"none with {name}, whose reach is given as --radius"
            )
        return [ITERATED[name](**given)]
    if given:
        key, value = next(iter(given.items()))
        raise SettingError(
            key, value, f"none with {name}, which takes one step of --epsilon; use pgd-at or trades"
        )
    sizes = AttackGrid().epsilons if epsilon is None else (epsilon,)
    return [SINGLE_STEP[name](size) for size in sizes]


def chosen_training(schedule: str, iterations: int | None) -> AdversarialTraining:
    """Return a named schedule; with other iterations its plain part keeps its share of them."""
    training = SCHEDULES[schedule]
    if iterations is None:
        return training
    if iterations < 1:
        raise SettingError("iterations", iterations, "a whole number of at least 1")
    plain = iterations * training.plain_iterations // training.iterations
    return replace(training, iterations=iterations, plain_iterations=plain)


def _counted(update: Callable[[int, int], None], iterations: int) -> Callable[[Progress], None]:
    """Return a progress callback of a part whose last epoch may be a short one."""
    return lambda p: update(p.epoch * p.steps + p.step, iterations)


def _tell(folder: Path) -> None:
    last = read_log(folder / LOG_NAME)[-1]
    main_say(
        f"validation UAR {last['validation/uar']:.3f} after {last['train/iteration']:.0f} "
        f"iterations: {folder / MODEL}"
    )
