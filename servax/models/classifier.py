"""What a classifier is to this library: any module from inputs to logits; and which class it says.

`classes_of` is the one place that turns logits into classes. The largest of NaNs is class 0 to
`argmax`. So an answer without a largest finite logit is refused: unseen, a broken model would be
scored, and pass for right about that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from servax.errors import ServaxError
from servax.features import check_waveforms
from servax.kinds import typed


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


class WaveformClassifier(nn.Module):
    """Maps waveforms (B, T) to logits (B, C), differentiably.

    Args:
        logmel: From (B, T) to what `classifier` takes, e.g. ``nn.Sequential(front_end, scale)``.
        classifier: From (B, 1, M, F) to logits (B, C).
    """

    @typed
    def __init__(self, logmel: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.logmel = logmel
        self.classifier = classifier

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        check_waveforms(waveform)
        # A copy, since the classifier may write into what it is given.
        logits: Tensor = self.classifier(self.logmel(waveform).clone())
        return logits
