"""Attacks of the user's own, by their class paths. This runs the user's code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from servax.attacks import Attack
from servax.errors import PathError, SettingError
from servax.evaluation.own_code import code, make
from servax.evaluation.threats import Budget, OwnAttack

NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
"""What attacks may be called: stages have folders of these names."""


def own_attacks(wanted: Sequence[str], budget: Budget, taken: Sequence[str]) -> list[OwnAttack]:
    """Return the attacks that an option names.

    Args:
        wanted: ``NAME=package.module:Name`` or the class path alone. The class is called with those
            of `epsilon`, `norm` and `bounds` that it takes.
        budget: How far it may go.
        taken: Names of the attacks of the tier.

    Raises:
        SettingError: A name is taken, or an attack has another ball than the audit.
        PathError: Nothing is found there, it fails, or it is no attack.
    """
    found: list[OwnAttack] = []
    for option in wanted:
        name, _, path = option.rpartition("=")
        if ":" not in path:
            raise SettingError("attack", option, "NAME=package.module:Name, a class path")
        name = name or path.partition(":")[2]
        if name in (*taken, *(each.name for each in found)) or not NAME.fullmatch(name):
            raise SettingError(
                "the name of an attack", name, "letters, digits, '-' and '_', as no other has it"
            )
        found.append(_own_attack(name, path, budget))
    return found


def _own_attack(name: str, path: str, budget: Budget) -> OwnAttack:
    # Classes written for servax 0.1 call their epsilon radius.
    sizes = {"epsilon": budget.radius, "radius": budget.radius}
    reach = {**sizes, "norm": budget.ball, "bounds": budget.bounds}
    module, attack = make(path, {}, offered=reach, what="attack")
    if not isinstance(attack, Attack):
        raise PathError(path, f"makes a {type(attack).__name__}, expected a servax.attacks.Attack")
    if attack.ball != budget.ball(budget.radius) or attack.bounds != budget.bounds:
        raise SettingError(
            "attack",
            path,
            f"one with the ball and the bounds of the audit, {budget.ball(budget.radius)} and "
            f"{budget.bounds}: take epsilon (norm, bounds) as settings",
        )
    return OwnAttack(
        name=name, attack=attack, code=hashlib.sha256(b"\0".join(code(module, attack))).hexdigest()
    )
