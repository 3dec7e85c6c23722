"""How far an input was moved, per utterance, in dB.

Inputs are waveforms (B, T), for which a signal-to-noise ratio is what a listener knows, or log-Mel
(B, 1, M, F) on [0, 1], for which it is a mere number and the largest change in dB says more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from servax.errors import ShapeError
from servax.features import Scaling


def signal_to_noise_ratio(x: Tensor, moved: Tensor) -> Tensor:
    """Return 10 log10(|x|² / |moved - x|²) of each utterance in dB, (B,) float64.

    Infinite where nothing moved, minus infinity where silence did.

    Args:
        x: Clean inputs (B, ...).
        moved: The same after a change, shape of `x`.

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    check_pair(x, moved)
    clean = x.double()
    signal, noise = (
        each.square().flatten(1).sum(dim=1) for each in (clean, moved.double() - clean)
    )
    ratio = 10.0 * torch.log10(signal / noise)
    return torch.where(noise == 0, torch.full_like(ratio, torch.inf), ratio)


def largest_change_db(x: Tensor, moved: Tensor, scale: Scaling) -> Tensor:
    """Return the largest change of a cell of each log-Mel in dB, (B,).

    Args:
        x: Clean log-Mel (B, 1, M, F) on [0, 1].
        moved: The same after a change.
        scale: What mapped dB to [0, 1].

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    check_pair(x, moved)
    change = scale.inverse(moved.double()) - scale.inverse(x.double())
    return change.abs().flatten(1).amax(dim=1)


def check_pair(x: Tensor, moved: Tensor) -> None:
    """Refuse inputs that do not belong together."""
    if x.ndim < 2 or x.numel() == 0:
        raise ShapeError("x", x.shape, "(B, ...) with at least one element")
    if moved.shape != x.shape:
        raise ShapeError("moved", moved.shape, f"{tuple(x.shape)}, the shape of x")
