"""Inputs on the far side of the boundary, where decision-based attacks begin."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from servax.attacks.problem import Problem
from servax.models import classes_of
from servax.training import drawn

NEIGHBOURS = 8
"""How many other utterances are tried."""
DRAWS = 20
"""How many draws of noise are tried."""


def starting_points(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return inputs (n, ...) that give the attacker what they want, and whether there is one, (n,).

    Tried are the nearest other utterances of the batch that the model already gives such a class
    (a draw of noise is seldom taken for another class than one), then uniform noise. What may not
    change is put back first. An utterance that is fooled already starts at itself.
    """
    x, low, high = problem.x, *problem.bounds
    starts, found = x.clone(), problem.fooled(problem.scores(x))
    for candidate in _candidates(problem):
        if bool(found.all()):
            break
        tried = problem.put_back(candidate)
        new = problem.fooled(problem.scores(tried)) & ~found
        starts[new] = tried[new]
        found |= new
    return starts.clamp(low, high), found


def _candidates(problem: Problem) -> Iterator[Tensor]:
    """Yield inputs (n, ...) that may do."""
    x = problem.x
    for neighbour in _neighbours(problem):
        yield x[neighbour]
    low, high = problem.bounds
    for _ in range(DRAWS):
        yield low + (high - low) * drawn(torch.rand, x.shape, problem.random(), x.dtype).to(
            x.device
        )


def _neighbours(problem: Problem) -> Tensor:
    """Return the places (NEIGHBOURS or fewer, n) of utterances that may do, the nearest first."""
    predicted = classes_of(problem.scores(problem.x))
    same = predicted.unsqueeze(0) == problem.y.unsqueeze(1)  # (n, n): that of j and that of i
    wanted = same if problem.targeted else ~same
    flat = problem.x.flatten(1)
    distance = torch.cdist(flat, flat).masked_fill(~wanted, float("inf"))
    return distance.argsort(dim=1)[:, :NEIGHBOURS].T
