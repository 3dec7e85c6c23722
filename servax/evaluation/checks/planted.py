"""The planted test: an adversarial input that is known to be there must be found.

Zimmermann et al. 2022, "Increasing Confidence in Adversarial Robustness Evaluations" (binarisation
test). For each utterance the model's last layer is replaced by a binary readout that tells points
near the clean input ("inner", within `INNER_SHARE` of the radius) from one on the edge of the ball
("boundary"). That one is an adversarial input by construction; an attack that does not find any is
too weak for this model, whatever its figures say.

Differs in: the readout is the separator of widest margin (see `servax.evaluation.checks.readout`);
boundary points of an L-inf ball are corners, the paper's harder variant for a random search; where
the features have too few dimensions for a boundary point to be separable, others are drawn. Behind
a random model the readout separates all draws of the planted points, its plane stands in the
middle, and several passes vote on each answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from servax.attacks import Attack, Problem, logits_of
from servax.errors import SettingError
from servax.evaluation.checks.case import Case, votes
from servax.evaluation.checks.declared import Check, Severity, Verdict, percent
from servax.evaluation.checks.readout import Features, Readout, separate
from servax.models import evaluating
from servax.perturbation import Ball, into_reach
from servax.training import drawn

ENOUGH = 0.95
"""Success rate from which an attack passes (the paper's)."""
INNER_SHARE = 0.95
"""Size of the ball of inner points, as a share of the radius (the paper's η)."""
CLOSENESS = 0.999
"""Where the readout's plane stands: 0 at the last inner point, 1 at the planted one."""
CANDIDATES = 10
"""How often a planted point is drawn anew where no plane separates it."""


@partial(Check, gradients=True, part=lambda count: max(2, count // 2))
def planted(case: Case, *, attack: Attack | None = None) -> Verdict:
    """Say whether the attack finds planted adversarial inputs.

    Each utterance is attacked alone, on its own readout. A random search draws as many points of
    the edge of the ball as the attack tried inputs; utterances where it succeeds are too easy and
    are left out. `passed`: the attack finds at least 95 % of the others. `error`: it finds fewer.
    `warning` instead where the model is random, whose draws can hide what was found, and there only
    from the second miss. `not-measured`: no utterance is left: none could be separated, or all are
    too easy.

    Args:
        case: The model; a defended one is one too.
        attack: Any untargeted attack that can face two classes, by default that of the case.

    Raises:
        SettingError: The attack is targeted.
    """
    # Who leaves at the first draw that errs was lucky: a random system is attacked to the end.
    attack = attack or replace(case.attack, early_stop=case.votes == 1)
    if attack.targeted:
        raise SettingError("targeted", True, "False: the planted class is led to from the other")
    model, x = case.faced, case.x
    problem = Problem(
        model=model,
        x=x.detach(),
        y=torch.zeros(len(x), dtype=torch.int64, device=x.device),
        mask=case.mask,
        bounds=attack.bounds,
        generator=case.generator,
    )
    with evaluating(model):
        features = Features(model, x[:2])
        parts = [problem.at(torch.tensor([i], device=x.device)) for i in range(len(x))]
        outcomes = [_outcome(features, part, attack, case) for part in parts]
    return _told([outcome for outcome in outcomes if outcome], len(x), case.votes)


@dataclass(frozen=True)
class _Outcome:
    found: bool
    by_chance: bool
    tries: int


def _outcome(features: Features, problem: Problem, attack: Attack, case: Case) -> _Outcome | None:
    """Return what attack and random search find for one utterance, or None without a readout."""
    ball = problem.within(attack.ball)
    readout = _readout(features, problem, ball, case)
    if readout is None:
        return None
    readout.eval()
    result = attack(readout, problem.x, problem.y, generator=problem.generator, mask=problem.mask)
    tries = max(1, readout.tries)
    guesses = _edge(problem, ball, tries)
    with torch.no_grad():
        found = bool(_called(readout, result, case.votes))
        by_chance = any(
            bool(_called(readout, part[readout(part).argmax(dim=1) == 1], case.votes).any())
            for part in torch.split(guesses, case.batch_size)
        )
    return _Outcome(found, by_chance, tries)


def _called(readout: Readout, x: Tensor, draws: int) -> Tensor:
    """Return which inputs (n, ...) most of `draws` passes call planted, bool (n,)."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    return votes(readout, x, draws).argmax(dim=1) == 1


def _readout(features: Features, problem: Problem, ball: Ball, case: Case) -> Readout | None:
    """Return a readout that calls its planted point adversarial and all inner ones not."""
    x, draws = problem.x, case.votes
    repeated = x.expand(case.inner_points, *x.shape[1:])
    inner = INNER_SHARE * ball.sample(repeated, problem.random())
    near = torch.cat([x, into_reach(x, x + inner, ball, problem.bounds)])
    far = _edge(problem, ball, CANDIDATES)
    with torch.no_grad():
        here, there = (
            torch.cat([features(part) for part in torch.split(points, case.batch_size)])
            .double()
            .cpu()
            .numpy()
            for points in (near, far.repeat_interleave(draws, dim=0))
        )
        parts = torch.split(near, case.batch_size)
        logits = torch.cat([logits_of(features.model, part) for part in parts])
    # The paper's "adaptive" scale: as large as the model's own logits, so that a model which is too
    # sure stays so.
    spread = float(logits.max() - logits.min())
    closeness = CLOSENESS if draws == 1 else 0.5
    groups = there.reshape(CANDIDATES, draws, -1)
    for points, corner in zip(groups, torch.split(far, 1), strict=True):
        plane = separate(here, points, closeness=closeness, spread=spread or 1.0)
        if plane is None:
            continue
        readout = Readout(features, plane, logits)
        # A plane through a few draws may tell their noise apart: others must say the same.
        if draws == 1 or (
            bool(_called(readout, corner, 4 * draws).all())
            and not bool(_called(readout, near, draws).any())
        ):
            return readout
    return None


def _edge(problem: Problem, ball: Ball, count: int) -> Tensor:
    """Return points (count, ...) of the edge of the ball: corners (L-inf) or directions (L2)."""
    x = problem.x
    shape = torch.Size((count, *x.shape[1:]))
    normal = drawn(torch.randn, shape, problem.random(), x.dtype).to(x.device)
    return into_reach(x, x + ball.radius * ball.steepest(normal), ball, problem.bounds)


def _told(outcomes: list[_Outcome], utterances: int, draws: int) -> Verdict:
    hard = [outcome for outcome in outcomes if not outcome.by_chance]
    evidence = {
        "utterances": utterances,
        "separated": len(outcomes),
        "too_easy": len(outcomes) - len(hard),
        "random_success_rate": _rate([outcome.by_chance for outcome in outcomes]),
        "success_rate_with_easy": _rate([outcome.found for outcome in outcomes]),
        "success_rate": _rate([outcome.found for outcome in hard]),
        "tries": max((outcome.tries for outcome in outcomes), default=0),
    }
    if not hard:
        told = (
            f"{len(outcomes)} of {utterances} utterances could be given a planted input that a "
            f"plane separates, and a random search finds {len(outcomes)} of those."
        )
        return "not-measured", told, evidence
    found = sum(outcome.found for outcome in hard)
    told = (
        f"The attack finds {found} of {len(hard)} planted inputs ({percent(found / len(hard))}) "
        f"that a random search with as many tries misses; {utterances - len(hard)} of {utterances} "
        "utterances were left out."
    )
    severity: Severity = "passed"
    if found / len(hard) < ENOUGH:
        severity = "error" if draws == 1 else "warning" if len(hard) - found > 1 else "passed"
    return severity, told, evidence


def _rate(outcomes: list[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None
