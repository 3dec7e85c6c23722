"""What an attack raises: values (n,) that grow as the logits (n, K) leave the classes (n,).

All may be read for any K >= 2. `fooled` means that another class has the highest logit, which is
where `margin`, `dlr` and `dlr_targeted` cross zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from servax.attacks.problem import Loss
from servax.errors import SettingError

LossName = Literal["cross-entropy", "margin", "dlr"]


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
