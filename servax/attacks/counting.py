"""What an attack costs: a model that counts the inputs it is asked about."""

from __future__ import annotations

from torch import Tensor, nn

from servax.kinds import typed


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
