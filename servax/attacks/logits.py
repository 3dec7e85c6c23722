"""What a model answers an attack: its logits, checked; losses of them; what asking costs.

Losses may be read for any K >= 2 classes, and grow as the logits (n, K) leave the classes (n,).
Where the model is fooled another class has the highest logit: all but cross-entropy cross zero
there.

`Counting` and `FastGradients` are the same model again. The fast one takes gradients in bfloat16
and scores everything in float32. A gradient only points; its sign is all that an L-inf step takes
of it. In bfloat16 about one sign in seven is another, and a pass costs about half where the
processor multiplies bfloat16. What an attack has reached is always judged in float32, so a fast
attack can be weaker, but never look stronger than it is. It is never the default, and its records
are labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import Choice, Precision, typed

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, K) and classes (n,) to a value (n,) that rises as the model leaves the class."""
LossName = Literal["cross-entropy", "margin", "dlr"]


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


class Counting(nn.Module):
    """The same model, counting rows: an utterance asked about twice counts two.

    The counts are sums over whatever batches came by; `forward_rows` is what the literature calls
    queries, `backward_rows` the gradients among them.

    Example:
        >>> import torch
        >>> model = Counting(nn.Flatten())
        >>> _ = model(torch.zeros(3, 1, 2))
        >>> model.forward_rows, model.backward_rows
        (3, 0)
    """

    @typed
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_rows = 0
        self.backward_rows = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model returns for inputs (B, ...), and count B rows."""
        rows = len(x)
        self.forward_rows += rows
        logits: Tensor = self.model(x)

        def count(_: Tensor) -> None:
            self.backward_rows += rows

        # What is no tensor is refused by whoever asked.
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits

    def reset(self) -> None:
        """Start counting anew."""
        self.forward_rows = 0
        self.backward_rows = 0


class FastGradients(nn.Module):
    """The same model, whose passes that lead to a gradient compute in bfloat16.

    Passes without a gradient stay in float32, and logits are float32 always.

    Args:
        model: From inputs (B, ...) to logits (B, C).

    Example:
        >>> import torch
        >>> model = FastGradients(nn.Sequential(nn.Flatten(), nn.Linear(2, 3)))
        >>> model(torch.zeros(1, 2, requires_grad=True)).dtype
        torch.float32
    """

    @typed
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs (B, ...)."""
        leads_back = torch.is_grad_enabled() and x.requires_grad
        with torch.autocast(x.device.type, torch.bfloat16, enabled=leads_back):
            logits: Tensor = self.model(x)
        # What is no tensor is refused by whoever asked.
        return logits.float() if leads_back and isinstance(logits, Tensor) else logits


def with_gradients(model: nn.Module, precision: Precision) -> nn.Module:
    """Return a model whose gradients are computed in `precision`: itself in float32."""
    Choice(get_args(Precision)).check("gradients", precision)
    return FastGradients(model) if precision == "bfloat16" else model


def labelled(name: str, precision: Precision) -> str:
    """Return the name under which records tell of a model attacked with such gradients.

    Example:
        >>> labelled("vgg16-w64", "bfloat16")
        'vgg16-w64 (bfloat16 gradients)'
    """
    return name if precision == "float32" else f"{name} ({precision} gradients)"
