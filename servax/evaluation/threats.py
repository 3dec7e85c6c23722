"""A threat: an attack, how far it may go, what the attacker knows, and whom it is tried on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from servax.attacks import FGSM, Attack
from servax.attacks.base import Norm
from servax.defences import Mean
from servax.errors import SettingError
from servax.evaluation import records
from servax.kinds import POSITIVE, Choice, Rules, check_types
from servax.perturbation import L2, Bounds, Linf, SignalToNoise, ratio_of

Knowledge = Literal["oblivious", "transfer", "black_box", "bpda", "adaptive"]
KNOWLEDGE = cast("tuple[Knowledge, ...]", records.KNOWLEDGE[1:])
"""From the attacker who knows least of the defence to the one who knows all."""
NormName = Literal["linf", "l2", "snr"]
BALLS: Mapping[NormName, Norm] = {"linf": Linf, "l2": L2, "snr": SignalToNoise}
"""The kind of ball of each norm."""
LINF_OF_SOUND = 0.002
"""Largest change of a sample where an attack on sound is told no other budget (-54 dBFS)."""
MEANING = {
    "oblivious": "gradients of the bare model; the defence is not known",
    "transfer": "gradients of a surrogate with weights of its own; nothing else is known",
    "black_box": "answers of the defended model (scores or decisions); no gradients",
    "bpda": "the whole defended model, the identity in place of the defence's gradient",
    "adaptive": "the whole defended model, exact gradients (their mean over draws if random)",
}
"""What each attacker knows."""
CLEAN = {
    "norm": "none",
    "epsilon": 0.0,
    "steps": 0,
    "step_size": 0.0,
    "restarts": 1,
    "draws": 1,
}
"""What records say of the settings of no attack."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far an attacker may go."""

    radius: float = 0.02
    """Size of the ball, in units of the input; for a ratio a share of an utterance's norm."""
    norm: NormName = "linf"
    """Norm of the ball; `snr` is the L2 norm as a share of the utterance's own."""
    bounds: Bounds = (0.0, 1.0)
    """Range of valid inputs."""
    RULES: ClassVar[Rules] = {"radius": POSITIVE, "norm": Choice(BALLS)}

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def ball(self) -> Norm:
        """The kind of ball."""
        return BALLS[self.norm]

    @property
    def given(self) -> dict[str, Any]:
        """What attacks are given: norm, epsilon and bounds, of a ratio also that they round."""
        if self.norm != "snr":
            return {"norm": self.ball, "epsilon": self.radius, "bounds": self.bounds}
        decibels = abs(round(ratio_of(self.radius), 9))
        return {
            "norm": self.ball,
            "epsilon": decibels,
            "bounds": self.bounds,
            "sixteen_bit": True,
        }

    @property
    def unit(self) -> float:
        """What a step is told as a share of: the radius, or 1 where it is a share already."""
        return 1.0 if self.norm == "snr" else self.radius

    @property
    def same_for_all(self) -> Budget:
        """This budget, or L-inf of `LINF_OF_SOUND` in place of a ratio: one ball for all inputs."""
        return replace(self, norm="linf", radius=LINF_OF_SOUND) if self.norm == "snr" else self


@dataclass(frozen=True)
class Threat:
    """One attack by one kind of attacker."""

    name: str
    """Of the attack, in records and reports."""
    knowledge: Knowledge
    """What the attacker knows."""
    attack: Attack
    """What is done."""
    _: KW_ONLY
    gradients: int = 0
    """Gradients per utterance at most."""
    queries: int = 0
    """Forward passes per utterance at most, beside those of the gradients."""
    sweep: tuple[float, ...] = ()
    """Sizes of the ball that share work: one gradient (FGSM), or what fell to a smaller one; in dB
    where the ball is a ratio, whose strengths are shares of the utterance's norm then."""
    ks: tuple[int, ...] = ()
    """Steps of one trajectory after which it is scored; they are its strengths then."""
    others_up_to: float = field(default=float("inf"), repr=False)
    """Strength beyond which the source alone is scored, not who stands behind it."""
    everyone: bool = field(default=True, repr=False)
    """Whether an utterance is attacked too that the system gets wrong already; if not, it keeps its
    prediction and costs nothing."""
    kept: bool = False
    """Whether its inputs are kept, to be turned into sound afterwards; made to the end, since those
    of an attack that stops as soon as the model is fooled stand right at its border."""
    waveform: bool = False
    """Whether the sound is changed, though the model takes log-Mel."""
    surrogate: str = ""
    """Name of the surrogate (`transfer`)."""
    towards: str = field(default="", repr=False)
    """The class that it leads to, which the name tells; empty where any wrong one will do."""
    draws: int = field(default=0, repr=False)
    """Draws whose mean is one gradient; 0 for as many as a random system needs, or for one answer
    where only answers are asked for."""
    halved: bool = field(default=False, repr=False)
    """Whether it takes half as many, to see whether the others still gain anything."""
    mean: Mean = field(default="probabilities", repr=False)
    """What it takes the mean of over draws."""
    fixed: bool = field(default=False, repr=False)
    """Whether each step sees the same draws."""
    random_only: bool = field(default=False, repr=False)
    """Whether it is tried on random systems only."""
    if_random: Threat | None = field(default=None, repr=False)
    """What is tried in its place on a random system."""
    to_the_end: bool = field(default=False, repr=False)
    """Whether a sweep goes on with who fell in a smaller ball: a draw that errs may be luck."""
    code: str = field(default="", repr=False)
    """Hash of the code of an attack that is not of servax."""

    def __post_init__(self) -> None:
        if self.knowledge not in KNOWLEDGE:
            raise SettingError.choice("knowledge", self.knowledge, KNOWLEDGE)
        if (self.knowledge == "transfer") != bool(self.surrogate):
            raise SettingError(
                "surrogate", self.surrogate, "a name for a transfer attack, and for no other"
            )

    def on_random(self) -> Threat:
        """Return what is tried on a random system in its place.

        Everybody is attacked, and to the end: who is wrong in one draw may be right in the next,
        and an attack that leaves at the first draw that errs was lucky and stands at the border.
        """
        if self.if_random is not None:
            return self.if_random
        attack, everyone = _to_the_end(self.attack), self.everyone or not self.towards
        return replace(self, attack=attack, everyone=everyone, to_the_end=True)

    @property
    def epsilon(self) -> float:
        """Radius of its (largest) ball; for a ratio in dB a share of the sound's norm."""
        return self.attack.ball.radius

    @property
    def strengths(self) -> tuple[float, ...]:
        """What records call its strengths, the largest last."""
        if self.ks:
            return tuple(map(float, self.ks))
        if not self.sweep:
            return (self.epsilon,)
        return tuple(sized.ball.radius for sized in self.attack.of_sizes(self.sweep))

    @property
    def strength(self) -> float:
        """The last of its strengths."""
        return self.strengths[-1]

    def moved(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield (strength, attacked inputs); of a trajectory each step, scored or not.

        Arguments and errors as for a call of the attack.
        """
        if self.ks:
            walk = self.attack.trajectory(model, x, y, generator=generator, mask=mask)
            yield from ((float(k), moved) for k, moved in enumerate(walk, start=1))
        elif self.sweep:
            sizes = self.sweep
            leaves = False if self.to_the_end else None
            yield from self.attack.sweep(
                model, x, y, sizes, leaves=leaves, generator=generator, mask=mask
            )
        else:
            yield self.strength, self.attack(model, x, y, generator=generator, mask=mask)

    def ticks(self, count: int, batch_size: int) -> int:
        """Return how often the engine ticks for `count` utterances: once per batch, or its step."""
        return -(-count // batch_size) * (self.ks[-1] if self.ks else 1)

    def told(self, strength: float, *, space: str, draws: int) -> dict[str, Any]:
        """Return what records say of the attack at one strength, beside its name.

        Args:
            strength: One of its strengths.
            space: What the model takes.
            draws: Draws whose mean is one gradient.
        """
        one = getattr(self.attack, "attack", self.attack)  # restarts of one are told of as that one
        epsilon = self.epsilon if self.ks else strength
        steps = strength if self.ks else getattr(one, "steps", isinstance(one, FGSM))
        ball = self.attack.ball
        norm = next((name for name, kind in BALLS.items() if isinstance(ball, kind)), "linf")
        return {
            "norm": norm,
            "epsilon": epsilon,
            "steps": int(steps),
            "step_size": epsilon if isinstance(one, FGSM) else float(getattr(one, "step", 0.0)),
            "restarts": int(getattr(self.attack, "count", 1)),
            "draws": draws,
            "space": "waveform" if self.waveform else space,
        }


def _to_the_end(attack: Attack) -> Attack:
    """Return an attack that does not stop early, where it can be told so."""
    changes: dict[str, Any] = {"early_stop": False} if getattr(attack, "early_stop", False) else {}
    if isinstance(repeated := getattr(attack, "attack", None), Attack):
        changes["attack"] = _to_the_end(repeated)
    return replace(attack, **changes)


def known(names: str) -> tuple[Knowledge, ...]:
    """Return the attackers that an option names: ``all``, or names with commas between.

    Raises:
        SettingError: A name is unknown, or only attackers who do not know the defence are named:
            most published defences fell to the others.
    """
    if names == "all":
        return KNOWLEDGE
    given = [name.strip() for name in names.split(",") if name.strip()]
    for name in given:
        if name not in KNOWLEDGE:
            raise SettingError.choice("knowledge", name, ("all", *KNOWLEDGE))
    found = tuple(each for each in KNOWLEDGE if each in given)
    if not {"adaptive", "black_box"} & set(found):
        raise SettingError(
            "knowledge",
            names,
            "adaptive beside them (black_box for a model without gradients): results of attackers "
            "who do not know the defence say nothing when they stand alone",
        )
    return found
