"""Checks of inputs: is what was scored inside the ball and the bounds, also once it is a file?"""

from __future__ import annotations

import torch
from torch import Tensor

from servax.errors import ShapeError
from servax.evaluation.checks.finding import Finding, Severity, percent
from servax.evaluation.realisability import wav_round_trip
from servax.perturbation import Ball, Bounds
from servax.perturbation.sixteen_bit import STEP


def inside_ball(
    x: Tensor,
    adversarial: Tensor,
    *,
    ball: Ball,
    bounds: Bounds,
    subject: str,
    sample_rate: int | None = None,
) -> Finding:
    """Say whether adversarial inputs are inside ball and bounds, and still are as 16-bit WAV files.

    `error`: some are outside, by more than rounding, or as WAV files by more than one 16-bit step
    per sample. By less is what writing a file does to any sound: the sentence tells it.

    Args:
        x: Clean inputs (B, ...).
        adversarial: What the attack returned, (B, ...).
        ball: The changes that it may make.
        bounds: Range of valid inputs.
        subject: Name of the system.
        sample_rate: In hertz; given, the inputs are waveforms (B, T) and are written and read.

    Raises:
        ShapeError: The two do not have one shape, or are no waveforms although a rate is given.
    """
    if adversarial.shape != x.shape:
        raise ShapeError("adversarial", adversarial.shape, f"{tuple(x.shape)}, that of x")
    outside = int(((adversarial < bounds[0]) | (adversarial > bounds[1])).sum())
    distance = float(ball.norm(adversarial - x).max())
    evidence = {"radius": ball.radius, "distance": distance, "elements_out_of_bounds": outside}
    told = f"At most {distance:.6g} from the clean input (radius {ball.radius:g})"
    told += f", {outside} elements out of bounds"
    inside = distance <= _limit(x, ball, 0.0) and not outside
    severity: Severity = "passed" if inside else "error"
    if sample_rate is not None:
        if x.ndim != 2:
            raise ShapeError("adversarial", x.shape, "waveforms (B, T), or no sample_rate")
        written = float(ball.norm(wav_round_trip(adversarial, sample_rate) - x).max())
        evidence["distance_as_wav"] = written
        told += f"; {written:.6g} once written as 16-bit WAV"
        if inside and not written <= _limit(x, ball, 0.0):
            told += ", by the rounding of the file alone" * (written <= _limit(x, ball, STEP))
            severity = "passed" if written <= _limit(x, ball, STEP) else "error"
    return Finding("inside-ball", subject, severity, f"{told}.", evidence)


def _limit(x: Tensor, ball: Ball, step: float) -> float:
    """Return the radius with room for rounding, and for `step` in each element."""
    rounding = 4.0 * torch.finfo(x.dtype).eps * (float(x.abs().max()) + ball.radius)
    slack = float(ball.norm(torch.full_like(x[:1], rounding + step)))
    return ball.radius * (1 + 1e-5) + slack


def clip_keeps_clean(x: Tensor, *, bounds: Bounds, subject: str) -> Finding:
    """Say whether clean inputs are inside the bounds: clipping changes none of them.

    `error`: it changes some, so that an attack clips away part of the input for free, or refuses
    it.
    """
    moved = (x.clamp(*bounds) - x).abs()
    changed, furthest = float((moved != 0).double().mean()), float(moved.max())
    told = (
        f"Clipping to [{bounds[0]:g}, {bounds[1]:g}] changes {percent(changed)} of the elements of "
        f"clean inputs, by at most {furthest:.3g}."
    )
    evidence = {"changed": changed, "furthest": furthest, "bounds": list(bounds)}
    severity: Severity = "error" if changed else "passed"
    return Finding("clip-keeps-clean", subject, severity, told, evidence)
