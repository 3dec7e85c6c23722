"""What stands in front of a classifier, or how it is trained: purifiers, controls, objectives."""

from servax.defences.adversarial import (
    SCHEDULES,
    AdversarialTraining,
    MadryPGD,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.defences.codec import Codec
from servax.defences.defended import Defended
from servax.defences.denoiser import DenoiserTrainer, DenoiserTraining, train_denoiser
from servax.defences.detector import Detector, threshold_at
from servax.defences.knowledge import (
    Bpda,
    ExpectationOverDraws,
    StraightThrough,
    draws_until_flat,
    is_random,
)
from servax.defences.smoothing import Certificate, Smoothed, certify
from servax.defences.transforms import (
    GaussianNoise,
    MeanFilter,
    MedianFilter,
    Quantise,
    SpectrogramMasking,
)
from servax.defences.waveforms import LowPass, Resample

__all__ = [
    "SCHEDULES",
    "AdversarialTraining",
    "Bpda",
    "Certificate",
    "Codec",
    "Defended",
    "DenoiserTrainer",
    "DenoiserTraining",
    "Detector",
    "ExpectationOverDraws",
    "GaussianNoise",
    "LowPass",
    "MadryPGD",
    "MeanFilter",
    "MedianFilter",
    "Objective",
    "Quantise",
    "Resample",
    "Similarity",
    "Smoothed",
    "SpectrogramMasking",
    "StraightThrough",
    "Trades",
    "Vanilla",
    "certify",
    "draws_until_flat",
    "is_random",
    "threshold_at",
    "train_denoiser",
]
