"""A threat: an attack together with what the attacker knows, which has no default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from servax.attacks import FGSM, Attack
from servax.errors import SettingError
from servax.evaluation import records
from servax.perturbation import L2

Knowledge = Literal["oblivious", "transfer", "black_box", "bpda", "adaptive"]
KNOWLEDGE = cast("tuple[Knowledge, ...]", records.KNOWLEDGE[1:])
"""From the attacker who knows least of the defence to the one who knows all."""
MEANING = {
    "oblivious": "gradients of the bare model; the defence is not known",
    "transfer": "gradients of a surrogate with weights of its own; nothing else is known",
    "black_box": "answers of the defended model (scores or decisions); no gradients",
    "bpda": "the whole defended model, the identity in place of the defence's gradient",
    "adaptive": "the whole defended model, exact gradients (their mean over draws if random)",
}
"""What each attacker knows."""


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One attack by one kind of attacker."""

    name: str
    """Of the attack, in records and reports."""
    knowledge: Knowledge
    """What the attacker knows."""
    attack: Attack
    """What is done."""
    strength: float
    """Radius of the attack's ball (of its L2 budget relative to the sound for an SNR)."""
    gradients: int = 0
    """Gradients per utterance at most."""
    queries: int = 0
    """Forward passes per utterance at most, beside those of the gradients."""
    sweep: tuple[float, ...] = ()
    """Strengths that share one gradient (FGSM); `strength` is the last of them."""
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
    """Draws whose mean is one gradient, where the attack says so; 0 leaves it to the audit."""
    code: str = field(default="", repr=False)
    """Hash of the code of an attack that is not of servax."""

    def __post_init__(self) -> None:
        if self.knowledge not in KNOWLEDGE:
            raise SettingError.choice("knowledge", self.knowledge, KNOWLEDGE)
        if (self.knowledge == "transfer") != bool(self.surrogate):
            raise SettingError(
                "surrogate", self.surrogate, "a name for a transfer attack, and for no other"
            )
        if not self.strength > 0:
            raise SettingError("strength", self.strength, "a number above 0")

    def told(self, strength: float, *, space: str, draws: int = 1) -> dict[str, Any]:
        """Return what records say of the attack at one strength, beside its name.

        Args:
            strength: Radius of its ball.
            space: What it changes where it does not change the sound.
            draws: Draws whose mean is one gradient.
        """
        if self.waveform:
            return attack_columns(self.attack, strength, norm="l2", draws=draws, space="waveform")
        return attack_columns(self.attack, strength, draws=draws, space=space)


CLEAN = {
    "norm": "none",
    "epsilon": 0.0,
    "steps": 0,
    "step_size": 0.0,
    "restarts": 1,
    "draws": 1,
    "space": "logmel",
}
"""The columns of records that tell of an attack's settings, for clean input."""


def attack_columns(
    attack: Attack,
    epsilon: float,
    *,
    norm: str | None = None,
    steps: int | None = None,
    draws: int = 1,
    space: str = "logmel",
) -> dict[str, Any]:
    """Return the columns of records that tell of an attack's settings.

    Args:
        attack: The attack; restarts of one are told of as that one.
        epsilon: Size of its ball.
        norm: Of its ball, by default as the attack says.
        steps: How many it took, by default as the attack says; 0 for none.
        draws: Draws whose mean is one gradient.
        space: What it changes.
    """
    one = getattr(attack, "attack", attack)
    fast = isinstance(one, FGSM)
    return {
        "norm": norm or ("l2" if isinstance(attack.ball, L2) else "linf"),
        "epsilon": epsilon,
        "steps": int(getattr(one, "steps", fast) if steps is None else steps),
        "step_size": epsilon if fast else float(getattr(one, "step", 0.0)),
        "restarts": int(getattr(attack, "count", 1)),
        "draws": draws,
        "space": space,
    }


@dataclass(frozen=True, kw_only=True)
class OwnAttack:
    """An attack that is not of servax and joins those of a tier, through the whole system."""

    name: str
    """In records and reports."""
    attack: Attack
    """What is done."""
    code: str
    """Hash of its code: an attack that was changed is tried again."""


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
