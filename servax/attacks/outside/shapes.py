"""What square attacks of the libraries need to know of inputs that are not square."""

from __future__ import annotations

from torch import Tensor

SHARE = 0.8
"""Share of the input that the first square covers (Andriushchenko et al. 2020, for images)."""


def square_share(x: Tensor) -> float:
    """Return the share of inputs (n, ..., H, W) that the first square may cover: at most .8.

    A square of the published share is higher than a spectrogram with many frames; the libraries
    then fail, or draw places outside of the input.
    """
    height, width = x.shape[-2:] if x.ndim > 2 else (1, x.shape[-1])
    # One less than the shorter side, since the libraries draw places below height - side.
    side = max(min(height, width) - 1, 1)
    return min(SHARE, side**2 / (height * width))
