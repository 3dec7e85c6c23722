"""How far and in which direction: balls, and the one projected-ascent loop."""

from servax.perturbation.ascent import Bounds, Objective, ascend, input_gradient, into_reach
from servax.perturbation.balls import L2, Ball, Linf, Masked, check_radius

__all__ = [
    "L2",
    "Ball",
    "Bounds",
    "Linf",
    "Masked",
    "Objective",
    "ascend",
    "check_radius",
    "input_gradient",
    "into_reach",
]
