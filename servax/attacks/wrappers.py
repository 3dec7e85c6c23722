"""Models around a model: one counts what an attack costs, one computes gradients faster.

The fast mode takes gradients in bfloat16 and scores everything in float32. A gradient only points;
its sign is all that an L-inf step takes of it. In bfloat16 about one sign in seven is another, and
a pass costs about half where the processor multiplies bfloat16. What an attack has reached is
always judged in float32, so a fast attack can be weaker, but never look stronger than it is. It is
never the default, and its records are labelled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.kinds import Precision, typed


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
    if precision not in ("float32", "bfloat16"):
        raise SettingError.choice("gradients", precision, ("float32", "bfloat16"))
    return FastGradients(model) if precision == "bfloat16" else model


def labelled(name: str, precision: Precision) -> str:
    """Return the name under which records tell of a model attacked with such gradients.

    Example:
        >>> labelled("vgg16-w64", "bfloat16")
        'vgg16-w64 (bfloat16 gradients)'
    """
    return name if precision == "float32" else f"{name} ({precision} gradients)"
