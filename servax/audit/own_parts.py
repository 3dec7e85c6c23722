"""A defence or an attack of the user's own, by its class path. This runs the user's code."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from servax.attacks import Attack
from servax.audit.subjects.fingerprint import of_model
from servax.audit.subjects.own_class import code, make
from servax.audit.subjects.probing import settled, zeros
from servax.audit.tiers import Budget
from servax.errors import PathError, SettingError
from servax.evaluation.systems import System
from servax.evaluation.threats import OwnAttack

NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
"""What attacks may be called: stages have folders of these names."""


def own_defence(path: str, subject: System) -> nn.Module:
    """Return the defence that ``package.module:Name`` makes.

    Raises:
        SettingError: `path` is no class path.
        PathError: Nothing is found there, it fails, or it is no module that keeps the shape of what
            the model takes.
    """
    _, made = make(path, {}, what="defence")
    if not isinstance(made, nn.Module):
        raise PathError(path, f"makes a {type(made).__name__}, expected a torch.nn.Module")
    defence = settled(made)
    one = zeros(subject.inputs, subject.sample_rate, subject.front_end, subject.seconds)
    x = torch.cat([one, one])
    expected = f"a defence that gives {subject.inputs} of the same shape and type"
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            y = defence(x.clone())
    except Exception as error:  # The user's code may raise anything.
        raise PathError(
            path,
            f"fails on two inputs of zeros {tuple(x.shape)}, expected {expected} "
            f"({type(error).__name__}: {error})",
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise PathError(path, f"turns {tuple(x.shape)} into {given}, expected {expected}")
    if y.dtype != x.dtype:
        raise PathError(path, f"turns {x.dtype} into {y.dtype}, expected {expected}")
    return defence


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
    return OwnAttack(name=name, attack=attack, code=_hash(code(module, attack)))


def code_of(path: str, made: nn.Module) -> str:
    """Return the hash of what decides the answers of a module made from a class path."""
    module = sys.modules[path.partition(":")[0]]
    return of_model(made, path.encode(), *code(module, made))


def _hash(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
