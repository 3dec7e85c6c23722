"""How far and in which direction: balls, and the one projected-ascent loop."""

from servax.perturbation.ascent import Objective, ascend, input_gradient, into_reach
from servax.perturbation.balls import (
    L2,
    Ball,
    Limit,
    Linf,
    Masked,
    SignalToNoise,
    per_utterance,
    ratio_of,
)
from servax.perturbation.masking import PsychoacousticMask
from servax.perturbation.rounding import (
    Bounds,
    exact_change,
    held,
    in_reach,
    into_16_bit,
    into_16_bit_inside,
    into_ball,
    into_bounds,
    straight_through,
)
from servax.runtime.samples import STEP_16_BIT

__all__ = [
    "L2",
    "STEP_16_BIT",
    "Ball",
    "Bounds",
    "Limit",
    "Linf",
    "Masked",
    "Objective",
    "PsychoacousticMask",
    "SignalToNoise",
    "ascend",
    "exact_change",
    "held",
    "in_reach",
    "input_gradient",
    "into_16_bit",
    "into_16_bit_inside",
    "into_ball",
    "into_bounds",
    "into_reach",
    "per_utterance",
    "ratio_of",
    "straight_through",
]
