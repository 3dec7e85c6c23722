"""What the mean of a noisy model promises: no small change moves it, and how small is small.

Randomised smoothing (Cohen, Rosenfeld & Kolter, ICML 2019): the smoothed classifier g(x) is the
class that a base classifier f returns most often for x plus white Gaussian noise (eq. 1). Where
that class has a probability of at least p > 1/2, no change of x shorter than sigma Phi^-1(p) in the
Euclidean norm moves g (theorem 1, with p_B = 1 - p_A). The noise is not clamped: on clamped inputs
the theorem does not hold.

Of sound the noise is told as a signal-to-noise ratio, and so is the change, `certify_sound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.defences.random_models import noisy
from servax.errors import SettingError
from servax.features import check_tensor, check_waveforms
from servax.kinds import COUNT, DECIBELS, POSITIVE, Rule, typed
from servax.models import classes_of, evaluating
from servax.models.encoder import LEVEL_DBFS

ABSTAIN = -1
"""Stands in place of a class where no radius could be certified."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What randomised smoothing promises for each of B inputs."""

    prediction: Tensor
    """Class of the smoothed classifier, (B,) int64; `ABSTAIN` where none is sure enough."""
    radius: Tensor
    """Euclidean norm in the input's unit below which no change moves it, (B,) float64; 0 where it
    abstains."""

    @property
    def snr_db(self) -> Tensor:
        """Of `certify_sound`: signal-to-noise ratio in dB from which on no change moves it, (B,).

        Infinite where it abstains.
        """
        return -20.0 * self.radius.log10()

    @property
    def abstained(self) -> Tensor:
        """Where there is no prediction, (B,) bool."""
        return self.prediction == ABSTAIN

    def certified_accuracy(self, y: Tensor, radius: float) -> float:
        """Return the share of inputs that are right, and stay so under any change up to `radius`.

        Args:
            y: True classes (B,).
            radius: Euclidean norm in the input's unit.
        """
        right = (self.prediction == y.cpu()) & (self.radius > radius)
        return float(right.double().mean())


@typed
def certify(
    model: nn.Module,
    x: Tensor,
    *,
    standard_deviation: float,
    draws_to_select: int = 100,
    draws_to_estimate: int = 10_000,
    alpha: float = 0.001,
    generator: torch.Generator,
    batch_size: int = 100,
) -> Certificate:
    """Return a prediction and a radius for each input: algorithm CERTIFY of Cohen et al. 2019.

    Each certificate is wrong with a probability of at most `alpha`.

    Args:
        model: The base classifier f, from inputs (B, ...) to logits (B, C); in evaluation mode
            during the call.
        x: Inputs (B, ...).
        standard_deviation: Sigma, in the input's unit.
        draws_to_select: n0, noisy copies that choose the class.
        draws_to_estimate: n, further copies that bound its probability from below.
        alpha: Allowed probability of a wrong certificate.
        generator: Draws the noise (on the CPU).
        batch_size: Noisy copies in one pass.

    Raises:
        SettingError: A setting is outside its rule.
    """
    check_tensor("x", x)
    POSITIVE.check("standard_deviation", standard_deviation)
    COUNT.check("draws_to_select", draws_to_select)
    COUNT.check("draws_to_estimate", draws_to_estimate)
    COUNT.check("batch_size", batch_size)
    Rule("a probability in (0, 1)", lambda v: 0 < v < 1).check("alpha", alpha)

    def vote(clip: Tensor, draws: int) -> NDArray[np.int64]:
        """Return how often each class wins on noisy copies of an input (...): SampleUnderNoise."""
        counts = np.zeros(0, dtype=np.int64)
        for start in range(0, draws, batch_size):
            copies = clip.expand(min(batch_size, draws - start), *clip.shape)
            logits = logits_of(model, noisy(copies, standard_deviation, generator))
            found = np.bincount(classes_of(logits).cpu(), minlength=logits.shape[1])
            counts = counts + found if len(counts) else found
        return counts

    predictions, radii = [], []
    with evaluating(model), torch.no_grad():
        for clip in x.detach():
            top = int(vote(clip, draws_to_select).argmax())
            hits = int(vote(clip, draws_to_estimate)[top])
            p = lower_bound(hits, draws_to_estimate, alpha)
            predictions.append(top if p > 0.5 else ABSTAIN)
            radii.append(standard_deviation * float(stats.norm.ppf(p)) if p > 0.5 else 0.0)
    return Certificate(
        prediction=torch.tensor(predictions, dtype=torch.int64),
        radius=torch.tensor(radii, dtype=torch.float64),
    )


@typed
def certify_sound(
    model: nn.Module,
    x: Tensor,
    *,
    noise_db: float,
    draws_to_select: int = 100,
    draws_to_estimate: int = 10_000,
    alpha: float = 0.001,
    generator: torch.Generator,
    batch_size: int = 100,
) -> Certificate:
    """Return a prediction for each sound, and how large a share of it no change may be to move it.

    What is certified is the vote of `model` on sound that is brought to one level and then made
    noisy. The order matters: theorem 1 wants one sigma for x and every x + d, and noise so many dB
    below *each* sound grows and shrinks with d. Once both have unit length, sigma is one. A change
    of length |d| = r |x|, r < 1, turns the direction of x by at most arcsin r; on the unit sphere
    that is a chord of at most 2 sin(arcsin(r) / 2). It is shorter than a radius R where
    r < R sqrt(1 - R^2 / 4), which is what `Certificate.radius` says here.

    A model that brings its input to a level itself, as a recogniser on a speech encoder does, hears
    the same whether noise of a relative level is added before or behind another level: of it the
    certificate is one of plain noise, `noise_db` below the utterance.

    Args:
        model: The base classifier f, from waveforms (B, T) to logits (B, C).
        x: Sound (B, T), none of it silent.
        noise_db: How far the noise lies below the sound: ratio of their lengths, in dB.
        draws_to_select: As of `certify`, and so are the others.
        draws_to_estimate: As of `certify`.
        alpha: As of `certify`.
        generator: Draws the noise (on the CPU).
        batch_size: Noisy copies in one pass.

    Raises:
        SettingError: A setting is outside its rule, or a sound is silent.
        ShapeError: x is not (B, T).
    """
    check_waveforms(x)
    DECIBELS.check("noise_db", noise_db)
    level = 10.0 ** (LEVEL_DBFS / 20.0)
    rms = x.double().square().mean(dim=1, keepdim=True).sqrt()
    if not bool((rms > 0).all()):
        raise SettingError("x", "silent", "sound: a change has no size beside silence")
    found = certify(
        model,
        (x.double() * (level / rms)).to(x.dtype),
        standard_deviation=level * 10.0 ** (-noise_db / 20.0),
        draws_to_select=draws_to_select,
        draws_to_estimate=draws_to_estimate,
        alpha=alpha,
        generator=generator,
        batch_size=batch_size,
    )
    # In units of the sound's own length; beyond a quarter turn nothing is known.
    chord = (found.radius / (level * math.sqrt(x.shape[1]))).clamp(max=math.sqrt(2.0))
    return replace(found, radius=chord * (1.0 - chord.square() / 4.0).sqrt())


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """Return a bound that a binomial probability exceeds with a probability of 1 - alpha.

    One-sided and exact (Clopper & Pearson 1934): LowerConfBound of Cohen et al. 2019.
    """
    return float(stats.beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0
