"""How a model is asked, and which class it says: the one place that turns logits into classes.

The largest of NaNs is class 0 to `argmax`. So an answer without a largest finite logit is refused:
unseen, a broken model would be scored, and pass for right about that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from servax.errors import ServaxError


def classes_of(logits: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Return the classes (B,) that logits (B, C) say; minus infinity is a class ruled out.

    Args:
        logits: What the model answered.
        names: What the utterances are called, for the refusal.

    Raises:
        ServaxError: A logit is NaN, or the largest one of an utterance is infinite.
    """
    largest, classes = logits.max(dim=1)
    broken = ~largest.isfinite()
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        which = f"utterance {names[row]}" if len(names) else f"input {row}"
        raise ServaxError(
            f"the model's output for {which} is NaN or infinite ({int(broken.sum())} of "
            f"{len(logits)} in its batch), expected finite logits: check the model's weights, its "
            "precision and the range of the input."
        )
    return classes


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside the block, and each of its parts back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
