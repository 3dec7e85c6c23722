"""Self-supervised augmentation on the level of decisions, with mixed budgets.

As SSA, but what is raised is the divergence of a surrogate's own output (virtual adversarial
training, Miyato et al. 2018, eq. 5), not a distance of features: what moves a decision is what an
attack looks like. Still no label: the surrogate's output on the clean input is the reference.
Budgets and steps differ from utterance to utterance and from batch to batch, and some utterances
stay clean, so that the purifier learns to leave these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from servax.errors import SettingError
from servax.kinds import check_types, renamed, typed
from servax.perturbation import Linf, ascend, into_ball
from servax.training import drawn


@renamed(budget="epsilon")
@dataclass(frozen=True)
class DecisionSSA:
    """Settings of the augmentation."""

    epsilon: float = 0.04
    """Largest change of an element, on the [0, 1] scale (.04 is 3.2 dB); that of an utterance is
    uniform in [0, epsilon]."""
    steps: int = 4
    """Most ascent steps; those of a batch are uniform in 1 … steps."""
    clean_share: float = 0.25
    """Share of the utterances that are left as they are."""

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.epsilon <= 1:
            raise SettingError("epsilon", self.epsilon, "a number in (0, 1]")
        if self.steps < 1:
            raise SettingError("steps", self.steps, "a whole number of at least 1")
        if not 0 <= self.clean_share < 1:
            raise SettingError("clean_share", self.clean_share, "a share in [0, 1)")

    @typed
    def __call__(
        self, surrogate: nn.Module, x: Tensor, logits: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return distorted inputs (B, 1, M, F) on [0, 1], each within a budget of its own.

        Args:
            surrogate: From (B, 1, M, F) to logits (B, C), frozen and in evaluation mode.
            x: Clean inputs on [0, 1].
            logits: ``surrogate(x)``, (B, C), without gradients.
            generator: Draws budgets, steps, who stays clean, and the start.
        """
        each = torch.Size((len(x), 1, 1, 1))
        clean = drawn(torch.rand, each, generator, x.dtype) < self.clean_share
        budgets = (self.epsilon * drawn(torch.rand, each, generator, x.dtype)).masked_fill(clean, 0)
        budgets = budgets.to(x.device)
        steps = int(torch.randint(1, self.steps + 1, (), generator=generator))
        step = 1.0 / steps
        start = step * (2 * drawn(torch.rand, x.shape, generator, x.dtype) - 1).to(x.device)

        def change(unit: Tensor) -> Tensor:
            return (x + budgets * unit).clamp(0.0, 1.0)

        # In units of each utterance's budget, one ball serves all of them.
        unit = start
        for iterate in ascend(
            lambda moved: divergence(logits, surrogate(change(moved))),
            torch.zeros_like(x),
            Linf(1.0),
            step=step,
            steps=steps,
            start=start,
            bounds=(-1.0, 1.0),
        ):
            unit = iterate
        return into_ball(x, change(unit), Linf(self.epsilon))


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax reference ‖ softmax logits) of logits (B, C), one value each (B,)."""
    terms = kl_div(
        log_softmax(logits, 1), log_softmax(reference, 1), reduction="none", log_target=True
    )
    return terms.sum(1)
