"""Samples that a 16-bit WAV holds exactly: k / 32768 for a whole number k in [-32768, 32767].

A change of the waveform that is lost when the file is written is no attack. So the last step of an
attack rounds, and these functions round without leaving the ball that the attack may use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from servax.errors import SettingError
from servax.perturbation.balls import Ball
from servax.perturbation.rounding import Bounds, exact_change, moved_by

STEP = 2.0**-15
"""Distance of two neighbouring samples, with full scale at 1."""
HALVINGS = 12
"""How finely a change is shrunk until its rounded form fits into a ball, as a power of 1/2."""

Round = Callable[[Tensor], Tensor]
"""From waveforms (B, T) to 16-bit ones."""


def nearest(waveform: Tensor, bounds: Bounds = (-1.0, 1.0)) -> Tensor:
    """Return the nearest 16-bit samples inside `bounds`, shape and type of `waveform`.

    A type of fewer bits (bfloat16, float16) holds the nearest ones towards zero.
    """
    low = max(-(2.0**15), math.ceil(bounds[0] / STEP))
    high = min(2.0**15 - 1, math.floor(bounds[1] / STEP))
    whole = (waveform.double() / STEP).round().clamp(low, high) * STEP
    return moved_by(torch.zeros_like(waveform), whole)


def nearest_within(
    x: Tensor, moved: Tensor, epsilon: float, bounds: Bounds = (-1.0, 1.0)
) -> Tensor:
    """Return the 16-bit samples nearest to `moved` among those within `epsilon` of `x`.

    Args:
        x: Clean waveforms (B, T) inside `bounds`, 16-bit or not.
        moved: Waveforms (B, T).
        epsilon: Largest change of a sample; at least `STEP`, so that there always is one.
        bounds: Range of valid samples.
    """
    clean = x.double() / STEP
    reach = epsilon / STEP
    whole = (moved.double() / STEP).round()
    whole = torch.minimum(torch.maximum(whole, (clean - reach).ceil()), (clean + reach).floor())
    return moved_by(x, exact_change(x, nearest(whole * STEP, bounds)))


def shrunk_into(x: Tensor, moved: Tensor, ball: Ball, rounded: Round) -> Tensor:
    """Return 16-bit waveforms inside `ball` around `x`, in the direction of `moved`.

    Rounding makes a change longer. Where it leaves the ball, the change is shrunk before it is
    rounded, by bisection per utterance.

    Args:
        x: Clean waveforms (B, T).
        moved: Waveforms (B, T) inside the ball.
        ball: Allowed changes.
        rounded: `nearest`, with what must stay put back.

    Raises:
        SettingError: Rounding `x` itself leaves the ball.
    """
    change = moved - x
    best = rounded(x)
    distance = ball.norm(exact_change(x, best))
    if not bool((distance <= ball.radius).all()):
        row = int(distance.argmax())
        raise SettingError(
            f"the budget of utterance {row}",
            f"{float(ball.radius / distance[row]):.3g} of what rounding it to 16 bits takes",
            "at least 1: allow a larger change, or switch off sixteen_bit",
        )
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    share = high
    for _ in range(HALVINGS):
        candidate = rounded(x + share.unsqueeze(1) * change)
        fits = ball.norm(exact_change(x, candidate)) <= ball.radius
        best = torch.where(fits.unsqueeze(1), candidate, best)
        low, high = torch.where(fits, share, low), torch.where(fits, high, share)
        if bool((low == 1.0).all()):
            break
        share = 0.5 * (low + high)
    return best


def straight_through(waveform: Tensor, rounded: Round) -> Tensor:
    """Return `rounded(waveform)` with the gradient of `waveform` (Bengio et al. 2013)."""
    return waveform + (rounded(waveform.detach()) - waveform.detach())
