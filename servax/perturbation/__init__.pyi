from .ascent import (
    Objective as Objective,
    ascend as ascend,
    input_gradient as input_gradient,
    into_reach as into_reach,
)
from .balls import (
    L2 as L2,
    Ball as Ball,
    Limit as Limit,
    Linf as Linf,
    Masked as Masked,
    SignalToNoise as SignalToNoise,
    per_utterance as per_utterance,
    radius_of as radius_of,
    ratio_of as ratio_of,
)
from .masking import PsychoacousticMask as PsychoacousticMask
from .rounding import (
    Bounds as Bounds,
    exact_change as exact_change,
    held as held,
    in_reach as in_reach,
    into_16_bit as into_16_bit,
    into_16_bit_inside as into_16_bit_inside,
    into_ball as into_ball,
    into_bounds as into_bounds,
    straight_through as straight_through,
)
