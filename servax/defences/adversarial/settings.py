"""How long and how adversarial training runs; the schedule of [18] is the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from servax.errors import SettingError
from servax.features import SpecAugment
from servax.kinds import check_kind, check_types

Decay = Literal["none", "cosine"]


@dataclass(frozen=True)
class AdversarialTraining:
    """Settings of an adversarial training; the defaults are those of [18] (Ren et al. 2020).

    [18] counts iterations, not epochs, trains the first of them without adversarial inputs, and
    keeps the last weights. Its learning rate never falls: its published code reads "every 100
    iterations times .9" but compares in a way that is never true. Weight decay, class weights,
    SpecAugment and shifts are not in [18]; they are off by default, and one can give the model the
    very training that the undefended one had (`SCHEDULES["short"]`).
    """

    iterations: int = 10_000
    """Training steps in all."""
    plain_iterations: int = 1_000
    """The first of them, with plain cross-entropy on clean input."""
    batch_size: int = 16
    """Clean utterances per step."""
    learning_rate: float = 1e-3
    """Of Adam; with `decay`, its first value."""
    decay: Decay = "none"
    """`cosine` lets the learning rate fall to 0 over all iterations."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); 0 leaves Adam."""
    class_weights: bool = False
    """Weigh each class by the inverse of its share of the training utterances."""
    shift: bool = False
    """Roll each training utterance by a random number of frames."""
    augment: SpecAugment | None = None
    """Masks on the training input, before the attack; none switches them off."""

    def __post_init__(self) -> None:
        check_types(self)
        augment: Any = self.augment
        if isinstance(augment, dict):  # settings read back from JSON arrive as plain dicts
            object.__setattr__(self, "augment", SpecAugment(**augment))
        elif augment is not None:
            check_kind("augment", augment, SpecAugment)
        if self.iterations < 1:
            raise SettingError("iterations", self.iterations, "a whole number of at least 1")
        if not 0 <= self.plain_iterations < self.iterations:
            raise SettingError(
                "plain_iterations",
                self.plain_iterations,
                f"a whole number of at least 0 and below iterations ({self.iterations})",
            )
        if self.batch_size < 2:
            raise SettingError("batch_size", self.batch_size, "a whole number of at least 2")
        if not 0 < self.learning_rate <= 1:
            raise SettingError("learning_rate", self.learning_rate, "a number in (0, 1]")
        if self.decay not in ("none", "cosine"):
            raise SettingError.choice("decay", self.decay, ("none", "cosine"))
        if not 0 <= self.weight_decay < 1:
            raise SettingError("weight_decay", self.weight_decay, "a number in [0, 1)")


SCHEDULES: dict[str, AdversarialTraining] = {
    "ren2020": AdversarialTraining(),
    "short": AdversarialTraining(
        iterations=392,
        plain_iterations=280,
        decay="cosine",
        weight_decay=1e-4,
        class_weights=True,
        shift=True,
        augment=SpecAugment(),
    ),
}
"""`ren2020` is [18]'s; `short` is for a CPU: with the 448 training utterances of a RAVDESS fold,
ten epochs of plain and four of adversarial training, otherwise as recognisers are trained here."""
