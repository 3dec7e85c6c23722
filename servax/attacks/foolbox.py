"""Attacks of foolbox (Rauber et al. 2017, 2020), the minimum-norm ones above all, as ours.

Whatever foolbox does, this holds: the model is in evaluation mode, elements that may not change
have no gradient and keep their values, utterances that are wrong already never enter, random
numbers come from the generator and the global ones are as they were, and what comes back is inside
the ball and the bounds. foolbox sees inputs in [0, 1] whatever the bounds are, since not all of its
attacks honour others (HopSkipJump clamps to [0, 1]).
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, Given, Norm, Problem, check_norm
from servax.attacks.logits import logits_of
from servax.errors import ServaxError, SettingError, nearest
from servax.kinds import Choice, check, renamed, typed
from servax.models import classes_of
from servax.perturbation import L2, Bounds, Linf, into_reach, per_utterance
from servax.runtime.host import load_extra
from servax.training import drawn

Settings = Mapping[str, Any]
POWERS: Mapping[Norm, float] = {Linf: math.inf, L2: 2.0}
"""The p of each norm."""
GIVEN = frozenset({"constraint", "distance"})
"""Settings that follow from the norm."""
UNTARGETED = frozenset({"L2DeepFoolAttack", "LinfDeepFoolAttack"})
"""Attacks that take a target without a word and then lead anywhere; others refuse it."""
STARTED = frozenset(
    {
        "BinarizationRefinementAttack",
        "BoundaryAttack",
        "HopSkipJumpAttack",
        "L0BrendelBethgeAttack",
        "L1BrendelBethgeAttack",
        "L2BrendelBethgeAttack",
        "LinfinityBrendelBethgeAttack",
        "PointwiseAttack",
    }
)
"""Attacks that walk along the boundary from an input on its far side."""
ALONE = frozenset({"HopSkipJumpAttack"})
"""Attacks that divide by a norm over the whole batch: utterances must not enter together."""
BROKEN = {
    "L2FMNAttack": "its projection divides each norm by itself and does nothing; DDNAttack is sound"
}
"""Attacks that are wrong in foolbox 3.3.4, and why: their weakness would pass for robustness."""
ROUNDING = 1e-5
"""Share of epsilon that rounding may add to a change; that much is taken back."""
NEIGHBOURS, DRAWS = 8, 20
"""How many other utterances, then how many draws of noise, are tried as starting points."""

DEEPFOOL: Settings = {"steps": 50, "candidates": None}
JUMPS: Settings = {"initial_gradient_eval_steps": 100}
FMN = ("LInfFMNAttack", {"steps": 100})
DDN = ("DDNAttack", {"steps": 100, "init_epsilon": 0.1})
PRESETS: Mapping[str, Mapping[Norm, tuple[str, Settings]]] = {
    # Moosavi-Dezfooli et al. 2016: to the boundary of the model made linear, and 2 % beyond.
    "deepfool": {Linf: ("LinfDeepFoolAttack", DEEPFOOL), L2: ("L2DeepFoolAttack", DEEPFOOL)},
    # Carlini & Wagner 2017, Adam. Its steps are a third of the published ones, since log-Mels of
    # many frames are fooled by changes far smaller than images are.
    "carlini-wagner": {
        L2: ("L2CarliniWagnerAttack", {"steps": 100, "binary_search_steps": 9, "stepsize": 0.003})
    },
    # Pintor et al. 2021; Rony et al. 2019.
    "fmn": {Linf: FMN},
    "ddn": {L2: DDN},
    # The gradient attack that is best at small changes of a norm.
    "nearest": {Linf: FMN, L2: DDN},
    # Chen et al. 2020; Brendel et al. 2018. They are told decisions only.
    "hop-skip-jump": {Linf: ("HopSkipJumpAttack", JUMPS), L2: ("HopSkipJumpAttack", JUMPS)},
    "boundary": {L2: ("BoundaryAttack", {"steps": 5000})},
}
"""Minimum-norm attacks with settings worth using on log-Mels: class and settings, by norm.

Settings are ours where the papers leave them open; lengths are shares of the width of the bounds.
"""
JUMP_SEARCH = 40
"""About what one step of HopSkipJump asks for beside its gradient: step size and boundary."""


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class Foolbox(BallAttack):
    """An attack of foolbox; it needs the extra ``attacks``.

    A fixed-epsilon attack is given epsilon. A minimum-norm attack (DeepFool, Carlini & Wagner, FMN,
    HopSkipJump, ...) looks for the nearest input: where that is further away than epsilon, the
    attack has failed, and the clean input is its result. `distances` tells how far it is.

    Example:
        >>> Foolbox(attack="LinfPGD", settings={"steps": 10}).epsilon
        0.02
    """

    attack: str
    """Name of a class in `foolbox.attacks`."""
    settings: Settings = field(default_factory=dict, hash=False)
    """What else its constructor is given; foolbox sees inputs in [0, 1], so lengths among these
    (steps, step sizes) are shares of the width of `bounds`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm, tuple(POWERS))
        if self.sixteen_bit:
            raise SettingError("sixteen_bit", True, "False: foolbox rounds nothing on its way")
        self._check_attack()
        self._check_settings()

    @classmethod
    @typed
    def preset(
        cls,
        name: str,
        *,
        epsilon: float | None = None,
        norm: Norm | None = None,
        bounds: Bounds = (0.0, 1.0),
        targeted: bool = False,
        queries: int = 5000,
        **settings: Any,
    ) -> Self:
        """Return one of `PRESETS`, all of which are minimum-norm attacks.

        Args:
            name: Its key.
            epsilon: Size of the ball, in units of the input; default .02 in L-inf and .5 in L2.
            norm: `Linf` or `L2`; default L-inf where the attack knows it.
            bounds: As for every attack.
            targeted: As for every attack.
            queries: Of hop-skip-jump alone, about so many decisions for each utterance: it takes as
                many steps as these allow.
            settings: What is not as in the preset, such as ``steps``.

        Raises:
            SettingError: There is no such preset, or none of this norm.
        """
        Choice(PRESETS).check("preset", name)
        norm = next(iter(PRESETS[name])) if norm is None else norm
        check_norm(norm, tuple(POWERS))
        if norm not in PRESETS[name]:
            known = " or ".join(each.__name__ for each in PRESETS[name])
            raise SettingError("norm", norm.__name__, f"{known}, of {name}")
        attack, usual = PRESETS[name][norm]
        if attack == "HopSkipJumpAttack":
            settings = {"steps": jump_steps(queries), **settings}
        return cls(
            attack=attack,
            epsilon=(0.02 if norm is Linf else 0.5) if epsilon is None else epsilon,
            norm=norm,
            bounds=bounds,
            targeted=targeted,
            settings={**usual, **settings},
        )

    @property
    def minimum_norm(self) -> bool:
        """Whether the attack looks for the nearest input, instead of the worst one in the ball."""
        return not issubclass(self.kind, _foolbox().attacks.base.FixedEpsilonAttack)

    @property
    def kind(self) -> Any:
        """The class of foolbox."""
        attacks = _foolbox().attacks
        known = {
            name: kind
            for name, kind in inspect.getmembers(attacks, inspect.isclass)
            if issubclass(kind, attacks.Attack) and not inspect.isabstract(kind)
        }
        if self.attack not in known:
            hint = nearest(self.attack, list(known))
            raise SettingError("attack", self.attack, "the name of an attack of foolbox", hint=hint)
        return known[self.attack]

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the attack's result: foolbox does not show its steps."""
        ball = problem.within(self.ball)
        found = self._found(problem, epsilon=self.epsilon)
        if self.minimum_norm:
            near = ball.norm(found - problem.x) <= self.epsilon * (1 + ROUNDING)
            found = torch.where(per_utterance(near, found), found, problem.x)
        yield into_reach(problem.x, found, ball, problem.bounds)

    def distances(self, model: nn.Module, x: Tensor, y: Tensor, **given: Unpack[Given]) -> Tensor:
        """Return how far the nearest input is that fools the model, as far as the attack knows.

        Epsilon has no part in it. Arguments as for a call.

        Returns:
            Norms of the changes (B,), in units of the input: 0 for an utterance that needs no
            change, infinite where none was found.

        Raises:
            SettingError: The attack works inside a ball, or see a call.
        """
        if not self.minimum_norm:
            expected = "a minimum-norm attack: others do not look for the nearest input"
            raise SettingError("attack", self.attack, expected)
        if not all(map(math.isfinite, self.bounds)):
            raise SettingError("bounds", self.bounds, "finite ones, to look as far as they reach")
        with self.facing(model, x, y, **given) as problem:
            found = self._found(problem, epsilon=None)
            fooled = problem.fooled(problem.scores(found))
        return self.ball.around(problem.x).norm(found - problem.x).masked_fill(~fooled, math.inf)

    def _found(self, problem: Problem, *, epsilon: float | None) -> Tensor:
        """Return what foolbox found (B, ...), clean inputs where it failed."""
        problem = _bounded(problem, reach=max(epsilon or 0.0, 1e-3))
        seed = int(torch.randint(2**31 - 1, (1,), generator=problem.random()))
        starts, waiting = problem.x, ~problem.fooled(problem.scores(problem.x))
        if self.attack in STARTED:
            starts, have = starting_points(problem)
            waiting &= have
        rows = waiting.nonzero().flatten()
        found = problem.x.clone()
        if len(rows) > 0:
            found[rows] = self._of_each(problem.at(rows), starts[rows], epsilon, seed)
        return found

    def _of_each(
        self, problem: Problem, starts: Tensor, epsilon: float | None, seed: int
    ) -> Tensor:
        """Return what foolbox makes of all utterances, together if it can.

        Those that it raises an error on stay clean; where it does on all, that error is told.
        """
        if len(problem.x) > 1 and self.attack not in ALONE:
            try:
                return self._run(problem, starts, epsilon, seed)
            except ServaxError:
                raise
            except Exception:  # foolbox may raise anything; one by one tells on which
                pass
        found, errors = problem.x.clone(), []
        for row in range(len(problem.x)):
            this = torch.tensor([row], device=problem.x.device)
            try:
                found[this] = self._run(problem.at(this), starts[this], epsilon, seed + row)
            except ServaxError:
                raise
            except Exception as error:  # foolbox may raise anything
                # A walk along the boundary asserts that it is still there; rounding may lose it.
                if not (isinstance(error, AssertionError) and self.attack in STARTED):
                    errors.append(error)
        if len(errors) == len(problem.x):
            sentence = f"failed on every utterance: {type(errors[0]).__name__}: {errors[0]}"
            raise ServaxError(f"{self.attack} of foolbox {sentence}") from errors[0]
        return found

    def _run(self, problem: Problem, starts: Tensor, epsilon: float | None, seed: int) -> Tensor:
        """Return what foolbox makes of one batch (n, ...)."""
        foolbox, kind = _foolbox(), self.kind
        given: dict[str, Any] = {
            "constraint": "linf" if self.norm is Linf else "l2",
            "distance": foolbox.distances.LpDistance(POWERS[self.norm]),
        }
        given = {name: given[name] for name in given.keys() & _parameters(kind).keys()}
        aim = "TargetedMisclassification" if problem.targeted else "Misclassification"
        with torch.inference_mode(mode=False), torch.enable_grad():
            seen = ZeroToOne(problem)
            x = seen.inside(problem.x.clone())
            extra = {"starting_points": seen.inside(starts)} if self.attack in STARTED else {}
            with contained(problem.model, seed):
                _, found, _ = kind(**given, **self.settings)(
                    foolbox.PyTorchModel(seen, bounds=(0, 1), device=x.device),
                    x,
                    getattr(foolbox.criteria, aim)(problem.y.clone()),
                    epsilons=None if epsilon is None or self.minimum_norm else epsilon / seen.width,
                    **extra,
                )
            return seen.changed(found, x)

    def _check_attack(self) -> None:
        """Refuse what cannot be measured in the norm, a target of DeepFool, and broken attacks."""
        foolbox, kind = _foolbox(), self.kind
        if self.attack in BROKEN:
            raise SettingError("attack", self.attack, f"another one: {BROKEN[self.attack]}")
        if self.targeted and self.attack in UNTARGETED:
            raise SettingError("targeted", True, f"False: {self.attack} knows no target")
        if not issubclass(kind, foolbox.attacks.base.AttackWithDistance):
            raise SettingError("attack", self.attack, "an attack whose changes have a norm")
        distance: Any = getattr(kind, "distance", None)
        measured = isinstance(distance, foolbox.distances.LpDistance) and not self.minimum_norm
        if measured and distance.p != POWERS[self.norm]:
            expected = f"that of {self.attack}: it measures {distance}"
            raise SettingError("norm", self.norm.__name__, expected)

    def _check_settings(self) -> None:
        """Refuse a setting that the constructor does not know or that follows from the norm."""
        parameters = _parameters(self.kind)
        known = parameters.keys() - GIVEN
        for name, value in self.settings.items():
            if name in GIVEN:
                expected = "no such setting: it follows from norm"
                raise SettingError(f"settings[{name!r}]", value, expected)
            Choice(known).check(f"a setting of {self.attack}", name)
            kind = inspect.formatannotation(parameters[name].annotation)
            check(name, value, kind, whole=False)
        needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
        if missing := sorted(needed - self.settings.keys()):
            expected = f"a value for {', '.join(missing)}, which has no default"
            raise SettingError(f"settings of {self.attack}", dict(self.settings), expected)


def jump_steps(queries: int) -> int:
    """Return how many steps of HopSkipJump a budget allows: step t asks 100 sqrt(t) + 40 times."""
    first = JUMPS["initial_gradient_eval_steps"]
    if queries < first + JUMP_SEARCH:
        raise SettingError("queries", queries, f"at least {first + JUMP_SEARCH}, one step")
    cost = itertools.accumulate(first * math.sqrt(t) + JUMP_SEARCH for t in itertools.count(1))
    return sum(1 for _ in itertools.takewhile(lambda asked: asked <= queries, cost))


def starting_points(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return inputs (n, ...) that give the attacker what they want, and whether there is one, (n,).

    Tried are the nearest other utterances of the batch that the model already gives such a class
    (a draw of noise is seldom taken for another class than one), then uniform noise. What may not
    change is put back first. An utterance that is fooled already starts at itself.
    """
    x, (low, high) = problem.x, problem.bounds
    logits = problem.scores(x)
    starts, found = x.clone(), problem.fooled(logits)
    same = classes_of(logits).unsqueeze(0) == problem.y.unsqueeze(1)  # (n, n): of j, and of i
    wanted = same if problem.targeted else ~same
    distance = torch.cdist(x.flatten(1), x.flatten(1)).masked_fill(~wanted, math.inf)
    neighbours = distance.argsort(dim=1)[:, :NEIGHBOURS].T
    for attempt in range(len(neighbours) + DRAWS):
        if bool(found.all()):
            break
        if attempt < len(neighbours):
            candidate = x[neighbours[attempt]]
        else:
            uniform = drawn(torch.rand, x.shape, problem.random(), x.dtype).to(x.device)
            candidate = low + (high - low) * uniform
        tried = problem.put_back(candidate)
        new = problem.fooled(problem.scores(tried)) & ~found
        starts[new] = tried[new]
        found |= new
    return starts.clamp(low, high), found


class ZeroToOne(nn.Module):
    """A problem's model as foolbox sees it: on [0, 1], what may not change always put back."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.training = False
        self.model = problem.model
        self.problem = problem
        self.low, self.high = problem.bounds
        self.plain = problem.bounds == (0.0, 1.0)

    @property
    def width(self) -> float:
        """What a length of 1 is to foolbox, in units of the input."""
        return self.high - self.low

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (m, K) of inputs (m, ...) in [0, 1], m = n unless n is 1."""
        return logits_of(self.model, self._outside(z)).to(z.dtype)

    def inside(self, x: Tensor) -> Tensor:
        """Return inputs (n, ...) of the model as foolbox sees them, in [0, 1]."""
        return x if self.plain else ((x - self.low) / self.width).clamp(0.0, 1.0)

    def changed(self, z: Tensor, seen: Tensor) -> Tensor:
        """Return what foolbox made (n, ...) of the inputs it saw, as inputs of the model.

        What it left as it was keeps its exact value, and what is not finite is clean.
        """
        clean = self.problem.x
        moved = self._outside(z.detach().to(clean.device)).clamp(self.low, self.high)
        # There and back again is not exact in other bounds.
        moved = torch.where(z == seen.to(z.dtype), clean, moved)
        finite = moved.isfinite().flatten(1).all(dim=1)
        return torch.where(per_utterance(finite, moved), moved, clean)

    def _outside(self, z: Tensor) -> Tensor:
        """Return inputs (m, ...) in [0, 1] as the model sees them: no gradient outside the mask."""
        clean, mask = self.problem.x, self.problem.mask
        z = z.to(clean.dtype)
        z = z if self.plain else z * self.width + self.low
        if mask is None:
            return z
        if len(clean) not in (1, len(z)):  # caught: then utterances enter one by one
            raise RuntimeError(f"foolbox asks about {len(z)} of {len(clean)} inputs with a mask")
        return torch.where(mask, z, clean)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever foolbox asks for."""
        return self


@contextmanager
def contained(model: nn.Module, seed: int) -> Iterator[None]:
    """Let nothing of what happens in the block stay, and seed the global generators in it.

    No warning, no log handler (logging.info would install one for good), and no gradient of the
    model's own weights, to which the calls of backward() would add.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    numpy_state = np.random.get_state()  # noqa: NPY002
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            for weight in weights:
                weight.requires_grad_(False)
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        np.random.set_state(numpy_state)  # noqa: NPY002
        root.removeHandler(handler)


def _foolbox() -> ModuleType:
    """Return the package, or say how to install it."""
    foolbox: ModuleType = load_extra("foolbox", extra="attacks", what="an attack of foolbox")
    return foolbox


def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    """Return what the constructor of a class takes."""
    return inspect.signature(kind).parameters


def _bounded(problem: Problem, reach: float) -> Problem:
    """Return the same problem with finite bounds; inputs that may move by `reach` do not notice."""
    low, high = problem.bounds
    low = low if math.isfinite(low) else float(problem.x.min()) - reach
    high = high if math.isfinite(high) else float(problem.x.max()) + reach
    return replace(problem, bounds=(low, high))
