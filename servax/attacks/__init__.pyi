from .auto_pgd import APGD as APGD, TargetedAPGD as TargetedAPGD
from .base import Attack as Attack, BallAttack as BallAttack, Problem as Problem
from .ensemble import (
    AutoAttack as AutoAttack,
    Ensemble as Ensemble,
    Outcome as Outcome,
    Restarts as Restarts,
)
from .foolbox import Foolbox as Foolbox
from .gradient import (
    FGSM as FGSM,
    PGD as PGD,
    DiversePGD as DiversePGD,
    MomentumPGD as MomentumPGD,
    RandomNoise as RandomNoise,
    class_loss as class_loss,
)
from .logits import (
    Counting as Counting,
    FastGradients as FastGradients,
    cross_entropy as cross_entropy,
    dlr as dlr,
    dlr_targeted as dlr_targeted,
    logits_of as logits_of,
    margin as margin,
)
from .score_based import NES as NES, SPSA as SPSA, Found as Found, QueryAttack as QueryAttack
from .square import Square as Square
from .universal import Universal as Universal
from .waveform import WaveformPGD as WaveformPGD
