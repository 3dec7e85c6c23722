"""Cheap input transforms: the controls that a trained purifier has to beat.

Each maps log-Mel (B, 1, M, F) on [0, 1] to the same. How gradients pass is part of each: filters,
noise and masks have exact ones; quantisation has none, so the identity stands in its place in the
backward pass (BPDA, Athalye et al. 2018), and attacks through it are labelled ``bpda``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.features import SpecAugment
from servax.kinds import typed


class GaussianNoise(nn.Module):
    """Adds white noise, then clamps to [0, 1].

    Args:
        standard_deviation: Of the noise, on the [0, 1] scale (.02 is 1.6 dB).
        generator: Draws the noise (on the CPU); each call draws anew.
    """

    knowledge = "adaptive"
    """An attack through it sees fresh noise at each step."""

    @typed
    def __init__(self, standard_deviation: float, generator: torch.Generator) -> None:
        super().__init__()
        if not 0 < standard_deviation <= 1:
            raise SettingError("standard_deviation", standard_deviation, "a number in (0, 1]")
        self.standard_deviation = standard_deviation
        self.generator = generator

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return noisy x."""
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)
        return (x + self.standard_deviation * noise).clamp(0.0, 1.0)


class MeanFilter(nn.Module):
    """Replaces each element by the mean of its neighbourhood; edges repeat their nearest value.

    Args:
        size: Side of the square neighbourhood in Mel bins and frames, odd.
    """

    knowledge = "adaptive"
    """Exact gradients."""

    @typed
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise SettingError("size", size, "an odd whole number")
        self.size = size

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return smoothed x."""
        edge = self.size // 2
        padded = nn.functional.pad(x, (edge, edge, edge, edge), mode="replicate")
        return nn.functional.avg_pool2d(padded, self.size, stride=1)


class MedianFilter(nn.Module):
    """Replaces each element by the median of its neighbourhood (feature squeezing, Xu et al. 2018).

    Edges repeat their nearest value.

    Args:
        size: Side of the square neighbourhood in Mel bins and frames, odd.
    """

    knowledge = "adaptive"
    """Exact gradients: that of the element which is the median."""

    @typed
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise SettingError("size", size, "an odd whole number")
        self.size = size

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return x without its outliers."""
        _check_spectrogram(x)
        edge = self.size // 2
        padded = nn.functional.pad(x, (edge, edge, edge, edge), mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)  # (B, 1, M, F, size, size)
        return windows.flatten(-2).median(-1).values


class SpectrogramMasking(nn.Module):
    """Hides random bands of Mel bins and of frames: SpecAugment's masks, but at inference.

    Args:
        mels: Widest band of Mel bins; 0 hides none.
        frames: Widest band of frames; 0 hides none.
        generator: Draws widths and places (on the CPU), anew for each utterance and each call.
        fill: What stands in a hidden element, on the [0, 1] scale; 0 is silence.
        bands: Number of bands of each kind.
    """

    knowledge = "adaptive"
    """Exact gradients per draw: an attack through it sees fresh bands at each step."""

    @typed
    def __init__(
        self,
        mels: int,
        frames: int,
        generator: torch.Generator,
        *,
        fill: float = 0.0,
        bands: int = 1,
    ) -> None:
        super().__init__()
        for name, width in (("mels", mels), ("frames", frames)):
            if width < 0:
                raise SettingError(name, width, "a whole number of at least 0")
        if mels == frames == 0:
            raise SettingError("mels, frames", (0, 0), "at least one above 0, or nothing is hidden")
        if not 0 <= fill <= 1:
            raise SettingError("fill", fill, "a number in [0, 1]")
        if bands < 1:
            raise SettingError("bands", bands, "a whole number of at least 1")
        self.masks = SpecAugment(
            time_masks=bands, time_width=frames, mel_masks=bands, mel_width=mels
        )
        self.fill = fill
        self.generator = generator

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return x with its hidden elements at the fill value."""
        _check_spectrogram(x)
        hidden = self.masks.draw(x.shape, self.generator).to(x.device)
        return x.masked_fill(hidden, self.fill)


class Quantise(nn.Module):
    """Rounds to 2**bits levels on [0, 1] (feature squeezing, Xu et al. 2018).

    Args:
        bits: Bits per element, in [1, 16].
    """

    knowledge = "bpda"
    """Rounding has no gradient: the backward pass takes the identity instead."""

    @typed
    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise SettingError("bits", bits, "a whole number in [1, 16]")
        self.bits = bits

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return rounded x, with the identity as its gradient."""
        levels = (1 << self.bits) - 1
        rounded = torch.round(x * levels) / levels
        return x + (rounded - x).detach()


def _check_spectrogram(x: Tensor) -> None:
    if x.ndim != 4:
        raise ShapeError("x", x.shape, "log-Mel (B, 1, M, F)")
