"""What an attack faces: a model, inputs, classes, what may change, and the losses it may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from servax.errors import ServaxError, SettingError, ShapeError
from servax.models import classes_of
from servax.perturbation import Ball, Bounds, Masked, Objective

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, K) and classes (n,) to a value (n,) that rises as the model leaves the class."""
LossName = Literal["cross-entropy", "margin", "dlr"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One batch as an attack sees it; `at` gives the part of it that is still open."""

    model: nn.Module
    """From inputs (n, ...) to logits (n, K), in evaluation mode."""
    x: Tensor
    """Clean inputs (n, ...), inside the bounds."""
    y: Tensor
    """Classes (n,) to lead away from; to lead towards when `targeted`."""
    mask: Tensor | None = None
    """Where an input may change, bool, broadcastable to `x`; None is everywhere."""
    targeted: bool = False
    """Whether `y` is wanted instead of avoided."""
    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    generator: torch.Generator | None = None
    """Draws whatever is random."""

    def at(self, rows: Tensor) -> Problem:
        """Return the problem of the utterances `rows` (m,), int64 or bool."""
        mask = self.mask
        if mask is not None and mask.ndim == self.x.ndim and len(mask) == len(self.x):
            mask = mask[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], mask=mask)

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits (n, K) of inputs (n, ...), or refuse what the model returned.

        Raises:
            SettingError: The output is no tensor, or a class is not one of the model's: torch would
                take -100 for "ignore", and the attack would do nothing.
            ShapeError: The output is not (n, K).
        """
        logits = logits_of(self.model, z)
        lowest, highest = int(self.y.min()), int(self.y.max())
        if not (lowest >= 0 and highest < logits.shape[1]):
            raise SettingError(
                "y", f"in [{lowest}, {highest}]", f"classes in [0, {logits.shape[1] - 1}]"
            )
        return logits

    def scores(self, z: Tensor) -> Tensor:
        """Return the logits (n, K) without gradients."""
        # Not inference mode: losses of scores may be compared with those of gradients later.
        with torch.no_grad():
            return self.logits(z)

    def fooled(self, logits: Tensor) -> Tensor:
        """Return whether the attacker has what they want, bool (n,).

        Raises:
            ServaxError: An answer is NaN or infinite: it is neither right nor fooled.
        """
        predicted = classes_of(logits)
        return predicted == self.y if self.targeted else predicted != self.y

    def gain(self, loss: Loss, logits: Tensor) -> Tensor:
        """Return what the attacker raises, (n,): the loss, or minus it when targeted."""
        # A copy, since a tensor made in inference mode could not be saved for the backward pass.
        value = loss(logits, self.y.clone())
        return -value if self.targeted else value

    def objective(self, loss: Loss) -> Objective:
        """Return the objective for `servax.perturbation.ascend`."""
        return lambda z: self.gain(loss, self.logits(z))

    def within(self, ball: Ball) -> Ball:
        """Return `ball`, restricted to where the inputs may change."""
        return ball if self.mask is None else Masked(ball, self.mask)

    def put_back(self, z: Tensor) -> Tensor:
        """Return inputs (n, ...) with the clean values where nothing may change."""
        return z if self.mask is None else torch.where(self.mask, z, self.x)

    def random(self) -> torch.Generator:
        """Return the generator, or raise a SettingError: the attack is random."""
        if self.generator is None:
            raise SettingError("generator", None, "a torch.Generator, the attack is random")
        return self.generator


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits (B, C), or refuse what it returned instead.

    The model gets a copy: many write into their input (``x.clamp_``, ``nn.ReLU(inplace=True)``),
    which would change the caller's and stop the gradient at a leaf.

    Raises:
        SettingError, ShapeError: It returns no logits.
        ServaxError: It ends the program. What else it raises is passed on with a note.
    """
    try:
        logits = model(x.clone())
    except SystemExit as error:
        raise ServaxError(f"the model ends the program (SystemExit: {error}).") from None
    except ServaxError:
        raise
    except Exception as error:  # of whatever kind; it stays that, with a note for the reader
        error.add_note(f"the model was given inputs {tuple(x.shape)}")
        raise
    if not isinstance(logits, Tensor):
        raise SettingError(
            "the model's output", type(logits).__name__, f"a tensor of logits ({len(x)}, C)"
        )
    if logits.ndim != 2 or len(logits) != len(x):
        raise ShapeError("the model's output", logits.shape, f"logits ({len(x)}, C)")
    return logits


# Losses. All may be read for any K >= 2, and grow as the logits (n, K) leave the classes (n,).
# `fooled` means that another class has the highest logit: there all but the first cross zero.


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each input, (n,)."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the highest other logit minus that of `y`, (n,) (Carlini & Wagner 2017, f6)."""
    own = _at(logits, y)
    others = logits.scatter(1, y.unsqueeze(1), float("-inf"))
    return others.amax(dim=1) - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio, (n,) (Croce & Hein 2020, eq. 6).

    -(z_y - max other) / (z_(1) - z_(3)), invariant to scaling and shifting of the logits. It needs
    a third class: with two, the margin stands in its place.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Return the targeted difference-of-logits ratio, (n,) (Croce & Hein 2020, eq. 7).

    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) for the class t = `towards` (n,). It needs a fourth
    class: with fewer, the difference z_t - z_y stands in its place.

    Raises:
        SettingError: A class leads towards itself.
    """
    if bool((towards == y).any()):
        raise SettingError("towards", "equal to y", "another class than y for each input")
    difference = _at(logits, towards) - _at(logits, y)
    if logits.shape[1] < 4:
        return difference
    ordered = logits.sort(dim=1, descending=True).values
    return difference / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit of each input's class, (n,)."""
    return logits.gather(1, classes.unsqueeze(1)).squeeze(1)


LOSSES: Mapping[LossName, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}
"""The losses that a setting may name."""
