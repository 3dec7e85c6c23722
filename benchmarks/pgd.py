"""PGD on VGG-16, by servax and by torchattacks, foolbox and adversarial-robustness-toolbox.

All take the same steps from the same clean clips; another batch in each round. Each library attacks
the network as it was trained (``plain``) and, beside it, the folded copy that servax makes with
`servax.models.frozen` (``folded``): what remains there is the loop alone. servax is also timed with
gradients in bfloat16, its fast mode (`servax.attacks.FastGradients`). The UAR of the network under
each attack, in float32 for all, must be within half a point.

Needs foolbox, adversarial-robustness-toolbox, and torchattacks (``pip install --no-deps``).

    python benchmarks/pgd.py --model runs/bench-64/model --against torchattacks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from floor import Work, measure_rates, work_of
from harness import Row, Times, fastest, floor_told, parser, race, ratio, write
from subject import Subject, Turns, add_subject, subject
from torch import Tensor, nn

from servax.attacks import PGD, FastGradients
from servax.attacks.gradient import class_loss
from servax.errors import ServaxError
from servax.perturbation import input_gradient

PACKAGES = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")
TARGETS = {64: 1.3, 16: 1.7}
"""How many times faster servax has to be than the fastest library, by the network's width."""
FAST_TARGET = 2.0
"""The same for the fast mode."""
POINTS = 0.5
"""How far UARs may lie apart."""

Run = Callable[[Tensor, Tensor], Tensor]
"""From inputs (B, 1, M, F) and classes (B,) to adversarial inputs."""


def by_torchattacks(network: nn.Module, pgd: PGD) -> Run:
    """Return PGD of torchattacks."""
    import torchattacks  # type: ignore[import-untyped]

    attack = torchattacks.PGD(
        network, eps=pgd.epsilon, alpha=pgd.step, steps=pgd.steps, random_start=False
    )
    return lambda x, y: cast(Tensor, attack(x, y))


def by_foolbox(network: nn.Module, pgd: PGD) -> Run:
    """Return PGD of foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=pgd.bounds, device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=pgd.step, steps=pgd.steps, random_start=False)
    return lambda x, y: cast(Tensor, attack(model, x, y, epsilons=pgd.epsilon)[1])


def by_art(network: nn.Module, pgd: PGD) -> Run:
    """Return PGD of adversarial-robustness-toolbox, which takes and returns arrays."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    def run(x: Tensor, y: Tensor) -> Tensor:
        classifier = PyTorchClassifier(
            network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=pgd.bounds,
            device_type="cpu",
        )
        attack = ProjectedGradientDescent(
            classifier,
            eps=pgd.epsilon,
            eps_step=pgd.step,
            max_iter=pgd.steps,
            batch_size=len(x),
            verbose=False,
        )
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()).astype(np.float32))

    # A speech encoder has its classes in its head.
    classes = getattr(network, "head", network).settings.classes  # type: ignore[union-attr]
    return run


LIBRARIES: dict[str, Callable[[nn.Module, PGD], Run]] = {
    "torchattacks": by_torchattacks,
    "foolbox": by_foolbox,
    "art": by_art,
}


def contenders(given: argparse.Namespace, who: Subject, pgd: PGD) -> dict[str, Run]:
    """Return everyone who attacks, servax first."""
    every: dict[str, Run] = {"servax": lambda x, y: pgd(who.folded, x, y)}
    if not given.brief:
        quick = FastGradients(who.folded)
        every["servax bfloat16"] = lambda x, y: pgd(quick, x, y)
    for library in given.against:
        every[f"{library} plain"] = LIBRARIES[library](who.plain, pgd)
        if not given.brief:
            every[f"{library} folded"] = LIBRARIES[library](who.folded, pgd)
    return every


def work(who: Subject, pgd: PGD) -> Work:
    """Return the work of all steps on one batch: forwards, and backwards to the input alone."""
    x, y = who.batches[0]
    part = work_of(lambda: input_gradient(class_loss(who.folded, y[:2]), x[:2]))
    # Weights are read once for a batch, whatever its size: their bytes are not doubled.
    scaled = part.times(len(x) / 2)
    return Work(pgd.steps * scaled.operations, pgd.steps * scaled.bytes)


def rows(
    given: argparse.Namespace, who: Subject, times: dict[str, Times], uars: dict[str, float]
) -> list[Row]:
    """Return the rows of float32 and of the fast mode, against the fastest library."""
    width = who.recogniser.network.settings.width
    plain = {name: took for name, took in times.items() if name.endswith("plain")}
    rival = fastest(plain)
    folded = rival.replace("plain", "folded")
    exact = measure_rates()
    fast = None if given.brief else measure_rates(torch.bfloat16)
    needed = work(who, PGD(step=given.step, epsilon=given.radius, steps=given.steps))
    others = [library for library in given.against if library != rival.partition(" ")[0]]
    beaten = f", the fastest of it, {' and '.join(others)}" if others else ""
    made = []
    for name, target, rates in (
        ("servax", TARGETS.get(width), exact),
        ("servax bfloat16", FAST_TARGET, fast),
    ):
        if rates is None:
            continue
        found = ratio(times[rival], times[name])
        beside = ""
        if folded in times:
            of_medians = ratio(times[folded], times[name]).of_medians
            beside = f"; given our folded network {of_medians:.2f} ×"
        apart = abs(uars[name] - uars[rival])
        mode = ", fast mode (bfloat16 gradients)" if name != "servax" else ""
        made.append(
            Row(
                what=f"PGD-{given.steps}, VGG-16 of width {width}, batch {given.batch_size}{mode}",
                against=rival.partition(" ")[0] + beaten,
                target="—" if target is None else f"≥ {target:g} ×, UARs within {POINTS} points",
                measured=f"{found}; UARs {uars[name]:.1f} % and {uars[rival]:.1f} %{beside}",
                met=None if target is None else found.of_medians >= target and apart <= POINTS,
                floor=floor_told(needed, rates, times[name].seconds.median),
            )
        )
    given.rates = [exact] if fast is None else [exact, fast]
    return made


def main() -> int:
    """Run the benchmark; 0 when all targets are met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    who = subject(given, batches=given.rounds)
    pgd = PGD(step=given.step, epsilon=given.radius, steps=given.steps)
    every = contenders(given, who, pgd)
    times = race(
        {name: Turns(run, who.batches) for name, run in every.items()}, rounds=given.rounds
    )
    uars = {
        name: who.uar_of([cast(Tensor, each) for each in took.results])
        for name, took in times.items()
    }
    made = rows(given, who, times, uars)
    write(
        f"pgd-{who.recogniser.network.settings.width}{given.suffix}",
        made,
        times=times,
        rates=given.rates,
        packages=PACKAGES,
        folder=given.results,
        pgd={"step": pgd.step, "radius": pgd.epsilon, "steps": pgd.steps},
        clips=len(who.clips),
        clean_uar=who.clean_uar(),
        attacked_uar=uars,
    )
    for name, found in uars.items():
        print(f"{name:>34}: UAR {found:.2f} % under attack")
    return 0 if all(row.met in (True, None) for row in made) else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("PGD on VGG-16: servax and three libraries.")
    add_subject(made, batch_size=16)
    add = made.add_argument
    add("--steps", type=int, default=10, help="steps of PGD")
    add("--step", type=float, default=0.003, help="length of a step, on the [0, 1] scale")
    add("--radius", type=float, default=0.02, help="radius of the ball, on the [0, 1] scale")
    add("--against", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="which libraries")
    add(
        "--brief", action="store_true", help="without the fast mode and libraries given our network"
    )
    add("--suffix", default="", help="added to the result's name")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"pgd: {error}")
