"""Rounding that leaves neither the ball nor the bounds: to the type of the inputs, and to 16 bits.

x + change has to be a number of the type of x. In bfloat16 the neighbours of .5 are .0039 away: the
nearest one may lie far outside a ball of .003, and in float32 an ulp outside. So what must be
rounded is rounded towards x. Distances are those of float64, which holds the difference of two
numbers of a narrower type.

A 16-bit WAV holds k / 32768 exactly, for whole numbers k in [-32768, 32767]. A change of the
waveform that is lost when the file is written is no attack, so the last step of one rounds too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from servax.errors import ServaxError, SettingError
from servax.perturbation.balls import Ball, Linf, Masked, per_utterance
from servax.runtime.samples import STEP_16_BIT

Bounds = tuple[float, float]
"""Lowest and highest value of a valid input."""
DOUBT = 2.0**-20
"""How near to a border, as a share of the radius, float64 must decide."""
PIECE = 2**15
"""How many elements are brought back at a time."""
SHRUNK = 1.0 - 2.0**-40
"""What a scaled change is scaled by once more: sums of squares are rounded too."""
HALVINGS = 12
"""How finely a change is shrunk until its rounded form fits into a ball, as a power of 1/2."""

Round = Callable[[Tensor], Tensor]
"""From waveforms (B, T) to 16-bit ones."""


def exact_change(x: Tensor, moved: Tensor) -> Tensor:
    """Return `moved` - `x`, (B, ...) in float64, in memory of its own."""
    return moved.to(torch.float64, copy=True).sub_(x)


def moved_by(x: Tensor, change: Tensor) -> Tensor:
    """Return the numbers of the type of `x` nearest to x + change that are no further from `x`.

    Args:
        x: Inputs (B, ...).
        change: By how much they should move, (B, ...) in float64.
    """
    nearest = (change + x).to(x.dtype)
    further = exact_change(x, nearest).abs_() > change.abs()
    return torch.where(further, torch.nextafter(nearest, x), nearest)


def into_ball(x: Tensor, moved: Tensor, ball: Ball) -> Tensor:
    """Return inputs (B, ...) with what rounding carried out of the ball around `x` brought back.

    Utterances inside the ball, and elements that may be as they are, keep every bit.
    """
    quick = _into_cube(x, moved, ball)
    if quick is not None:
        return quick
    change = exact_change(x, moved)
    # In whatever norm an element beyond the radius is outside; mostly by one step of its type.
    beyond = change.abs() > ball.radius
    if bool(beyond.any()):
        moved = torch.where(beyond, torch.nextafter(moved, x), moved)
        change = exact_change(x, moved)
    outside = ~(ball.norm(change) <= ball.radius)
    if not bool(outside.any()):
        return moved
    allowed = ball.project(change)
    stays = (allowed == change) | ~per_utterance(outside, x)
    return torch.where(stays, moved, moved_by(x, allowed.mul_(SHRUNK)))


def _into_cube(x: Tensor, moved: Tensor, ball: Ball) -> Tensor | None:
    """Return what `into_ball` does of float32 in an L-inf ball, several times faster.

    None where one step towards `x` is not enough, or where elements change that a mask shuts.
    """
    inner = ball.ball if isinstance(ball, Masked) else ball
    if not (isinstance(inner, Linf) and x.dtype == moved.dtype == torch.float32):
        return None
    if not moved.numel():  # all utterances have left
        return moved
    if isinstance(ball, Masked) and bool(((moved != x) & ~ball.mask).any()):
        return None
    done: list[Tensor] = []
    # Bit by bit, since what fits into the cache of a processor is done in a third of the time;
    # one input may stand for many changes of it.
    parts = (torch.split(each.flatten(), PIECE) for each in (x.expand_as(moved), moved))
    for clean, part in zip(*parts, strict=True):
        stepped = _stepped_inside(clean, part, inner.radius)
        if stepped is None:
            return None
        done.append(stepped)
    return torch.cat(done).view_as(moved)


def _stepped_inside(x: Tensor, moved: Tensor, radius: float) -> Tensor | None:
    """Return float32 elements (n,), those beyond `radius` one step of their type nearer to `x`.

    None where an element is beyond it still.
    """
    if float((moved - x).abs_().amax()) < radius * (1.0 - DOUBT):
        return moved
    excess = exact_change(x, moved).abs_().sub_(radius)
    if float(excess.amax()) <= 0:
        return moved
    beyond = excess.float().sign_().clamp_(min=0.0)
    step = torch.nextafter(moved, x).sub_(moved).mul_(beyond)
    inside = float(excess.sub_(step.abs()).amax()) <= 0  # NaN is not
    return moved + step if inside else None


def into_bounds(x: Tensor, moved: Tensor, bounds: Bounds) -> Tensor:
    """Return inputs (B, ...) clamped to `bounds`, to numbers of their type inside them.

    An `x` that is the rounded bound itself may stay where it is.
    """
    low, high = inside = _representable(bounds, x.dtype)
    if inside == tuple(map(float, torch.tensor(bounds, dtype=x.dtype))):
        return moved.clamp(low, high)
    return torch.minimum(torch.maximum(moved, x.clamp(max=low)), x.clamp(min=high))


def in_reach(x: Tensor, moved: Tensor, ball: Ball, bounds: Bounds) -> bool:
    """Return whether inputs (B, ...) are in the ball around `x` and in `bounds`, without slack."""
    low, high = _representable(bounds, x.dtype)
    near = ball.norm(exact_change(x, moved)) <= ball.radius
    valid = (moved >= x.clamp(max=low)) & (moved <= x.clamp(min=high))
    return bool(near.all()) and bool(valid.all())


def held(x: Tensor, adversarial: Tensor, ball: Ball, bounds: Bounds) -> Tensor:
    """Return what an attack made, inside its ball and bounds without slack.

    What the last sum of an attack rounded out of them is taken back, as `into_reach` does; an
    attack that left them by more is refused, since its figures would mean nothing.

    Raises:
        ServaxError: It left its ball or the bounds by more than rounding.
    """
    if in_reach(x, adversarial, ball, bounds):
        return adversarial
    # Rounding grows with the size of the numbers, and its norm with their count.
    size = torch.maximum(x.abs(), adversarial.abs()).flatten(1).amax(dim=1)
    rounding = 4.0 * torch.finfo(x.dtype).eps * size
    # A mask makes the norm of any change outside it infinite, that of rounding too.
    unmasked = ball.ball if isinstance(ball, Masked) else ball
    slack = unmasked.norm(per_utterance(rounding, x).expand_as(x))
    distances = ball.norm(exact_change(x, adversarial))
    near = (distances <= ball.radius * (1 + 1e-5) + slack) & distances.isfinite()
    if bool(near.all()) and bool(((adversarial >= bounds[0]) & (adversarial <= bounds[1])).all()):
        back = into_ball(x, into_bounds(x, adversarial, bounds), ball)
        if in_reach(x, back, ball, bounds):
            return back
    raise ServaxError(
        f"the attack left its reach: distance {float(distances.max()):.6g} from the clean input, "
        f"expected at most {ball.radius:g}, values expected in [{bounds[0]:g}, {bounds[1]:g}]."
    )


def into_16_bit(waveform: Tensor, bounds: Bounds = (-1.0, 1.0)) -> Tensor:
    """Return the nearest 16-bit samples inside `bounds`, shape and type of `waveform`.

    A type of fewer bits (bfloat16, float16) holds the nearest ones towards zero.
    """
    low = max(-(2.0**15), math.ceil(bounds[0] / STEP_16_BIT))
    high = min(2.0**15 - 1, math.floor(bounds[1] / STEP_16_BIT))
    whole = (waveform.double() / STEP_16_BIT).round().clamp(low, high) * STEP_16_BIT
    return moved_by(torch.zeros_like(waveform), whole)


def into_16_bit_within(
    x: Tensor, moved: Tensor, epsilon: float, bounds: Bounds = (-1.0, 1.0)
) -> Tensor:
    """Return the 16-bit samples nearest to `moved` among those within `epsilon` of `x`.

    Args:
        x: Clean waveforms (B, T) inside `bounds`, 16-bit or not.
        moved: Waveforms (B, T).
        epsilon: Largest change of a sample; at least `STEP_16_BIT`, so that there always is one.
        bounds: Range of valid samples.
    """
    clean = x.double() / STEP_16_BIT
    reach = epsilon / STEP_16_BIT
    whole = (moved.double() / STEP_16_BIT).round()
    whole = torch.minimum(torch.maximum(whole, (clean - reach).ceil()), (clean + reach).floor())
    return moved_by(x, exact_change(x, into_16_bit(whole * STEP_16_BIT, bounds)))


def into_16_bit_inside(
    x: Tensor, moved: Tensor, ball: Ball, bounds: Bounds, mask: Tensor | None = None
) -> Tensor:
    """Return 16-bit samples near `moved` that lie in `ball` around `x` and in `bounds`, exactly.

    Args:
        x: Clean waveforms (B, T) inside `bounds`, 16-bit or not.
        moved: Waveforms (B, T); in a ball other than L-inf they must be inside it.
        ball: Allowed changes, before the mask.
        bounds: Range of valid samples.
        mask: Where a sample may change, broadcastable to `x`; the others keep their clean values.

    Raises:
        SettingError: Rounding a clean waveform alone leaves the ball.
    """

    def put_back(z: Tensor) -> Tensor:
        return z if mask is None else torch.where(mask, z, x)

    if isinstance(ball, Linf):
        return put_back(into_16_bit_within(x, moved, ball.radius, bounds))
    return shrunk_into(x, moved, ball, lambda z: put_back(into_16_bit(z, bounds)))


def shrunk_into(x: Tensor, moved: Tensor, ball: Ball, rounded: Round) -> Tensor:
    """Return 16-bit waveforms inside `ball` around `x`, in the direction of `moved`.

    Rounding makes a change longer. Where it leaves the ball, the change is shrunk before it is
    rounded, by bisection per utterance.

    Args:
        x: Clean waveforms (B, T).
        moved: Waveforms (B, T) inside the ball.
        ball: Allowed changes.
        rounded: `into_16_bit`, with what must stay put back.

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


def straight_through(x: Tensor, stepped: Tensor) -> Tensor:
    """Return `stepped`, exactly, with the gradient of `x` (Bengio et al. 2013)."""
    return stepped + (x - x.detach())


def _representable(bounds: Bounds, dtype: torch.dtype) -> Bounds:
    """Return the lowest and the highest number of a type inside bounds."""
    low, high = (torch.tensor(bound, dtype=dtype) for bound in bounds)
    if float(low) < bounds[0]:
        low = torch.nextafter(low, torch.full_like(low, float("inf")))
    if float(high) > bounds[1]:
        high = torch.nextafter(high, torch.full_like(high, float("-inf")))
    return float(low), float(high)
