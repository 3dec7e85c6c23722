"""Outside attacks with settings that are worth using: named constructors of `Outside`.

All are minimum-norm attacks. Settings are ours where the papers leave them open; lengths among them
are shares of the width of the bounds.
"""

from __future__ import annotations

import math

from servax.attacks.base import Norm, check_norm
from servax.attacks.outside.bridge import Outside
from servax.errors import SettingError
from servax.kinds import renamed, typed
from servax.perturbation import L2, Bounds, Linf

UNIT: Bounds = (0.0, 1.0)
"""The range of a scaled log-Mel."""
EVALUATIONS = 100
"""Points by which HopSkipJump's first step estimates a gradient, as published."""
SEARCH = 40
"""About what one step of HopSkipJump asks for beside that: step size and boundary."""


@renamed(radius="epsilon")
@typed
def deepfool(
    *, epsilon: float = 0.02, norm: Norm = Linf, steps: int = 50, bounds: Bounds = UNIT
) -> Outside:
    """Return DeepFool (Moosavi-Dezfooli et al. 2016) of foolbox: quick, and a little too far.

    It leads `steps` times to the nearest boundary of the model made linear, and 2 % beyond.
    """
    check_norm(norm)
    name = "LinfDeepFoolAttack" if norm is Linf else "L2DeepFoolAttack"
    return Outside(
        path=f"foolbox.attacks.{name}",
        epsilon=epsilon,
        norm=norm,
        bounds=bounds,
        settings={"steps": steps, "candidates": None},
    )


@renamed(radius="epsilon")
@typed
def carlini_wagner(
    *,
    epsilon: float = 0.5,
    steps: int = 100,
    searches: int = 9,
    bounds: Bounds = UNIT,
    targeted: bool = False,
) -> Outside:
    """Return the L2 attack of Carlini & Wagner (2017) of foolbox.

    Adam with `steps` steps for each of `searches` constants. Its steps are a third of the published
    ones, since log-Mels of many frames are fooled by changes far smaller than images are.
    """
    return Outside(
        path="foolbox.attacks.L2CarliniWagnerAttack",
        epsilon=epsilon,
        norm=L2,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps, "binary_search_steps": searches, "stepsize": 0.003},
    )


@renamed(radius="epsilon")
@typed
def fmn(
    *, epsilon: float = 0.02, steps: int = 100, bounds: Bounds = UNIT, targeted: bool = False
) -> Outside:
    """Return the fast minimum-norm attack (Pintor et al. 2021) of foolbox, L-inf.

    The L2 one of foolbox 3.3.4 does not project, and so is none: take `ddn`, or `nearest`.
    """
    return Outside(
        path="foolbox.attacks.LInfFMNAttack",
        epsilon=epsilon,
        norm=Linf,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps},
    )


@renamed(radius="epsilon")
@typed
def ddn(
    *, epsilon: float = 0.5, steps: int = 100, bounds: Bounds = UNIT, targeted: bool = False
) -> Outside:
    """Return decoupled direction and norm (Rony et al. 2019) of foolbox, L2.

    Its first guess is a tenth of the published one: 100 steps may shrink it 170 times.
    """
    return Outside(
        path="foolbox.attacks.DDNAttack",
        epsilon=epsilon,
        norm=L2,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps, "init_epsilon": 0.1},
    )


@renamed(radius="epsilon")
@typed
def nearest(
    *,
    epsilon: float,
    norm: Norm = Linf,
    steps: int = 100,
    bounds: Bounds = UNIT,
    targeted: bool = False,
) -> Outside:
    """Return the gradient attack that is best at small changes of a norm: `fmn`, in L2 `ddn`."""
    check_norm(norm)
    preset = fmn if norm is Linf else ddn
    return preset(epsilon=epsilon, steps=steps, bounds=bounds, targeted=targeted)


@renamed(radius="epsilon")
@typed
def fab(
    *,
    epsilon: float = 0.02,
    norm: Norm = Linf,
    steps: int = 100,
    restarts: int = 1,
    bounds: Bounds = UNIT,
    targeted: bool = False,
) -> Outside:
    """Return FAB (Croce & Hein 2020) of torchattacks, which has to be installed by itself."""
    return Outside(
        path="torchattacks.FAB",
        epsilon=epsilon,
        norm=norm,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps, "n_restarts": restarts},
    )


@renamed(radius="epsilon")
@typed
def hop_skip_jump(
    *,
    epsilon: float = 0.02,
    norm: Norm = Linf,
    queries: int = 5000,
    bounds: Bounds = UNIT,
    targeted: bool = False,
) -> Outside:
    """Return HopSkipJump (Chen et al. 2020) of foolbox: it is told decisions only.

    It takes as many steps as `queries` allow, about so many decisions for each utterance. That of
    ART asks about many points at once and so is quicker, but ends further away.
    """
    if queries < EVALUATIONS + SEARCH:
        raise SettingError("queries", queries, f"at least {EVALUATIONS + SEARCH}, one step")
    steps = _hop_skip_jump_steps(queries)
    return Outside(
        path="foolbox.attacks.HopSkipJumpAttack",
        epsilon=epsilon,
        norm=norm,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps, "initial_gradient_eval_steps": EVALUATIONS},
    )


@renamed(radius="epsilon")
@typed
def boundary(
    *, epsilon: float = 0.5, steps: int = 5000, bounds: Bounds = UNIT, targeted: bool = False
) -> Outside:
    """Return the boundary attack (Brendel et al. 2018) of foolbox: L2, told decisions only."""
    return Outside(
        path="foolbox.attacks.BoundaryAttack",
        epsilon=epsilon,
        norm=L2,
        bounds=bounds,
        targeted=targeted,
        settings={"steps": steps},
    )


@typed
def _hop_skip_jump_steps(queries: int) -> int:
    """Return how many steps a budget allows: step t estimates a gradient by 100 sqrt(t) points."""
    steps, cost = 0, 0.0
    while cost <= queries:
        steps += 1
        cost += EVALUATIONS * math.sqrt(steps) + SEARCH
    return steps - 1
